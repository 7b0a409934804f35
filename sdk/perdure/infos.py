"""Runs, tasks, actors and engines as clients see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from perdure import wire
from perdure.model import RunStatus, TaskStatus
from perdure.v1 import (
    actor_service_pb2,
    failure_pb2,
    function_service_pb2,
    system_service_pb2,
    workflow_pb2,
    workflow_service_pb2,
)


def _seconds(duration: Duration) -> float:
    return wire.from_duration(duration) / 1000


def _moment(stamp: Timestamp, is_set: bool) -> datetime | None:
    return wire.to_datetime(wire.from_timestamp(stamp)) if is_set else None


def _text(failure: failure_pb2.Failure) -> str:
    return f"{failure.type}: {failure.message}"


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run. The counts of tasks are None in lists. `error` says why it failed or was canceled, else "". `waiting`
    says what its first READY task waits for; "" if there is none, if it is unknown, and in lists."""

    workflow_id: str
    run_id: str
    status: RunStatus
    name: str
    labels: Mapping[str, str]
    created: datetime | None
    started: datetime | None
    ended: datetime | None
    resumes: int
    tasks: int | None
    tasks_running: int | None
    tasks_successful: int | None
    tasks_failed: int | None
    error: str
    waiting: str = ""

    @classmethod
    def from_proto(cls, message: workflow_pb2.Workflow) -> Self:
        counts = message.tasks if message.HasField("tasks") else None
        return cls(
            workflow_id=message.workflow_id,
            run_id=message.run_id,
            status=wire.run_status(message.status),
            name=message.name,
            labels=dict(message.labels),
            created=_moment(message.create_time, message.HasField("create_time")),
            started=_moment(message.start_time, message.HasField("start_time")),
            ended=_moment(message.end_time, message.HasField("end_time")),
            resumes=message.resume_count,
            tasks=counts.total if counts is not None else None,
            tasks_running=counts.running if counts is not None else None,
            tasks_successful=counts.successful if counts is not None else None,
            tasks_failed=counts.failed if counts is not None else None,
            error=_text(message.failure) if message.HasField("failure") else "",
            waiting=message.waiting.text,
        )


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task. `error` is the text of its last failure, "" if it has none; `checkpointed`: its output is durable.
    `waiting` says why a READY task waits, or for which event or time a waiting task waits; "" if that is unknown."""

    task_id: str
    parent_task_id: str
    function: str
    status: TaskStatus
    attempts: int
    started: datetime | None
    ended: datetime | None
    output_bytes: int
    checkpointed: bool
    error: str
    waiting: str = ""

    @classmethod
    def from_proto(cls, message: workflow_pb2.Task) -> Self:
        return cls(
            task_id=message.task_id,
            parent_task_id=message.parent_task_id,
            function=message.function_name,
            status=wire.task_status(message.status),
            attempts=message.attempts,
            started=_moment(message.start_time, message.HasField("start_time")),
            ended=_moment(message.end_time, message.HasField("end_time")),
            output_bytes=message.output_size_bytes,
            checkpointed=message.checkpointed,
            error=_text(message.last_failure) if message.HasField("last_failure") else "",
            waiting=message.waiting.text,
        )


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """An engine. `expires`: when it is declared dead unless it renews its lease; None: it has no lease."""

    engine_id: str
    name: str
    address: str
    version: str
    started: datetime | None
    expires: datetime | None
    is_dead: bool

    @classmethod
    def from_proto(cls, message: system_service_pb2.Engine) -> Self:
        return cls(
            engine_id=message.engine_id,
            name=message.name,
            address=message.address,
            version=message.version,
            started=_moment(message.start_time, message.HasField("start_time")),
            expires=_moment(message.expire_time, message.HasField("expire_time")),
            is_dead=message.dead,
        )


@dataclass(frozen=True, slots=True)
class Update:
    """A change of a watched run: the run or a task after the change. If both are None, the run was deleted."""

    run: RunInfo | None = None
    task: TaskInfo | None = None

    @classmethod
    def from_proto(cls, event: workflow_service_pb2.WatchEvent) -> Self:
        match event.WhichOneof("kind"):
            case "workflow":
                return cls(run=RunInfo.from_proto(event.workflow))
            case "task":
                return cls(task=TaskInfo.from_proto(event.task.task))
            case _:
                return cls()


@dataclass(frozen=True, slots=True)
class ActorInfo:
    """A virtual actor. `status` is CREATING, READY or FAILED, and `error` says why it failed, else "". `revision` grows
    whenever a call changes the state; it, `pending_calls` and `readonly_methods` are 0 and empty in lists. `waiting`
    says why its constructor or the call that has its turn has not begun; "" if that is unknown, and in lists. `ttl` is
    the time in seconds after which it is deleted if nobody calls it; None if it is not, and in lists. `call_retention`
    is the time in seconds for which results of its calls are kept; None in lists."""

    actor_id: str
    class_name: str
    status: str
    revision: int
    pending_calls: int
    readonly_methods: tuple[str, ...]
    labels: Mapping[str, str]
    created: datetime | None
    error: str
    waiting: str = ""
    ttl: float | None = None
    call_retention: float | None = None

    @property
    def is_creating(self) -> bool:
        """Whether its constructor has not ended."""
        return self.status == "CREATING"

    @classmethod
    def from_proto(cls, message: actor_service_pb2.Actor) -> Self:
        return cls(
            actor_id=message.actor_id,
            class_name=message.class_name,
            status=actor_service_pb2.ActorStatus.Name(message.status).removeprefix("ACTOR_STATUS_"),
            revision=message.revision,
            pending_calls=message.pending_calls,
            readonly_methods=tuple(message.readonly_methods),
            labels=dict(message.labels),
            created=_moment(message.create_time, message.HasField("create_time")),
            error=_text(message.failure) if message.HasField("failure") else "",
            waiting=message.waiting.text,
            ttl=_seconds(message.ttl) if message.HasField("ttl") else None,
            call_retention=_seconds(message.call_retention) if message.HasField("call_retention") else None,
        )


@dataclass(frozen=True, slots=True)
class ActorCallInfo:
    """A recorded call of an actor. `status` is WAITING, RUNNING, SUCCESSFUL or FAILED. `method` is "" for a call that
    ended before the actor was loaded last. `attempts` have begun. `error` says why it failed, else "". `waiting` says
    why it has not begun although it has its turn; "" if that is unknown."""

    call_id: str
    method: str
    status: str
    attempts: int
    started: datetime | None
    ended: datetime | None
    error: str
    waiting: str = ""

    @classmethod
    def from_proto(cls, message: actor_service_pb2.ActorCall) -> Self:
        return cls(
            call_id=message.call_id,
            method=message.method,
            status=actor_service_pb2.ActorCallStatus.Name(message.status).removeprefix("ACTOR_CALL_STATUS_"),
            attempts=message.attempt,
            started=_moment(message.start_time, message.HasField("start_time")),
            ended=_moment(message.end_time, message.HasField("end_time")),
            error=_text(message.failure) if message.HasField("failure") else "",
            waiting=message.waiting.text,
        )


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """A method of a registered class of actors. The schemas are those of `FunctionInfo`."""

    name: str
    readonly: bool
    description: str
    arguments_schema: str
    result_schema: str


@dataclass(frozen=True, slots=True)
class FunctionInfo:
    """A function that clients may call by name. `kind` is "task" or "actor". The schemas are JSON Schemas as texts: of
    an object of the arguments by name, and of the result ("" if it is not known, or a graph). `is_served`: a worker of
    the engine that answered has it."""

    name: str
    version: str
    kind: str
    description: str
    arguments_schema: str
    result_schema: str
    methods: tuple[MethodInfo, ...]
    module: str
    announced: datetime | None
    is_served: bool

    @classmethod
    def from_proto(cls, message: function_service_pb2.FunctionInfo) -> Self:
        kind = function_service_pb2.FunctionKind.Name(message.kind).removeprefix("FUNCTION_KIND_").lower()
        return cls(
            message.name,
            message.version,
            kind,
            message.description,
            message.arguments_schema,
            message.result_schema,
            tuple(
                MethodInfo(each.name, each.readonly, each.description, each.arguments_schema, each.result_schema)
                for each in message.methods
            ),
            message.module,
            _moment(message.announce_time, message.HasField("announce_time")),
            message.is_served,
        )
