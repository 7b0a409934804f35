"""Converts work into messages to a lease, and receipts of a lease into reports."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Final

from perdure import texts, wire
from perdure.engine.messages import AttemptLost, TaskFailed, TaskSucceeded
from perdure.model import INLINE_BYTES_MAX, FailureKind, Payload
from perdure.service.executors.port import GraphReturned, Report, Work
from perdure.storage.rows import ValueKey
from perdure.v1 import worker_service_pb2 as pb

ATTEMPT_BYTES_MAX: Final = 1024 * 1024


def attempt_of(work: Work, token: int, cached: Callable[[ValueKey], Payload | None]) -> pb.Attempt:
    """The message for an attempt. It contains small cached values; the lease asks for the others."""
    attempt = pb.Attempt(
        token=token,
        namespace=work.namespace,
        workflow_id=work.workflow_id,
        run_id=work.run_id,
        task_id=work.task_id,
        attempt=work.attempt,
        function=work.call.function.key,
        arguments=wire.payload_to_proto(work.call.arguments),
    )
    size = 0
    for source in work.inputs:
        value = attempt.refs.add(wraps=source.wraps, path=wire.path_to_proto(source.path))
        payload = cached(ValueKey(work.run_id, source.task_id, source.input))
        if payload is not None and len(payload.data) <= INLINE_BYTES_MAX and size <= ATTEMPT_BYTES_MAX:
            value.payload.CopyFrom(wire.payload_to_proto(payload))
            size += len(payload.data)
        elif source.task_id:
            value.key.run_id, value.key.task_id = work.run_id, source.task_id
        else:
            value.key.run_id, value.key.input = work.run_id, source.input
    return attempt


def took_ms(receipt: pb.Receipt) -> float | None:
    """How long user code ran; None if it did not begin."""
    if not receipt.HasField("duration"):
        return None
    return float(wire.from_duration(receipt.duration)) + receipt.duration.nanos % 1_000_000 / 1e6


def _times(receipt: pb.Receipt) -> tuple[int | None, int | None]:
    """When user code began and ended, by the worker's clock."""
    took = took_ms(receipt)
    if took is None or not receipt.HasField("start_time"):
        return None, None
    started_ms = wire.from_timestamp(receipt.start_time)
    return started_ms, started_ms + ceil(took)


def report_of(work: Work, receipt: pb.Receipt, now_ms: int) -> Report:
    times = now_ms, *_times(receipt)
    match receipt.WhichOneof("result"):
        case "output":
            output = wire.payload_from_proto(receipt.output)
            return TaskSucceeded(work.task_id, work.attempt, output, *times)
        case "continuation":
            return GraphReturned(work.task_id, work.attempt, receipt.continuation, *times)
        case _:
            failure = texts.mended(wire.failure_from_proto(receipt.failure))  # of a worker of any version
            if failure.kind is FailureKind.CANCELED:  # interrupted without a request: the worker is ending
                return AttemptLost(work.task_id, work.attempt, "the attempt was interrupted", now_ms)
            return TaskFailed(work.task_id, work.attempt, failure, *times)
