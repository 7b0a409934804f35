"""WorkflowService: decode, ask, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from perdure import errors, texts, wire
from perdure.model import RunStatus
from perdure.service.api import answers, pages, requests
from perdure.service.api.batch import BatchCalls
from perdure.service.api.filters import parse_filter, parse_order
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
from perdure.storage.rows import RunQuery
from perdure.v1 import workflow_service_pb2 as pb
from perdure.v1 import workflow_service_pb2_grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

ROWS_AT_ONCE: Final = 250
"""Rows that a listing reads at once: they bring metadata along, which are not listed."""
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
        blob_grace_s: float,
    ) -> None:
        self._sources = Sources(blobs, grace_s=blob_grace_s)
        self._batch = BatchCalls(Batches(submissions, events, queries, changes), queries, self._sources, blobs)
        self._submissions = submissions
        self._lifecycle = lifecycle
        self._events = events
        self._queries = queries
        self._store = store
        self._blobs = blobs
        self._watcher = Watcher(store, queries, changes)

    async def Run(self, request: pb.RunRequest, context: Context) -> pb.RunResponse:
        source = await self._sources.read(request.source)
        new = requests.run(request, requests.namespace(request.namespace), source)
        new = replace(new, first_asked_ms_ago=requests.first_asked_ms_ago(context))
        await self._sources.check_blobs(new.blobs())
        wait_s = requests.wait_s(request.wait, context) if request.HasField("wait") else 0
        view, started = await self._submissions.submit(new)
        answer = pb.RunResponse(started=started, watch_token=self._watcher.token(view.row.change))
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
        names = (*_named(request), request.expected_etag, request.modules)
        view, resumed = await self._lifecycle.resume(*names, is_repeat=requests.is_repeat(context))
        return pb.ResumeResponse(workflow=answers.workflow(view), resumed=resumed)

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        if len(request.reason.encode()) > limits.REASON_BYTES_MAX:
            raise requests.invalid("reason", f"has at most {limits.REASON_BYTES_MAX} bytes")
        texts.free(request.reason, "reason")
        view = await self._lifecycle.cancel(
            *_named(request), request.reason, request.expected_etag, is_repeat=requests.is_repeat(context)
        )
        return pb.CancelResponse(workflow=answers.workflow(view))

    async def GetOutput(self, request: pb.GetOutputRequest, context: Context) -> pb.GetOutputResponse:
        if request.max_inline_bytes < 0:
            raise requests.invalid("max_inline_bytes", "must not be negative")
        view = await self._queries.outcome(
            *_named(request),
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
        view = await self._queries.run(*_named(request), wait_s=wait_s, wait_for=wait_for)
        return pb.GetStatusResponse(workflow=answers.workflow(view))

    async def GetMetadata(self, request: pb.GetMetadataRequest, context: Context) -> pb.GetMetadataResponse:
        namespace, workflow_id = _named(request)
        if not requests.text(request.task_id, "task_id", required=False):
            view = await self._queries.run(namespace, workflow_id)
            return pb.GetMetadataResponse(metadata=answers.run_metadata(view))
        task = await self._queries.task(namespace, workflow_id, request.task_id)
        return pb.GetMetadataResponse(metadata=answers.task_metadata(task))

    async def ListWorkflows(self, request: pb.ListWorkflowsRequest, context: Context) -> pb.ListWorkflowsResponse:
        namespace, limit = requests.namespace(request.namespace), requests.page_size(request.page_size)
        question = (namespace, request.filter, request.order_by)
        order_by, descending = parse_order(request.order_by)
        kind = str if order_by == "workflow_id" else int
        place = requests.read_token(request.page_token, question, lambda place: requests.is_row(place, kind))
        where = parse_filter(request.filter)
        after = (place[0], place[1]) if place else None
        answer = pb.ListWorkflowsResponse(watch_token=self._watcher.token(await self._store.last_change()))
        page = pages.Page(limit)
        while True:
            wanted = min(limit - page.count, ROWS_AT_ONCE)
            views = await self._queries.list_runs(RunQuery(namespace, wanted, where, order_by, descending, after))
            for view in views:
                workflow = answers.workflow(view)
                if not page.takes(workflow):
                    answer.next_page_token = requests.make_token(question, after)
                    return answer
                answer.workflows.append(workflow)
                after = (getattr(view.row, order_by), view.row.run_id)
            if len(views) < wanted:
                return answer
            if page.count == limit:
                answer.next_page_token = requests.make_token(question, after)
                return answer

    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.ListTasksResponse:
        namespace, workflow_id = _named(request)
        if unknown := [number for number in request.statuses if number not in wire.TASK_STATUS_BACK]:
            raise requests.invalid("statuses", f"has the unknown state {unknown[0]}")
        wanted = {wire.TASK_STATUS_BACK[number] for number in request.statuses}
        run = await self._queries.row(namespace, workflow_id)
        question = (namespace, run.run_id, sorted(request.statuses))  # pages are of one run
        start = requests.read_token(request.page_token, question, requests.is_number) or 0
        limit = requests.page_size(request.page_size)
        tasks = await self._queries.tasks(
            namespace, workflow_id, run.run_id, statuses=wanted, start=start, limit=limit + 1
        )
        page, answer = pages.Page(limit), pb.ListTasksResponse()
        for position, view in tasks:
            task = answers.task(view)
            if not page.takes(task):
                answer.next_page_token = requests.make_token(question, position)
                break
            answer.tasks.append(task)
        return answer

    async def DeleteWorkflow(self, request: pb.DeleteWorkflowRequest, context: Context) -> pb.DeleteWorkflowResponse:
        await self._lifecycle.delete(
            *_named(request),
            allow_missing=request.allow_missing or requests.is_repeat(context),
            etag=request.expected_etag,
        )
        return pb.DeleteWorkflowResponse()

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        async for answer in self._watcher.watch(request):
            yield answer


def _named(request: Any) -> tuple[str, str]:
    return requests.namespace(request.namespace), requests.workflow_id(request.workflow_id)
