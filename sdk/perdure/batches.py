"""Batches: many runs, events or outputs in few messages.

A message has at most BATCH_ITEMS_MAX items and not many more than MESSAGE_BYTES bytes. A graph that several items
share, as an object or by its content, is in it once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Protocol, TypeVar, get_args

from google.protobuf.duration_pb2 import Duration

from perdure import errors, texts, wire
from perdure.bounded import Bounded
from perdure.connection import BATCH_ITEMS_MAX, MESSAGE_BYTES
from perdure.ids import time_ordered_id
from perdure.model import REQUEST_ID_CHARS_MAX, Failure, Payload
from perdure.options import to_json
from perdure.transport import Absence
from perdure.v1 import errors_pb2, spec_pb2, workflow_service_pb2
from perdure.values import Values

T = TypeVar("T")

ABREAST: Final = 2
"""Messages under way at a time: the next one is made while the service works on one."""

IdReuse = Literal["reject", "allow_if_unsuccessful", "allow"]
IdConflict = Literal["fail", "use_existing", "cancel_existing"]
ID_REUSES: Final = get_args(IdReuse)
ID_CONFLICTS: Final = get_args(IdConflict)


@dataclass(frozen=True, slots=True, eq=False)
class RunItem:
    """One of the runs that `Client.start_many` starts; the fields are the arguments of `Client.start`."""

    graph: object
    workflow_id: str | None = None
    inputs: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None
    labels: Mapping[str, str] | None = None
    name: str = ""
    request_id: str | None = None
    id_reuse: IdReuse = "reject"
    id_conflict: IdConflict = "fail"


@dataclass(frozen=True, slots=True, eq=False)
class EventItem:
    """One of the events that `Client.send_events` sends; the fields are the arguments of `Client.send_event`."""

    workflow_id: str
    key: str
    payload: Any = None
    event_id: str | None = None


class RunName(Protocol):
    """A run by its ids, such as a handle. Without a run id it is the last run of the workflow id."""

    workflow_id: str
    run_id: str


class Answered(Protocol):
    """An item of an answer."""

    @property
    def error(self) -> errors_pb2.ItemError: ...

    def HasField(self, field_name: Any, /) -> bool: ...


A = TypeVar("A", bound=Answered)
I = TypeVar("I")  # noqa: E741  # an item of a message


class _Graphs:
    """The graphs of one message. A graph is converted once for all messages."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._converted: Bounded[int, tuple[object, spec_pb2.WorkflowSource, bytes]] = Bounded(BATCH_ITEMS_MAX)
        self._places: dict[bytes, int] = {}

    def begin(self) -> None:
        """A new message begins."""
        self._places = {}

    async def place(self, graph: object, request: workflow_service_pb2.BatchRunRequest) -> tuple[int, int]:
        """The position of a graph in the message, and the number of bytes that it added."""
        known = self._converted.get(id(graph))
        if known is None:
            source = await self._values.source_of(graph)
            known = (graph, source, source.SerializeToString(deterministic=True))
            self._converted.keep(id(graph), known)  # with the graph, so that its id() stays its own
        _, source, data = known
        if (place := self._places.get(data)) is not None:
            return place, 0
        place = self._places[data] = len(request.sources)
        request.sources.append(source)
        return place, len(data)


def _check(item: RunItem) -> None:
    """Check an item as the service would: some bad texts cannot be sent at all. Raises InvalidFieldError, and
    ValueError or TypeError for a value that no field has."""
    if not isinstance(item, RunItem):
        raise TypeError(f"start_many takes perdure.RunItem(graph, ...), not {texts.kind_of(item)}")
    _one_of("id_reuse", item.id_reuse, ID_REUSES)
    _one_of("id_conflict", item.id_conflict, ID_CONFLICTS)
    texts.optional(item.workflow_id, "workflow_id")
    texts.optional(item.request_id, "request_id", limit=REQUEST_ID_CHARS_MAX)
    texts.name(item.name, "name", required=False)
    for key, value in (item.labels or {}).items():
        texts.key(key, "labels", limit=63)
        texts.name(value, f"labels[{key!r}]", required=False)
    for name in item.inputs or ():
        texts.key(name, "inputs")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(map(repr, allowed))}, not {value!r:.80}")


