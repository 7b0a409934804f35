"""The batch calls of WorkflowService: decode, call, encode. An invalid item gets its error as its own result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from perdure import errors
from perdure.service.api import answers, pages, requests
from perdure.service.api.caller import Caller
from perdure.service.api.errors import item_error
from perdure.service.api.sources import Sources
from perdure.service.common import limits
from perdure.service.common.pauses import Pauses
from perdure.service.common.trouble import is_away
from perdure.service.machines.source import RunSource
from perdure.service.operations.asked import NewEvent, NewRun
from perdure.service.operations.batches import Batches, Result, caught
from perdure.service.operations.queries import Queries
from perdure.storage.ports import BlobStore
from perdure.storage.rows import RunRow
from perdure.v1 import spec_pb2
from perdure.v1 import workflow_service_pb2 as pb


class BatchCalls:
    """Answers the calls whose names begin with Batch."""

    def __init__(self, batches: Batches, queries: Queries, sources: Sources, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._batches = batches
        self._queries = queries
        self._sources = sources

    async def run(self, request: pb.BatchRunRequest, caller: Caller) -> pb.BatchRunResponse:
        requests.count_items(request.items)
        size = sum(source.spec_blob.size_bytes for source in request.sources)
        if size > limits.SPEC_BYTES_MAX:
            raise errors.InvalidSpecError(f"the graphs of a batch have at most {limits.SPEC_BYTES_MAX} bytes together")
        namespace = requests.namespace(request.namespace)
        repeat = caller.repeat
        sources = [await caught(self._source(source)) for source in request.sources]
        news: list[Result[NewRun]] = []
        pauses = Pauses()
        for item in request.items:
            new = _new_run(item, namespace, sources)
            if isinstance(new, NewRun) and repeat is not None:
                new = replace(new, repeat=repeat)
            if isinstance(new, NewRun) and new.inputs:
                missing = await caught(self._sources.check_blobs(new.blobs() - new.source.blobs))
                new = missing or new
            news.append(new)
            await pauses.pause()
        answer = pb.BatchRunResponse()
        for item, result in zip(request.items, await self._batches.submit(news), strict=True):
            if isinstance(result, Exception):
                named = errors.cut(item.workflow_id, limits.ID_BYTES_MAX)
                answer.results.add(workflow_id=named, error=item_error(result, "BatchRun"))
            else:
                view, started = result
                answer.results.add(workflow_id=view.row.workflow_id, run_id=view.row.run_id, started=started)
        return answer

    async def _source(self, message: spec_pb2.WorkflowSource) -> RunSource:
        source = await self._sources.read(message)
        await self._sources.check_blobs(source.blobs)
        return source

    async def get_output(self, request: pb.BatchGetOutputRequest, caller: Caller) -> pb.BatchGetOutputResponse:
        wait_s = requests.wait_s(request.wait, caller)
        requests.count_items(request.items)
        namespace = requests.namespace(request.namespace)
        items: list[Result[tuple[str, str]]] = []
        for item in request.items:
            try:
                run_id = requests.text(item.run_id, "run_id", required=False)
                items.append((requests.workflow_id(item.workflow_id), run_id))
            except errors.PerdureError as error:
                items.append(error)
        answer = pb.BatchGetOutputResponse()
        room = limits.ANSWER_BYTES
        for row in await self._batches.outcomes(namespace, items, wait_s=wait_s):
            result = answer.results.add()
            if isinstance(row, Exception):
                result.error.CopyFrom(item_error(row, "BatchGetOutput"))
            elif row.status.is_final and room > 0:
                await self._fill(result, row, include_error=request.include_error_object)
            room -= result.ByteSize()
            if room < 0 and len(answer.results) > 1:
                result.Clear()
        return answer

    async def _fill(self, result: pb.OutputResult, row: RunRow, *, include_error: bool) -> None:
        try:
            view = await self._queries.outcome_of(row)
            answers.fill_outcome(result, view, include_error=include_error)
            await pages.store_large(result.outcome, self._blobs, limits.INLINE_PAYLOAD_BYTES_MAX)
        except Exception as error:
            if is_away(error):  # it concerns all items: the caller repeats the batch
                raise
            result.Clear()
            result.error.CopyFrom(item_error(error, "BatchGetOutput"))

    async def send_events(self, request: pb.BatchSendEventsRequest, caller: Caller) -> pb.BatchSendEventsResponse:
        requests.count_items(request.items)
        namespace = requests.namespace(request.namespace)
        events = [await caught(self._new_event(item)) for item in request.items]
        answer = pb.BatchSendEventsResponse()
        for sent in await self._batches.send_events(namespace, events, repeat=caller.repeat):
            if isinstance(sent, Exception):
                answer.results.add(error=item_error(sent, "BatchSendEvents"))
            else:
                answer.results.add(sequence=sent.sequence, duplicate=sent.is_duplicate)
        return answer

    async def _new_event(self, item: pb.EventItem) -> NewEvent:
        event = requests.event(item)
        await self._sources.check_blobs(event.payload.blobs())
        return event


def _new_run(item: pb.RunItem, namespace: str, sources: Sequence[Result[RunSource]]) -> Result[NewRun]:
    try:
        if not 0 <= item.source_index < len(sources):
            raise requests.invalid("source_index", f"there are {len(sources)} sources")
        source = sources[item.source_index]
        return source if isinstance(source, Exception) else requests.run(item, namespace, source)
    except Exception as error:
        return error
