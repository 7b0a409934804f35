"""Converts work into messages to a lease, and receipts of a lease into reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import Final

from perdure import texts, wire
from perdure.engine.messages import AttemptLost, Source, TaskFailed, TaskSucceeded
from perdure.model import INLINE_BYTES_MAX, FailureKind, Payload
from perdure.service.executors.port import Attempt, ContinuationReturned, Report
from perdure.storage.rows import ValueKey
from perdure.v1 import worker_service_pb2 as pb

ATTEMPT_BYTES_MAX: Final = 1024 * 1024
"""Cached values that travel with an attempt."""
REFS_MAX: Final = 2_000
"""Refs of one message: at most 2.5 MB of keys, as a task id has 256 characters."""


def parts_of(attempt: Attempt, token: int, cached: Callable[[ValueKey], Payload | None]) -> Iterator[pb.Attempt]:
    """The messages for an attempt: almost always one. One with very many arguments begins with parts of its refs, so
    that each message fits, and so that making one does not take long. They contain small cached values; the lease asks
    for the others."""
    room = ATTEMPT_BYTES_MAX
    inputs = attempt.inputs
    for start in range(0, len(inputs) - REFS_MAX, REFS_MAX):
        part = pb.Attempt(token=token)
        room = _add_refs(part, attempt, inputs[start : start + REFS_MAX], cached, room)
        yield part
    message = pb.Attempt(
        token=token,
        namespace=attempt.namespace,
        workflow_id=attempt.workflow_id,
        run_id=attempt.run_id,
        task_id=attempt.task_id,
        attempt=attempt.number,
        function=attempt.call.function.key,
        arguments=wire.payload_to_proto(attempt.call.arguments),
        is_limited=attempt.is_limited,
        callers=attempt.callers,
    )
    last = max(len(inputs) - 1, 0) // REFS_MAX * REFS_MAX
    _add_refs(message, attempt, inputs[last:] if last else inputs, cached, room)
    yield message


def _add_refs(
    message: pb.Attempt,
    attempt: Attempt,
    sources: Sequence[Source],
    cached: Callable[[ValueKey], Payload | None],
    room: int,
) -> int:
    """Add refs, with cached values as long as there is room. Returns the bytes that are left."""
    for source in sources:
        value = message.refs.add(wraps=source.wraps, path=wire.path_to_proto(source.path))
        payload = cached(ValueKey(attempt.run_id, source.task_id, source.input))
        if payload is not None and len(payload.data) <= INLINE_BYTES_MAX and room >= 0:
            value.payload.CopyFrom(wire.payload_to_proto(payload))
            room -= len(payload.data)
        elif source.task_id:
            value.key.run_id, value.key.task_id = attempt.run_id, source.task_id
        else:
            value.key.run_id, value.key.input = attempt.run_id, source.input
    return room


def took_ms(receipt: pb.Receipt) -> float | None:
    """How long user code ran; None if it did not begin."""
    if not receipt.HasField("duration"):
        return None
    return float(wire.from_duration(receipt.duration)) + receipt.duration.nanos % 1_000_000 / 1e6


def _times(receipt: pb.Receipt, took: float | None) -> tuple[int | None, int | None]:
    """When user code began and ended, by the worker's clock."""
    if took is None or not receipt.HasField("start_time"):
        return None, None
    started_ms = wire.from_timestamp(receipt.start_time)
    return started_ms, started_ms + ceil(took)


def report_of(attempt: Attempt, receipt: pb.Receipt, took: float | None, now_ms: int) -> Report:
    """The event of a receipt. `took`: `took_ms` of it."""
    times = now_ms, *_times(receipt, took)
    match receipt.WhichOneof("result"):
        case "output":
            output = wire.payload_from_proto(receipt.output)
            return TaskSucceeded(attempt.task_id, attempt.number, output, *times)
        case "continuation":
            outcome = receipt.method_outcome if receipt.HasField("method_outcome") else None
            return ContinuationReturned(attempt.task_id, attempt.number, receipt.continuation, *times, outcome)
        case _:
            failure = texts.mended(wire.failure_from_proto(receipt.failure))  # of a worker of any version
            if failure.kind is FailureKind.CANCELED:  # interrupted without a request: the worker is ending
                return AttemptLost(attempt.task_id, attempt.number, "the attempt was interrupted", now_ms)
            return TaskFailed(attempt.task_id, attempt.number, failure, *times)