async def run_request(values: Values, item: RunItem, callers: tuple[str, ...] = ()) -> workflow_service_pb2.RunRequest:
    """The request of a single run, for which the callers wait."""
    _check(item)
    request = workflow_service_pb2.RunRequest(
        namespace=values.transport.namespace,
        workflow_id=item.workflow_id or "",
        request_id=item.request_id or time_ordered_id(),
        id_reuse_policy=f"WORKFLOW_ID_REUSE_POLICY_{item.id_reuse.upper()}",
        id_conflict_policy=f"WORKFLOW_ID_CONFLICT_POLICY_{item.id_conflict.upper()}",
        metadata=wire.json_to_struct(to_json("metadata", item.metadata)),
        labels=item.labels,
        display_name=item.name,
    )
    request.source.CopyFrom(await values.source_of(item.graph, callers))
    for key, value in (item.inputs or {}).items():
        request.inputs[key].CopyFrom(wire.payload_to_proto(await values.payload(value)))
    return request


async def _run_requests(
    values: Values, items: Iterable[RunItem]
) -> AsyncIterator[workflow_service_pb2.BatchRunRequest]:
    graphs = _Graphs(values)
    request, size = workflow_service_pb2.BatchRunRequest(namespace=values.transport.namespace), 0
    for item in items:
        _check(item)
        place, grown = await graphs.place(item.graph, request)
        about = wire.json_to_struct(to_json("metadata", item.metadata)) if item.metadata is not None else None
        message = request.items.add(
            source_index=place,
            workflow_id=item.workflow_id or "",
            request_id=item.request_id or time_ordered_id(),
            id_reuse_policy=f"WORKFLOW_ID_REUSE_POLICY_{item.id_reuse.upper()}",
            id_conflict_policy=f"WORKFLOW_ID_CONFLICT_POLICY_{item.id_conflict.upper()}",
            metadata=about,
            labels=item.labels,
            display_name=item.name,
        )
        for key, value in (item.inputs or {}).items():
            message.inputs[key].CopyFrom(wire.payload_to_proto(await values.payload(value)))
        size += grown + message.ByteSize()
        if len(request.items) == BATCH_ITEMS_MAX or size >= MESSAGE_BYTES:
            yield request
            graphs.begin()
            request, size = workflow_service_pb2.BatchRunRequest(namespace=values.transport.namespace), 0
    if request.items:
        yield request


async def start_many(values: Values, items: Iterable[RunItem]) -> list[tuple[str, str] | errors.PerdureError]:
    """The workflow id and run id of each item, or the error that refused it."""

    async def send(request: workflow_service_pb2.BatchRunRequest) -> list[tuple[str, str] | errors.PerdureError]:
        asked_s: float | None = None

        async def ask(
            some: Sequence[workflow_service_pb2.RunItem],
        ) -> Sequence[workflow_service_pb2.RunResult]:
            nonlocal asked_s
            before_s, asked_s = asked_s, asked_s or asyncio.get_running_loop().time()
            again = workflow_service_pb2.BatchRunRequest(
                namespace=request.namespace, sources=request.sources, items=some
            )
            answer = await values.transport.ask(values.transport.workflows.BatchRun, again, asked_s=before_s)
            results: Sequence[workflow_service_pb2.RunResult] = answer.results
            return results

        results = await _patiently(values, list(request.items), ask)
        return [_error_of(result) or (result.workflow_id, result.run_id) for result in results]

    return await _pipelined(_run_requests(values, items), send)


