"""Runs, tasks and engines as clients see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from google.protobuf.timestamp_pb2 import Timestamp

from perdure import wire
from perdure.model import RunStatus, TaskStatus
from perdure.v1 import failure_pb2, system_service_pb2, workflow_pb2, workflow_service_pb2


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
