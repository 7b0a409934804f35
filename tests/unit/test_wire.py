"""Values on the wire: there and back, and what is malformed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from perdure import wire
from perdure.model import Attribute, BlobRef, Failure, FailureKind, Index, Key, Payload, RunStatus, TaskStatus
from perdure.v1 import failure_pb2, payload_pb2, spec_pb2, workflow_pb2

text = st.text(max_size=20)
names = st.text(min_size=1, max_size=20)
blobs = st.builds(BlobRef, st.binary(min_size=32, max_size=32).map(bytes.hex), st.integers(0, 2**63 - 1))
attributes = st.dictionaries(text, text, max_size=3).map(lambda found: tuple(sorted(found.items())))
codecs = st.lists(text, max_size=2).map(tuple)
refs = st.lists(blobs, max_size=2).map(tuple)
inline = st.builds(Payload, names, st.binary(max_size=50), st.none(), text, codecs, attributes, refs)
stored = st.builds(Payload, names, st.just(b""), blobs, text, codecs, attributes, refs)
payloads = inline | stored
failures = st.recursive(
    st.none(),
    lambda cause: st.builds(
        Failure,
        st.sampled_from(FailureKind),
        text,
        text,
        text,
        st.lists(text, max_size=3).map(tuple),
        cause,
        st.none() | payloads,
        text,
        st.integers(0, 2**31 - 1),
        st.booleans(),
    ),
    max_leaves=5,
).filter(lambda failure: failure is not None)
paths = st.lists(
    st.builds(Index, st.integers(-(2**31), 2**31 - 1)) | st.builds(Key, text) | st.builds(Attribute, text), max_size=4
).map(tuple)
numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
trees = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@given(payloads)
def test_payloads_come_back(payload: Payload) -> None:
    assert wire.decode_payload(wire.encode_payload(payload)) == payload


@given(payloads)
def test_a_payload_has_one_form_in_bytes(payload: Payload) -> None:
    other = replace(payload, attributes=tuple(reversed(payload.attributes)))
    assert wire.encode_payload(payload) == wire.encode_payload(other)


@given(failures)
def test_failures_come_back(failure: Failure) -> None:
    assert wire.decode_failure(wire.encode_failure(failure)) == failure


@given(paths)
def test_paths_come_back(path: Any) -> None:
    assert wire.path_from_proto(wire.path_to_proto(path)) == path


@given(st.integers(wire.TIMESTAMP_MIN_S * 1000, wire.TIMESTAMP_MAX_S * 1000 + 999))
def test_moments_come_back(ms: int) -> None:
    stamp = wire.to_timestamp(ms)
    assert stamp is not None
    assert wire.from_timestamp(stamp) == ms


@given(st.integers(0, wire.DURATION_MAX_S * 1000 + 999))
def test_durations_come_back(ms: int) -> None:
    assert wire.from_duration(wire.to_duration(ms)) == ms


def test_no_moment_is_an_unset_field() -> None:
    assert wire.to_timestamp(None) is None
    assert wire.to_datetime(1_500).isoformat() == "1970-01-01T00:00:01.500000+00:00"


@given(st.dictionaries(text, trees, max_size=4))
def test_json_objects_come_back_in_one_form(value: dict[str, Any]) -> None:
    struct = wire.json_to_struct(json.dumps(value))
    assert struct is not None
    back = wire.struct_to_json(struct)
    assert json.loads(back) == value
    again = wire.json_to_struct(back)
    assert again is not None
    assert wire.struct_to_json(again) == back


def test_no_json_is_no_struct() -> None:
    assert wire.json_to_struct("") is None


def test_whole_numbers_are_integers_again() -> None:
    struct = wire.json_to_struct('{"a": 1, "b": [2.0, 2.5], "c": {"d": 1e300}}')
    assert struct is not None
    assert wire.struct_to_json(struct) == '{"a":1,"b":[2,2.5],"c":{"d":1e+300}}'


# ------------------------------------------------------------------------------ enumerations


@pytest.mark.parametrize(
    ("ours", "there", "back"),
    [
        (RunStatus, workflow_pb2.WorkflowStatus, wire.RUN_STATUS_BACK),
        (TaskStatus, workflow_pb2.TaskStatus, wire.TASK_STATUS_BACK),
        (FailureKind, failure_pb2.FailureKind, wire.FAILURE_KIND_BACK),
    ],
)
def test_every_value_of_the_api_is_known(ours: Any, there: Any, back: dict[int, Any]) -> None:
    assert set(there.values()) == {0, *back}
    assert set(back.values()) == set(ours)


@pytest.mark.parametrize("number", [0, 99, -1])
def test_an_unknown_state_is_told_apart_from_a_bug(number: int) -> None:
    with pytest.raises(ValueError, match=f"a run has the unknown state {number}; the other side is another version"):
        wire.run_status(number)
    with pytest.raises(ValueError, match=f"a task has the unknown state {number}; the other side is another version"):
        wire.task_status(number)


def test_an_unknown_kind_of_failure_is_the_users() -> None:
    message = failure_pb2.Failure(type="m.Bad")
    message.kind = 99  # type: ignore[assignment]
    assert wire.failure_from_proto(message).kind is FailureKind.APPLICATION


# ------------------------------------------------------------------------------ malformed


@pytest.mark.parametrize(
    "message",
    [
        payload_pb2.Payload(),
        payload_pb2.Payload(encoding="x" * 65),
        payload_pb2.Payload(encoding="x", blob=payload_pb2.BlobRef()),
        payload_pb2.Payload(encoding="x", blob=payload_pb2.BlobRef(sha256="0" * 63, size_bytes=1)),
        payload_pb2.Payload(encoding="x", blob=payload_pb2.BlobRef(sha256="A" * 64, size_bytes=1)),
        payload_pb2.Payload(encoding="x", blob=payload_pb2.BlobRef(sha256="a" * 64, size_bytes=-1)),
    ],
)
def test_a_malformed_payload_is_a_value_error(message: payload_pb2.Payload) -> None:
    with pytest.raises(ValueError, match=r"encoding|SHA-256|negative"):
        wire.payload_from_proto(message)


def test_a_payload_of_nothing_is_empty_bytes() -> None:
    assert wire.payload_from_proto(payload_pb2.Payload(encoding="binary/plain")) == Payload("binary/plain")


def test_a_step_of_nothing_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="a step of a path is an index, a key or an attribute"):
        wire.path_from_proto([spec_pb2.PathStep()])


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_durations_and_moments_from_outside_are_bounded(seconds: int, nanos: int) -> None:
    good_nanos = 0 <= nanos < 1_000_000_000
    duration, stamp = Duration(seconds=seconds, nanos=nanos), Timestamp(seconds=seconds, nanos=nanos)
    if good_nanos and 0 <= seconds <= wire.DURATION_MAX_S:
        assert 0 <= wire.from_duration(duration) < 2**60
    else:
        with pytest.raises(ValueError, match=r"between 0 and 10,000 years"):
            wire.from_duration(duration)
    if good_nanos and wire.TIMESTAMP_MIN_S <= seconds <= wire.TIMESTAMP_MAX_S:
        assert abs(wire.from_timestamp(stamp)) < 2**60
    else:
        with pytest.raises(ValueError, match="between the years 1 and 9999"):
            wire.from_timestamp(stamp)


# ------------------------------------------------------------------------------ limits


def test_texts_of_failures_are_cut_where_they_matter_least() -> None:
    failure = Failure(FailureKind.APPLICATION, "t", "m" * 100_000, stack_trace="first" + "s" * 100_000 + "last")
    back = wire.decode_failure(wire.encode_failure(failure))
    assert len(back.message) == wire.MESSAGE_CHARS_MAX
    assert len(back.stack_trace) == wire.STACK_CHARS_MAX
    assert back.stack_trace.endswith("last")


def test_the_nearest_causes_are_kept() -> None:
    failure: Failure | None = None
    for number in range(99, -1, -1):
        failure = Failure(FailureKind.APPLICATION, f"t{number}", "m", cause=failure)
    assert failure is not None
    back: Failure | None = wire.decode_failure(wire.encode_failure(failure))
    kinds = []
    while back is not None:
        kinds.append(back.type)
        back = back.cause
    assert kinds == [f"t{number}" for number in range(wire.CAUSES_MAX)]


@given(payloads, st.integers(0, 3))
def test_outcomes_wrap_without_looking_in(payload: Payload, wraps: int) -> None:
    wrapped = wire.outcome_payload(payload, wraps)
    for _ in range(wraps):
        assert wrapped.encoding == wire.OUTCOME
        outcome = workflow_pb2.Outcome.FromString(wrapped.data)
        assert outcome.WhichOneof("kind") == "output"
        wrapped = wire.payload_from_proto(outcome.output)
    assert wrapped == payload


@given(failures, st.integers(0, 3))
def test_a_failure_is_an_outcome_at_once(failure: Failure, wraps: int) -> None:
    wrapped = wire.outcome_payload(failure, wraps)
    for _ in range(wraps):
        wrapped = wire.payload_from_proto(workflow_pb2.Outcome.FromString(wrapped.data).output)
    outcome = workflow_pb2.Outcome.FromString(wrapped.data)
    assert wire.failure_from_proto(outcome.failure) == failure