async def send_events(values: Values, items: Iterable[EventItem]) -> list[bool | errors.PerdureError]:
    """For each event whether it is new, or the error that refused it."""

    async def messages() -> AsyncIterator[list[workflow_service_pb2.EventItem]]:
        some: list[workflow_service_pb2.EventItem] = []
        size = 0
        for item in items:
            message = workflow_service_pb2.EventItem(
                workflow_id=texts.name(item.workflow_id, "workflow_id"),
                event_key=texts.name(item.key, "event_key"),
                event_id=texts.optional(item.event_id, "event_id", limit=REQUEST_ID_CHARS_MAX) or time_ordered_id(),
                payload=wire.payload_to_proto(await values.payload(item.payload)),
            )
            some.append(message)
            size += message.ByteSize()
            if len(some) == BATCH_ITEMS_MAX or size >= MESSAGE_BYTES:
                yield some
                some, size = [], 0
        if some:
            yield some

    async def send(some: list[workflow_service_pb2.EventItem]) -> list[bool | errors.PerdureError]:
        asked_s: float | None = None

        async def ask(some: Sequence[workflow_service_pb2.EventItem]) -> Sequence[workflow_service_pb2.EventResult]:
            nonlocal asked_s
            before_s, asked_s = asked_s, asked_s or asyncio.get_running_loop().time()
            request = workflow_service_pb2.BatchSendEventsRequest(namespace=values.transport.namespace, items=some)
            answer = await values.transport.ask(values.transport.workflows.BatchSendEvents, request, asked_s=before_s)
            results: Sequence[workflow_service_pb2.EventResult] = answer.results
            return results

        return [_error_of(result) or not result.duplicate for result in await _patiently(values, some, ask)]

    # One message after the other, so that events of one workflow arrive in order.
    sent: list[bool | errors.PerdureError] = []
    async for some in messages():
        sent += await send(some)
    return sent


async def outcomes(
    values: Values, runs: Sequence[RunName], *, poll_s: float, timeout: float | None
) -> list[Payload | Failure | errors.PerdureError]:
    """The outcomes of the runs, once all have ended. Raises TimeoutError after `timeout` seconds."""
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    found: dict[int, Payload | Failure | errors.PerdureError] = {}
    waiting = list(range(len(runs)))
    while waiting:
        some = waiting[:BATCH_ITEMS_MAX]
        left = poll_s if deadline is None else min(poll_s, max(deadline - loop.time(), 0))
        request = workflow_service_pb2.BatchGetOutputRequest(
            namespace=values.transport.namespace,
            wait=Duration(seconds=int(left), nanos=int(left % 1 * 1e9)),
            include_error_object=True,
        )
        for number in some:
            request.items.add(workflow_id=runs[number].workflow_id, run_id=runs[number].run_id)
        answer = await values.transport.call(partial(values.transport.workflows.BatchGetOutput, request))
        for number, result in zip(some, answer.results, strict=True):
            if (error := _error_of(result)) is not None:
                found[number] = error
            elif result.done:
                found[number] = wire.outcome_from_proto(result.outcome)
        waiting = [number for number in some if number not in found] + waiting[BATCH_ITEMS_MAX:]
        if waiting and deadline is not None and loop.time() >= deadline:
            raise TimeoutError(f"{len(waiting)} of {len(runs)} workflows had no output after {timeout} s")
    return [found[number] for number in range(len(runs))]


def _error_of(result: Answered) -> errors.PerdureError | None:
    return errors.from_item(result.error) if result.HasField("error") else None


async def _patiently(
    values: Values, items: Sequence[I], ask: Callable[[Sequence[I]], Awaitable[Sequence[A]]]
) -> list[A]:
    """The answers to all items. Items that found the service away are repeated, for as long as patience lasts."""
    absence = Absence(values.transport)
    results = list(await ask(items))
    waiting = list(range(len(items)))
    while True:
        found = {number: error for number in waiting if (error := _away(results[number])) is not None}
        if not found:
            return results
        if len(found) < len(waiting):
            absence.end()
        waiting = list(found)
        try:
            await absence.wait(found[waiting[0]])
        except errors.ServiceUnavailableError:
            return results
        again = await ask([items[number] for number in waiting])
        for number, result in zip(waiting, again, strict=True):
            results[number] = result


def _away(result: Answered) -> errors.ServiceUnavailableError | None:
    error = _error_of(result)
    return error if isinstance(error, errors.ServiceUnavailableError) else None


async def _pipelined(messages: AsyncIterator[I], send: Callable[[I], Awaitable[list[T]]]) -> list[T]:
    """Send messages, a few at a time. Returns all results in order."""
    results: list[T] = []
    sending: list[asyncio.Future[list[T]]] = []
    try:
        async for message in messages:
            sending.append(asyncio.ensure_future(send(message)))
            await asyncio.sleep(0)  # start sending before the next one is made
            if len(sending) >= ABREAST:
                results += await sending.pop(0)
        while sending:
            results += await sending.pop(0)
    finally:
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
    return results
