"""Calls about one run: start, resume, cancel and delete it; its state, its output and its metadata."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from perdure import errors, texts, wire
from perdure.service.api import answers, pages, requests
from perdure.service.api.caller import Caller
from perdure.service.api.places import Place
from perdure.service.api.sources import Sources
from perdure.service.common import limits
from perdure.service.machines.source import RunSource
from perdure.service.operations.asked import NewRun
from perdure.service.operations.lifecycle import Lifecycle
from perdure.service.operations.queries import FINAL, Queries
from perdure.service.operations.submit import Submissions
from perdure.service.runs.views import RunView
from perdure.storage.ports import BlobStore
from perdure.v1 import workflow_service_pb2 as pb


class RunCalls:
    """Every call may be repeated. Calls that name a run raise WorkflowNotFoundError if it does not exist."""

    def __init__(
        self, submissions: Submissions, lifecycle: Lifecycle, queries: Queries, sources: Sources, blobs: BlobStore
    ) -> None:
        self._submissions = submissions
        self._lifecycle = lifecycle
        self._queries = queries
        self._sources = sources
        self._blobs = blobs

    async def run(self, request: pb.RunRequest, caller: Caller) -> pb.RunResponse:
        """Start a run, and with `wait` wait for its outcome. Answers once the run is durable."""
        wait_s = requests.wait_s(request.wait, caller) if request.HasField("wait") else 0
        view, started = await self._submit(request, caller)
        answer = pb.RunResponse(started=started, watch_token=Place(view.row.change).token())
        if wait_s:
            with suppress(errors.WorkflowNotFoundError):  # it is deleted: it was started, and has no outcome any more
                view = await self._fill_outcome(answer, view, wait_s, include_error=request.include_error_object)
        answers.fill_workflow(answer.workflow, view)
        return answer

    async def _submit(self, request: pb.RunRequest, caller: Caller) -> tuple[RunView, bool]:
        try:
            source = await self._sources.read(request.source)
        except (errors.FunctionNotFoundError, errors.InvalidArgumentsError):
            if request.source.WhichOneof("kind") == "spec_blob":
                raise
            # A repeat is answered as the first request, although its functions are others since.
            new = _new(request, await self._sources.unresolved(request.source), caller)
            if (view := await self._submissions.made_by(new)) is None:
                raise
            return view, False
        new = _new(request, source, caller)
        await self._sources.check_blobs(new.blobs())
        return await self._submissions.submit(new)

    async def _fill_outcome(
        self, answer: pb.RunResponse, view: RunView, wait_s: float, *, include_error: bool
    ) -> RunView:
        row = await self._queries.ended(view.row, wait_s)
        value = (await self._queries.outcome_of(row)).value
        if value is not None:
            answers.fill_value(answer.outcome, value, include_error=include_error)
            await pages.store_large(answer.outcome, self._blobs, limits.INLINE_PAYLOAD_BYTES_MAX)
        return view if row is view.row else RunView(row)

    async def resume(self, request: pb.ResumeRequest, caller: Caller) -> pb.ResumeResponse:
        """Let a run that has ended without success go on."""
        if request.modules:
            await self._sources.check_package(request.modules)
        names = (*requests.named(request), request.expected_etag, request.modules)
        view, resumed = await self._lifecycle.resume(*names, repeat=caller.repeat)
        return pb.ResumeResponse(workflow=answers.workflow(view), resumed=resumed)

    async def cancel(self, request: pb.CancelRequest, caller: Caller) -> pb.CancelResponse:
        """Cancel a run and its attempts."""
        if len(request.reason.encode()) > limits.REASON_BYTES_MAX:
            raise requests.invalid("reason", f"has at most {limits.REASON_BYTES_MAX} bytes")
        texts.free(request.reason, "reason")
        view = await self._lifecycle.cancel(
            *requests.named(request), request.reason, request.expected_etag, repeat=caller.repeat
        )
        return pb.CancelResponse(workflow=answers.workflow(view))

    async def delete(self, request: pb.DeleteWorkflowRequest, caller: Caller) -> pb.DeleteWorkflowResponse:
        """Remove a run that is not active, with all of its stored data."""
        await self._lifecycle.delete(
            *requests.named(request),
            allow_missing=request.allow_missing,
            etag=request.expected_etag,
            repeat=caller.repeat,
        )
        return pb.DeleteWorkflowResponse()

    async def status(self, request: pb.GetStatusRequest, caller: Caller) -> pb.GetStatusResponse:
        """The state of a run, now or once it has one of the states to wait for."""
        if unknown := [number for number in request.wait_for if number not in wire.RUN_STATUS_BACK]:
            raise requests.invalid("wait_for", f"has the unknown state {unknown[0]}")
        wait_for = frozenset(wire.RUN_STATUS_BACK[number] for number in request.wait_for) or FINAL
        wait_s = requests.wait_s(request.wait, caller)
        view = await self._queries.run(*requests.named(request), wait_s=wait_s, wait_for=wait_for)
        return pb.GetStatusResponse(workflow=answers.workflow(view))

    async def output(self, request: pb.GetOutputRequest, caller: Caller) -> pb.GetOutputResponse:
        """The outcome of a run or of a task. `done` is False if there is none within the time to wait."""
        if request.max_inline_bytes < 0:
            raise requests.invalid("max_inline_bytes", "must not be negative")
        view = await self._queries.outcome(
            *requests.named(request),
            task_id=requests.text(request.task_id, "task_id", required=False),
            run_id=requests.text(request.run_id, "run_id", required=False),
            wait_s=requests.wait_s(request.wait, caller),
        )
        answer = answers.outcome(view, include_error=request.include_error_object)
        most = limits.INLINE_PAYLOAD_BYTES_MAX
        inline = min(request.max_inline_bytes, most) if request.HasField("max_inline_bytes") else most
        await pages.store_large(answer.outcome, self._blobs, inline)
        return answer

    async def metadata(self, request: pb.GetMetadataRequest) -> pb.GetMetadataResponse:
        """The user's metadata of a run or of a task, with its times and, of a task, its options."""
        namespace, workflow_id = requests.named(request)
        if not requests.text(request.task_id, "task_id", required=False):
            view = await self._queries.run(namespace, workflow_id)
            return pb.GetMetadataResponse(metadata=answers.run_metadata(view))
        task = await self._queries.task(namespace, workflow_id, request.task_id)
        return pb.GetMetadataResponse(metadata=answers.task_metadata(task))


def _new(request: pb.RunRequest, source: RunSource, caller: Caller) -> NewRun:
    new = requests.run(request, requests.namespace(request.namespace), source)
    return new if (repeat := caller.repeat) is None else replace(new, repeat=repeat)
