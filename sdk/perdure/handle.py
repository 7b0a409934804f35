"""A handle of one run: its state, its value, its tasks, and operations on it.

Waiting is a series of long polls, so it survives restarts of the engine.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration

from perdure import codec, errors, failures, runtimeenv, snapshots, texts, wire
from perdure.blobs import BlockingBlobs
from perdure.graph import TaskNode
from perdure.ids import time_ordered_id
from perdure.infos import RunInfo, TaskInfo, Update
from perdure.model import REQUEST_ID_CHARS_MAX, WAITED, Failure, FailureKind, Payload, RunStatus, TaskStatus, Waited
from perdure.transport import POLL_S, Absence, waited
from perdure.v1 import workflow_pb2, workflow_service_pb2
from perdure.values import Decode, Values


class Handle:
    """A run, by its ids. Making a handle makes no call."""

    def __init__(self, values: Values, workflow_id: str, run_id: str = "") -> None:
        self.workflow_id = texts.name(workflow_id, "workflow_id")
        self.run_id = texts.name(run_id, "run_id", required=False)
        self._values = values
        self._transport = values.transport

    def __repr__(self) -> str:
        return f"<perdure workflow {self.workflow_id!r} at {self._transport.address}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a handle cannot be passed to a task: pass the node, the workflow id or the output")

    async def status(self) -> RunInfo:
        """The run as it is now."""
        request = workflow_service_pb2.GetStatusRequest(
            namespace=self._transport.namespace, workflow_id=self.workflow_id
        )
        answer = await self._transport.call(lambda: self._transport.workflows.GetStatus(request))
        return RunInfo.from_proto(answer.workflow)

    async def output(self, task_id: str | None = None, *, timeout: float | None = None) -> Any:
        """The value of the run, or of one of its tasks; waits for it.

        Raises WorkflowExecutionError or WorkflowCancellationError if there will be none, TimeoutError
        after `timeout` seconds, TaskNotFoundError if the run ends without such a task.
        """
        return await value_or_error(self, await self.outcome(task_id, timeout=timeout))

    def _error_of(self, failure: Failure) -> errors.WorkflowExecutionError:
        if failure.kind is FailureKind.CANCELED:
            return errors.WorkflowCancellationError(self.workflow_id, failure)
        error = errors.WorkflowExecutionError(self.workflow_id, failure)
        error.__cause__ = failures.to_exception(failure)
        return error

    async def outcome(self, task_id: str | None = None, *, timeout: float | None = None) -> Payload | Failure:
        """The stored value or failure of which `output` is made. Raises TimeoutError and TaskNotFoundError as
        `output`."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        named = texts.optional(task_id, "task_id")
        while True:
            left = POLL_S if deadline is None else min(POLL_S, max(deadline - loop.time(), 0))
            request = workflow_service_pb2.GetOutputRequest(
                namespace=self._transport.namespace,
                workflow_id=self.workflow_id,
                run_id=self.run_id,
                task_id=named,
                wait=Duration(seconds=int(left), nanos=int(left % 1 * 1e9)),
                include_error_object=True,
            )
            answer = await self._transport.call(partial(self._transport.workflows.GetOutput, request))
            if answer.done:
                return wire.outcome_from_proto(answer.outcome)
            if deadline is not None and loop.time() >= deadline:
                raise TimeoutError(f"workflow {self.workflow_id!r} had no output after {timeout} s")

    async def value_of(self, payload: Payload, decode: Decode = codec.decode) -> Any:
        """Like Client.value_of, but also resolves the values that a `wait` names. `decode` decodes a payload and the
        bytes of its blob."""
        if payload.encoding in (WAITED, codec.OUTCOME) and payload.blob is not None:
            payload = replace(payload, data=bytes(await self._values.blobs.load(payload.blob)), blob=None)
        if payload.encoding == WAITED:
            waited = Waited.from_payload(payload)
            ready = [await self._value_of_task(task_id, decode) for task_id, _, _ in waited.ready]
            return ready, [TaskNode(task_id) for task_id in waited.remaining]
        if payload.encoding == codec.OUTCOME:
            outcome = wire.outcome_from_proto(workflow_pb2.Outcome.FromString(payload.data))
            if isinstance(outcome, Payload):
                return await self.value_of(outcome, decode), None
        return await self._values.value_of(payload, decode)

    async def _value_of_task(self, task_id: str, decode: Decode) -> Any:
        outcome = await self.outcome(task_id)
        if isinstance(outcome, Failure):  # it had a value when the wait ended
            raise errors.WorkflowExecutionError(self.workflow_id, outcome) from failures.to_exception(outcome)
        return await self.value_of(outcome, decode)

    async def metadata(self, task_id: str | None = None) -> workflow_pb2.Metadata:
        """User metadata, options and times of the run or of a task."""
        named = texts.optional(task_id, "task_id")
        request = workflow_service_pb2.GetMetadataRequest(
            namespace=self._transport.namespace, workflow_id=self.workflow_id, task_id=named
        )
        return (await self._transport.call(lambda: self._transport.workflows.GetMetadata(request))).metadata

    async def tasks(self, *statuses: TaskStatus) -> AsyncIterator[TaskInfo]:
        """The tasks, in the order in which they became known."""
        token = ""
        while True:
            request = workflow_service_pb2.ListTasksRequest(
                namespace=self._transport.namespace,
                workflow_id=self.workflow_id,
                page_token=token,
                page_size=1000,
                statuses=[wire.TASK_STATUS[status] for status in statuses],
            )
            answer = await self._transport.call(partial(self._transport.workflows.ListTasks, request))
            for task in answer.tasks:
                yield TaskInfo.from_proto(task)
            token = answer.next_page_token
            if not token:
                return

    async def watch(self, *, include_tasks: bool = True) -> AsyncIterator[Update]:
        """The run and its tasks as they are now, then after each change, until the run ends. Reconnects by itself."""
        token = ""
        absence = Absence(self._transport)
        while True:
            request = workflow_service_pb2.WatchRequest(
                namespace=self._transport.namespace,
                workflow_ids=[self.workflow_id],
                include_tasks=include_tasks,
                until_final=True,
                resume_token=token,
            )
            call = self._transport.workflows.Watch(request)
            try:
                with self._transport.noting():
                    async for answer in waited(call):
                        absence.end()
                        for event in answer.events:
                            yield Update.from_proto(event)
                        token = answer.resume_token
                return
            except grpc.RpcError as rpc_error:
                error = errors.from_rpc_error(rpc_error)
            finally:
                call.cancel()  # also when the caller leaves the iterator early
            await absence.wait(error)

    async def cancel(self, reason: str = "") -> RunStatus:
        """See Client.cancel."""
        request = workflow_service_pb2.CancelRequest(
            namespace=self._transport.namespace, workflow_id=self.workflow_id, reason=texts.free(reason, "reason")
        )
        answer = await self._transport.ask(self._transport.workflows.Cancel, request)
        return wire.run_status(answer.workflow.status)

    async def resume(self, *, code: Literal["same", "new"] = "same") -> bool:
        """See Client.resume."""
        if code not in ("same", "new"):
            raise ValueError(f"code is 'same' or 'new', not {code!r}")
        request = workflow_service_pb2.ResumeRequest(namespace=self._transport.namespace, workflow_id=self.workflow_id)
        if code == "new":
            request.modules = await self._modules_now()
        return (await self._transport.ask(self._transport.workflows.Resume, request)).resumed

    async def _modules_now(self) -> str:
        """The modules of the run, packed anew. Raises errors as `Client.resume` says."""
        async for task in self.tasks():
            if task.status is not TaskStatus.SUCCESSFUL:
                options = json.loads(wire.struct_to_json((await self.metadata(task.task_id)).task_options))
                if (uri := (options.get("runtime_env") or {}).get("modules")) is not None:
                    archive = await self._values.blobs.load(snapshots.package_of(uri))
                    blobs = BlockingBlobs(self._values.blobs)
                    try:
                        return await asyncio.to_thread(runtimeenv.modules_again, archive, blobs)
                    except ValueError as error:
                        raise errors.InvalidFieldError(f"code: {error}", field="code") from error
        status = (await self.status()).status
        if status in (RunStatus.SUCCESSFUL, RunStatus.CANCELED):
            raise errors.WorkflowAlreadyFinalError(
                f"workflow {self.workflow_id!r} is {status} and cannot be resumed", status=str(status)
            )
        raise errors.InvalidFieldError(
            f"code: no task of workflow {self.workflow_id!r} that has not succeeded came with modules: code that "
            "travels by value stays as it is; start the program again under another id",
            field="code",
        )

    async def send_event(self, key: str, payload: Any = None, *, event_id: str | None = None) -> bool:
        """See Client.send_event."""
        request = workflow_service_pb2.SendEventRequest(
            namespace=self._transport.namespace,
            workflow_id=self.workflow_id,
            event_key=texts.name(key, "event_key"),
            event_id=texts.optional(event_id, "event_id", limit=REQUEST_ID_CHARS_MAX) or time_ordered_id(),
            payload=wire.payload_to_proto(await self._values.payload(payload)),
        )
        return not (await self._transport.ask(self._transport.workflows.SendEvent, request)).duplicate


async def settled(run: Handle, outcome: Payload | Failure | errors.PerdureError) -> Any:
    """The value of an outcome of this run, or the error that `Handle.output` would raise instead."""
    if isinstance(outcome, errors.PerdureError):
        return outcome
    return await run.value_of(outcome) if isinstance(outcome, Payload) else run._error_of(outcome)


async def value_or_error(run: Handle, outcome: Payload | Failure) -> Any:
    """The value of an outcome of this run. Raises the errors of `Handle.output`."""
    found = await settled(run, outcome)
    if isinstance(outcome, Failure):
        raise found
    return found
