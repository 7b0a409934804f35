"""Results of attempts as messages."""

from __future__ import annotations

from perdure import wire
from perdure.model import Failure, FailureKind
from perdure.v1 import worker_service_pb2 as pb
from perdure.worker.results import Continued, Failed, Result, Returned, unforeseen


def receipt_of(token: int, result: Result | None, began_ms: int, took_s: float) -> pb.Receipt:
    """The receipt of an attempt. If the result cannot be encoded, the receipt says why."""
    try:
        return _filled(token, result, began_ms, took_s)
    except Exception as error:
        return _filled(token, unforeseen(error), began_ms, took_s)


def _filled(token: int, result: Result | None, began_ms: int, took_s: float) -> pb.Receipt:
    receipt = pb.Receipt(token=token, start_time=wire.to_timestamp(began_ms))
    receipt.duration.FromNanoseconds(int(took_s * 1e9))
    match result:
        case Returned(output):
            wire.fill_payload(receipt.output, output)
        case Continued(spec, method_outcome):
            receipt.continuation = spec
            if method_outcome is not None:
                receipt.method_outcome = method_outcome
        case Failed(failure):
            receipt.failure.CopyFrom(wire.failure_to_proto(failure))
        case None:
            interrupted = Failure(FailureKind.CANCELED, "perdure.Interrupted", "the attempt was interrupted")
            receipt.failure.CopyFrom(wire.failure_to_proto(interrupted))
    return receipt
