"""Errors of the API: each reason once, there and back over the wire, bounded, picklable."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from perdure import errors
from perdure.model import Failure, FailureKind
from perdure.v1 import errors_pb2

CLASSES = sorted(errors.BY_REASON.items())


class Answer(grpc.RpcError):
    """An error of a channel, with the attributes that the client reads."""

    def __init__(self, code: grpc.StatusCode, text: str = "", trailers: Any = ()) -> None:
        self._code, self._text, self._trailers = code, text, trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> Any:
        return self._trailers


def over_the_wire(error: errors.PerdureError) -> errors.PerdureError:
    status = errors.to_status(error)
    trailers = (("other", "x"), (errors.DETAILS_KEY, status.SerializeToString()))
    return errors.from_rpc_error(Answer(error.status, error.message, trailers))


def test_every_reason_is_one_of_the_api() -> None:
    known = {
        name.removeprefix("ERROR_REASON_")
        for name in [value.name for value in errors_pb2.ErrorReason.DESCRIPTOR.values]
    }
    assert {reason for reason, _ in CLASSES} <= known


def test_no_two_classes_share_a_reason() -> None:
    def below(kind: type[errors.PerdureError]) -> list[type[errors.PerdureError]]:
        return [kind, *(found for sub in kind.__subclasses__() for found in below(sub))]

    ours = [kind for kind in below(errors.PerdureError) if kind.__module__ == errors.__name__]
    reasons = [kind.reason for kind in ours if kind.reason != errors.PerdureError.reason]
    assert len(reasons) == len(set(reasons)) == len(CLASSES)


@pytest.mark.parametrize(("reason", "kind"), CLASSES)
def test_an_error_arrives_as_itself(reason: str, kind: type[errors.PerdureError]) -> None:
    sent = kind("what is wrong", field="workflow_id", size="12")
    got = over_the_wire(sent)
    assert type(got) is kind
    assert got.message == "what is wrong"
    assert got.fields == {"field": "workflow_id", "size": "12"}
    assert got.reason == reason
    assert kind.__doc__


@pytest.mark.parametrize(("reason", "kind"), CLASSES)
def test_the_status_has_code_reason_and_what_to_do(reason: str, kind: type[errors.PerdureError]) -> None:
    status = errors.to_status(kind("what is wrong", field="x"))
    details = {detail.TypeName(): detail for detail in status.details}
    info, retry, bad = ErrorInfo(), RetryInfo(), BadRequest()
    assert status.code == kind.status.value[0] != 0
    assert details[ErrorInfo.DESCRIPTOR.full_name].Unpack(info)
    assert (info.domain, info.reason) == ("perdure.v1", reason)
    if kind.retry_after_s is None:
        assert RetryInfo.DESCRIPTOR.full_name not in details
    else:
        assert details[RetryInfo.DESCRIPTOR.full_name].Unpack(retry)
        delay_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        assert delay_s == pytest.approx(kind.retry_after_s)
    if issubclass(kind, errors.InvalidFieldError):
        assert details[BadRequest.DESCRIPTOR.full_name].Unpack(bad)
        assert [violation.field for violation in bad.field_violations] == ["x"]


@given(st.text(), st.dictionaries(st.text(min_size=1, max_size=40), st.text()))
def test_any_text_travels_within_the_limit_of_trailers(message: str, fields: dict[str, str]) -> None:
    error = errors.InvalidFieldError(message)
    error.fields = {key.encode("utf-8", "replace").decode(): value for key, value in fields.items()}
    assert errors.to_status(error).ByteSize() < 6 * 1024
    assert type(over_the_wire(error)) is errors.InvalidFieldError


@pytest.mark.parametrize("character", ["x", "é", "漢", "🦊", "\ud800"])
def test_the_longest_texts_stay_below_the_limit(character: str) -> None:
    fields = {f"field{number}": character * 100_000 for number in range(50)}
    status = errors.to_status(errors.InvalidFieldError(character * 100_000, **fields))
    assert 3 * 900 < status.ByteSize() < 6 * 1024


@pytest.mark.parametrize(("_reason", "kind"), CLASSES)
def test_errors_are_pickled_with_their_fields(_reason: str, kind: type[errors.PerdureError]) -> None:
    error = kind("what is wrong", field="x")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.message, back.fields) == (kind, "what is wrong", {"field": "x"})


FAILURE = Failure(FailureKind.APPLICATION, "m.Bad", "no", task_id="t")


@pytest.mark.parametrize("kind", [errors.WorkflowExecutionError, errors.WorkflowCancellationError])
def test_the_end_of_a_run_is_pickled(kind: type[errors.WorkflowExecutionError]) -> None:
    error = kind("order-1", FAILURE)
    error.add_note("seen")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (str(back), back.workflow_id, back.failure) == (str(error), "order-1", FAILURE)
    assert back.__notes__ == ["seen"]


@pytest.mark.parametrize(
    "kind",
    [
        errors.RemoteError,
        errors.TaskLostError,
        errors.TaskTimeoutError,
        errors.SerializationError,
        errors.FunctionUnavailableError,
    ],
)
def test_what_stands_for_an_error_is_pickled(kind: type[errors.RemoteError]) -> None:
    back = pickle.loads(pickle.dumps(kind(FAILURE)))
    assert (type(back), str(back), back.failure) == (kind, "m.Bad: no", FAILURE)


# ------------------------------------------------------------------------------ from others than the service


def test_an_unknown_reason_keeps_its_name_and_fields() -> None:
    status = Status(code=9, message="newer")
    status.details.add().Pack(ErrorInfo(reason="FROM_THE_FUTURE", domain="perdure.v1", metadata={"a": "b"}))
    trailers = ((errors.DETAILS_KEY, status.SerializeToString()),)
    got = errors.from_rpc_error(Answer(grpc.StatusCode.FAILED_PRECONDITION, "newer", trailers))
    assert type(got) is errors.PerdureError
    assert (got.message, got.fields) == ("newer", {"a": "b", "reason": "FROM_THE_FUTURE"})


def test_details_of_another_domain_are_not_ours() -> None:
    status = Status(code=5, message="a proxy's")
    status.details.add().Pack(ErrorInfo(reason="WORKFLOW_NOT_FOUND", domain="proxy.example"))
    trailers = ((errors.DETAILS_KEY, status.SerializeToString()),)
    got = errors.from_rpc_error(Answer(grpc.StatusCode.NOT_FOUND, "nothing here", trailers))
    assert type(got) is errors.PerdureError
    assert got.fields == {"code": "NOT_FOUND"}


@given(st.binary())
def test_details_that_are_no_status_do_no_harm(data: bytes) -> None:
    got = errors.from_rpc_error(Answer(grpc.StatusCode.ABORTED, "text", ((errors.DETAILS_KEY, data),)))
    assert isinstance(got, errors.PerdureError)


def test_unavailable_without_details_is_the_service_being_away() -> None:
    got = errors.from_rpc_error(Answer(grpc.StatusCode.UNAVAILABLE, "connection refused"))
    assert type(got) is errors.ServiceUnavailableError
    assert got.message == "connection refused"


def test_a_message_that_grpc_refuses_is_too_large() -> None:
    text = "Sent message larger than max (9000000 vs. 8388608)"
    got = errors.from_rpc_error(Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, text))
    assert type(got) is errors.PayloadTooLargeError


def test_an_error_without_anything_is_still_typed() -> None:
    got = errors.from_rpc_error(grpc.RpcError("broken"))
    assert (type(got), got.fields) == (errors.PerdureError, {"code": "UNKNOWN"})


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.WorkflowNotFoundError, LookupError),
        (errors.InvalidFieldError, ValueError),
        (errors.CapabilityMissingError, NotImplementedError),
        (errors.TaskTimeoutError, TimeoutError),
        (errors.WorkflowCancellationError, errors.WorkflowExecutionError),
    ],
)
def test_errors_are_caught_by_the_usual_names(kind: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)
