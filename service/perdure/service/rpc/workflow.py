"""WorkflowService: decode, ask, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, TypeAlias

import grpc
import grpc.aio

from perdure import errors, texts, wire
from perdure.model import RunStatus
from perdure.service.api import answers, pages, requests
from perdure.service.api.batch import BatchCalls
from perdure.service.api.listing import ListCalls
from perdure.service.api.places import Place
from perdure.service.api.sources import Sources
from perdure.service.api.watch import Watcher, WatchStore
from perdure.service.common import limits
from perdure.service.operations.batches import Batches
from perdure.service.operations.events import Events
from perdure.service.operations.lifecycle import Lifecycle
from perdure.service.operations.queries import Queries
from perdure.service.operations.submit import Submissions
from perdure.service.runs.changes import Changes
from perdure.service.runs.views import RunView
from perdure.storage.ports import BlobStore
from perdure.v1 import workflow_service_pb2 as pb
from perdure.v1 import workflow_service_pb2_grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_FINAL = frozenset(status for status in RunStatus if status.is_final)


class WorkflowServicer(workflow_service_pb2_grpc.WorkflowServiceServicer):
    """Thin: what it decides is how requests and answers look."""

    def __init__(
        self,
        submissions: Submissions,
        lifecycle: Lifecycle,
        events: Events,
        queries: Queries,
        changes: Changes,
        store: WatchStore,
        blobs: BlobStore,
        *,
        clock: Callable[[], int],
        blob_grace_s: float,
    ) -> None:
        self._sources = Sources(blobs, grace_s=blob_grace_s)
        self._batch = BatchCalls(Batches(submissions, events, queries, changes), queries, self._sources, blobs)
        self._submissions = submissions
        self._lifecycle = lifecycle
        self._events = events
        self._queries = queries
        self._lists = ListCalls(queries, store)
        self._blobs = blobs
        self._watcher = Watcher(store, queries, changes, clock)

    async def Run(self, request: pb.RunRequest, context: Context) -> pb.RunResponse:
        source = await self._sources.read(request.source)
        new = requests.run(request, requests.namespace(request.namespace), source)
        new = replace(new, first_asked_ms_ago=requests.first_asked_ms_ago(context))
        await self._sources.check_blobs(new.blobs())
        wait_s = requests.wait_s(request.wait, context) if request.HasField("wait") else 0
        view, started = await self._submissions.submit(new)
        answer = pb.RunResponse(started=started, watch_token=Place(view.row.change).token())
        if wait_s:
            row = await self._queries.ended(view.row, wait_s)
            value = (await self._queries.outcome_of(row)).value
            if value is not None:
                answers.fill_value(answer.outcome, value, include_error=request.include_error_object)
                await pages.store_large(answer.outcome, self._blobs, limits.INLINE_PAYLOAD_BYTES_MAX)
            view = view if row is view.row else RunView(row)
        answers.fill_workflow(answer.workflow, view)
        return answer

    async def BatchRun(self, request: pb.BatchRunRequest, context: Context) -> pb.BatchRunResponse:
        return await self._batch.run(request, requests.first_asked_ms_ago(context))

    async def Resume(self, request: pb.ResumeRequest, context: Context) -> pb.ResumeResponse:
        if request.modules:
            await self._sources.check_package(request.modules)
        names = (*requests.named(request), request.expected_etag, request.modules)
        view, resumed = await self._lifecycle.resume(*names, is_repeat=requests.is_repeat(context))
        return pb.ResumeResponse(workflow=answers.workflow(view), resumed=resumed)

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        if len(request.reason.encode()) > limits.REASON_BYTES_MAX:
            raise requests.invalid("reason", f"has at most {limits.REASON_BYTES_MAX} bytes")
        texts.free(request.reason, "reason")
        view = await self._lifecycle.cancel(
            *requests.named(request), request.reason, request.expected_etag, is_repeat=requests.is_repeat(context)
        )
        return pb.CancelResponse(workflow=answers.workflow(view))

    async def GetOutput(self, request: pb.GetOutputRequest, context: Context) -> pb.GetOutputResponse:
        if request.max_inline_bytes < 0:
            raise requests.invalid("max_inline_bytes", "must not be negative")
        view = await self._queries.outcome(
            *requests.named(request),
            task_id=requests.text(request.task_id, "task_id", required=False),
            run_id=requests.text(request.run_id, "run_id", required=False),
            wait_s=requests.wait_s(request.wait, context),
        )
        answer = answers.outcome(view, include_error=request.include_error_object)
        most = limits.INLINE_PAYLOAD_BYTES_MAX
        inline = min(request.max_inline_bytes, most) if request.HasField("max_inline_bytes") else most
        await pages.store_large(answer.outcome, self._blobs, inline)
        return answer

    async def BatchGetOutput(self, request: pb.BatchGetOutputRequest, context: Context) -> pb.BatchGetOutputResponse:
        return await self._batch.get_output(request, requests.wait_s(request.wait, context))

    async def SendEvent(self, request: pb.SendEventRequest, context: Context) -> pb.SendEventResponse:
        if request.ack not in (pb.EVENT_ACK_UNSPECIFIED, pb.EVENT_ACK_STORED):
            raise errors.CapabilityMissingError(
                "this server acknowledges stored events only", capability="ack-consumed"
            )
        event = requests.event(request)
        await self._sources.check_blobs(event.payload.blobs())
        sent = await self._events.send(
            requests.namespace(request.namespace),
            event.workflow_id,
            key=event.key,
            event_id=event.event_id,
            payload=event.payload,
        )
        return pb.SendEventResponse(
            sequence=sent.sequence,
            duplicate=sent.is_duplicate,
            commit_time=wire.to_timestamp(sent.committed_ms),
        )

    async def BatchSendEvents(self, request: pb.BatchSendEventsRequest, context: Context) -> pb.BatchSendEventsResponse:
        return await self._batch.send_events(request)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        if unknown := [number for number in request.wait_for if number not in wire.RUN_STATUS_BACK]:
            raise requests.invalid("wait_for", f"has the unknown state {unknown[0]}")
        wait_for = frozenset(wire.RUN_STATUS_BACK[number] for number in request.wait_for) or _FINAL
        wait_s = requests.wait_s(request.wait, context)
        view = await self._queries.run(*requests.named(request), wait_s=wait_s, wait_for=wait_for)
        return pb.GetStatusResponse(workflow=answers.workflow(view))

    async def GetMetadata(self, request: pb.GetMetadataRequest, context: Context) -> pb.GetMetadataResponse:
        namespace, workflow_id = requests.named(request)
        if not requests.text(request.task_id, "task_id", required=False):
            view = await self._queries.run(namespace, workflow_id)
            return pb.GetMetadataResponse(metadata=answers.run_metadata(view))
        task = await self._queries.task(namespace, workflow_id, request.task_id)
        return pb.GetMetadataResponse(metadata=answers.task_metadata(task))

    async def ListWorkflows(self, request: pb.ListWorkflowsRequest, context: Context) -> pb.ListWorkflowsResponse:
        return await self._lists.workflows(request)

    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.ListTasksResponse:
        return await self._lists.tasks(request)

    async def DeleteWorkflow(self, request: pb.DeleteWorkflowRequest, context: Context) -> pb.DeleteWorkflowResponse:
        await self._lifecycle.delete(
            *requests.named(request),
            allow_missing=request.allow_missing or requests.is_repeat(context),
            etag=request.expected_etag,
        )
        return pb.DeleteWorkflowResponse()

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        async for answer in self._watcher.watch(request):
            yield answer
