"""The batches of WorkflowService: decode, ask, encode; what is wrong with an item is the answer to that item."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from perdure import errors
from perdure.model import BlobRef, Spec
from perdure.service import limits
from perdure.service.batches import Batches, Result, caught
from perdure.service.queries import Queries
from perdure.service.rpc import answers, requests
from perdure.service.rpc.interceptor import translate
from perdure.service.rpc.sources import Sources
from perdure.service.uses import of_start
from perdure.service.views import NewEvent, NewRun
from perdure.storage.ports import Fenced, StorageUnavailable
from perdure.storage.rows import RunRow
from perdure.v1 import errors_pb2, spec_pb2
from perdure.v1 import workflow_service_pb2 as pb

PAUSE_EVERY: Final = 100
"""Items after which others get a turn while a batch is decoded."""


@dataclass(frozen=True, slots=True)
class _Graph:
    """A graph that was found good."""

    spec: Spec
    data: bytes
    name: str
    blob: BlobRef | None


class BatchCalls:
    """Answers the calls whose names begin with Batch."""

    def __init__(self, batches: Batches, queries: Queries, sources: Sources) -> None:
        self._batches = batches
        self._queries = queries
        self._sources = sources

    async def run(self, request: pb.BatchRunRequest) -> pb.BatchRunResponse:
        requests.count_items(request.items)
        size = sum(source.spec_blob.size_bytes for source in request.sources)
        if size > limits.SPEC_BYTES_MAX:
            raise errors.InvalidSpecError(f"the graphs of a batch have at most {limits.SPEC_BYTES_MAX} bytes together")
        namespace = requests.namespace(request.namespace)
        graphs = [await caught(self._graph(source)) for source in request.sources]
        news: list[Result[NewRun]] = []
        for number, item in enumerate(request.items, 1):
            news.append(await caught(self._new_run(item, namespace, graphs)))
            if number % PAUSE_EVERY == 0:
                await asyncio.sleep(0)
        answer = pb.BatchRunResponse()
        for item, result in zip(request.items, await self._batches.submit(news), strict=True):
            if isinstance(result, Exception):
                answer.results.add(workflow_id=item.workflow_id, error=_error(result, "BatchRun"))
            else:
                view, started = result
                answer.results.add(workflow_id=view.row.workflow_id, run_id=view.row.run_id, started=started)
        return answer

    async def _graph(self, source: spec_pb2.WorkflowSource) -> _Graph:
        spec, data = await self._sources.read(source)
        requests.check_payloads(spec)
        blob = requests.source_blob(source)
        await self._sources.check_blobs(of_start(spec, (), blob))
        return _Graph(spec, data, requests.name_of(spec), blob)

    async def _new_run(self, item: pb.RunItem, namespace: str, graphs: list[Result[_Graph]]) -> NewRun:
        if not 0 <= item.source_index < len(graphs):
            raise requests.invalid("source_index", f"there are {len(graphs)} sources")
        graph = graphs[item.source_index]
        if isinstance(graph, Exception):
            raise graph
        new = requests.run_item(item, namespace, graph.spec, graph.data, graph.name, graph.blob)
        for payload in new.inputs.values():
            await self._sources.check_blobs(payload.blobs())
        return new

    async def get_output(self, request: pb.BatchGetOutputRequest, wait_s: float) -> pb.BatchGetOutputResponse:
        requests.count_items(request.items)
        namespace = requests.namespace(request.namespace)
        items: list[Result[tuple[str, str]]] = []
        for item in request.items:
            try:
                items.append((requests.workflow_id(item.workflow_id), item.run_id))
            except errors.PerdureError as error:
                items.append(error)
        answer = pb.BatchGetOutputResponse()
        room = limits.BATCH_ANSWER_BYTES
        for row in await self._batches.outcomes(namespace, items, wait_s=wait_s):
            result = pb.OutputResult()
            if isinstance(row, Exception):
                result.error.CopyFrom(_error(row, "BatchGetOutput"))
            elif row.status.is_final and room > 0:
                await self._fill(result, row, include_error=request.include_error_object)
            room -= result.ByteSize()
            answer.results.append(result if room >= 0 or len(answer.results) == 0 else pb.OutputResult())
        return answer

    async def _fill(self, result: pb.OutputResult, row: RunRow, *, include_error: bool) -> None:
        try:
            full = answers.outcome(await self._queries.outcome_of(row), include_error=include_error)
        except (StorageUnavailable, Fenced):  # of all items: the whole batch may be asked for again
            raise
        except Exception as error:
            result.error.CopyFrom(_error(error, "BatchGetOutput"))
        else:
            result.MergeFrom(pb.OutputResult(done=full.done, outcome=full.outcome, run_id=full.run_id))

    async def send_events(self, request: pb.BatchSendEventsRequest) -> pb.BatchSendEventsResponse:
        requests.count_items(request.items)
        namespace = requests.namespace(request.namespace)
        events = [await caught(self._new_event(item)) for item in request.items]
        answer = pb.BatchSendEventsResponse()
        for sent in await self._batches.send_events(namespace, events):
            if isinstance(sent, Exception):
                answer.results.add(error=_error(sent, "BatchSendEvents"))
            else:
                answer.results.add(sequence=sent.sequence, duplicate=sent.is_duplicate)
        return answer

    async def _new_event(self, item: pb.EventItem) -> NewEvent:
        event = requests.event(item)
        await self._sources.check_blobs(event.payload.blobs())
        return event


def _error(error: Exception, method: str) -> errors_pb2.ItemError:
    known = translate(error, method)
    return errors_pb2.ItemError(
        code=known.status.value[0],
        reason=f"ERROR_REASON_{known.reason}" if known.reason in errors.BY_REASON else None,
        message=errors.cut(known.message, errors.MESSAGE_BYTES_MAX),
        metadata={key: errors.cut(value, errors.FIELD_BYTES_MAX) for key, value in known.fields.items()},
    )
