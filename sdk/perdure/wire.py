"""Converts between the values of `perdure.model` and the messages of `perdure.v1`.

`optionwire` and `graphwire` convert options and graphs. A malformed message raises ValueError.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from perdure.model import (
    Attribute,
    BlobRef,
    Failure,
    FailureKind,
    Function,
    Index,
    Key,
    Path,
    Payload,
    RunStatus,
    TaskStatus,
)
from perdure.v1 import failure_pb2, payload_pb2, spec_pb2, workflow_pb2

MESSAGE_CHARS_MAX: Final = 8 * 1024
STACK_CHARS_MAX: Final = 64 * 1024
CAUSES_MAX: Final = 16
TYPE_CHARS_MAX: Final = 1024
BASE_TYPES_MAX: Final = 64
OUTCOME: Final = "perdure/outcome"
ARGUMENTS: Final = "perdure/arguments"
"""The encoding of arguments that every language can write: see `worker_service.proto`."""
EXACT_MAX: Final = 2**53
DURATION_MAX_S: Final = 315_576_000_000
"""Ten thousand years, the bound of google.protobuf.Duration."""
TIMESTAMP_MIN_S: Final = -62_135_596_800
TIMESTAMP_MAX_S: Final = 253_402_300_799
"""The years 1 and 9999, the bounds of google.protobuf.Timestamp."""

RUN_STATUS: Final[dict[RunStatus, Any]] = {
    status: workflow_pb2.WorkflowStatus.Value(f"WORKFLOW_STATUS_{status}") for status in RunStatus
}
RUN_STATUS_BACK: Final[dict[int, RunStatus]] = {number: status for status, number in RUN_STATUS.items()}
TASK_STATUS: Final[dict[TaskStatus, Any]] = {
    status: workflow_pb2.TaskStatus.Value(f"TASK_STATUS_{status}") for status in TaskStatus
}
TASK_STATUS_BACK: Final[dict[int, TaskStatus]] = {number: status for status, number in TASK_STATUS.items()}
FAILURE_KIND: Final[dict[FailureKind, Any]] = {
    kind: failure_pb2.FailureKind.Value(f"FAILURE_KIND_{kind}") for kind in FailureKind
}
FAILURE_KIND_BACK: Final[dict[int, FailureKind]] = {number: kind for kind, number in FAILURE_KIND.items()}


def run_status(number: int) -> RunStatus:
    """ValueError for one that this version does not know."""
    if number not in RUN_STATUS_BACK:
        raise ValueError(f"a run has the unknown state {number}; the other side is another version of Perdure")
    return RUN_STATUS_BACK[number]


def task_status(number: int) -> TaskStatus:
    """ValueError for one that this version does not know."""
    if number not in TASK_STATUS_BACK:
        raise ValueError(f"a task has the unknown state {number}; the other side is another version of Perdure")
    return TASK_STATUS_BACK[number]


# ------------------------------------------------------------------------------ times


def to_timestamp(ms: int | None) -> Timestamp | None:
    """None stays None: an unset field."""
    if ms is None:
        return None
    stamp = Timestamp()
    fill_timestamp(stamp, ms)
    return stamp


def fill_timestamp(stamp: Timestamp, ms: int) -> None:
    """Set a field to a time, at half the cost of copying a message into it."""
    stamp.seconds = ms // 1000
    stamp.nanos = ms % 1000 * 1_000_000


def from_timestamp(stamp: Timestamp) -> int:
    """Milliseconds; before the year 1 or after 9999 raises ValueError."""
    if not TIMESTAMP_MIN_S <= stamp.seconds <= TIMESTAMP_MAX_S or not 0 <= stamp.nanos < 1_000_000_000:
        raise ValueError("a time must be between the years 1 and 9999")
    return stamp.seconds * 1000 + stamp.nanos // 1_000_000


def to_duration(ms: int) -> Duration:
    return Duration(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def from_duration(duration: Duration) -> int:
    """Milliseconds; negative or beyond its bound raises ValueError."""
    if not 0 <= duration.seconds <= DURATION_MAX_S or not 0 <= duration.nanos < 1_000_000_000:
        raise ValueError("a duration must be between 0 and 10,000 years")
    return duration.seconds * 1000 + duration.nanos // 1_000_000


def to_datetime(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


# ------------------------------------------------------------------------------ values


def payload_to_proto(payload: Payload) -> payload_pb2.Payload:
    message = payload_pb2.Payload()
    fill_payload(message, payload)
    return message


def fill_payload(message: payload_pb2.Payload, payload: Payload) -> None:
    """Set an empty message to a payload. Most payloads are an encoding and bytes only."""
    message.encoding = payload.encoding
    if payload.blob is not None:
        message.blob.sha256 = payload.blob.sha256
        message.blob.size_bytes = payload.blob.size
    else:
        message.data = payload.data
    if payload.type:
        message.type = payload.type
    if payload.codecs:
        message.codecs.extend(payload.codecs)
    if payload.attributes:
        message.attributes.update(payload.attributes)
    for ref in payload.refs:
        message.refs.add(sha256=ref.sha256, size_bytes=ref.size)


def payload_from_proto(message: payload_pb2.Payload) -> Payload:
    """ValueError if it has no encoding or a malformed blob."""
    blob = BlobRef(message.blob.sha256, message.blob.size_bytes) if message.HasField("blob") else None
    return Payload(
        encoding=message.encoding,
        data=message.data,
        blob=blob,
        type=message.type,
        codecs=tuple(message.codecs) if message.codecs else (),
        attributes=tuple(sorted(message.attributes.items())) if message.attributes else (),
        refs=tuple(BlobRef(ref.sha256, ref.size_bytes) for ref in message.refs) if message.refs else (),
    )


def encode_payload(payload: Payload) -> bytes:
    return payload_to_proto(payload).SerializeToString(deterministic=True)


def decode_payload(data: bytes) -> Payload:
    return payload_from_proto(payload_pb2.Payload.FromString(data))


def failure_to_proto(failure: Failure) -> failure_pb2.Failure:
    """The message of a failure. Texts are cut to their limits, and the chain of causes to 16."""
    first = message = failure_pb2.Failure()
    current: Failure | None = failure
    for _ in range(CAUSES_MAX):
        assert current is not None
        message.kind = FAILURE_KIND[current.kind]
        message.type = current.type[:TYPE_CHARS_MAX]
        message.message = current.message[:MESSAGE_CHARS_MAX]
        message.stack_trace = current.stack_trace[-STACK_CHARS_MAX:]
        message.base_types.extend([name[:TYPE_CHARS_MAX] for name in current.base_types[:BASE_TYPES_MAX]])
        message.task_id = current.task_id
        message.attempts = current.attempts
        message.non_retryable = current.non_retryable
        if current.error is not None:
            message.error.CopyFrom(payload_to_proto(current.error))
        current = current.cause
        if current is None:
            break
        message = message.cause
    return first


def failure_from_proto(message: failure_pb2.Failure) -> Failure:
    chain = [message]
    while chain[-1].HasField("cause") and len(chain) < CAUSES_MAX:
        chain.append(chain[-1].cause)
    cause: Failure | None = None
    for link in reversed(chain):
        cause = Failure(
            kind=FAILURE_KIND_BACK.get(link.kind, FailureKind.APPLICATION),
            type=link.type,
            message=link.message,
            stack_trace=link.stack_trace,
            base_types=tuple(link.base_types),
            cause=cause,
            error=payload_from_proto(link.error) if link.HasField("error") else None,
            task_id=link.task_id,
            attempts=link.attempts,
            non_retryable=link.non_retryable,
        )
    assert cause is not None
    return cause


def encode_failure(failure: Failure) -> bytes:
    return failure_to_proto(failure).SerializeToString()


def decode_failure(data: bytes) -> Failure:
    return failure_from_proto(failure_pb2.Failure.FromString(data))


def outcome_from_proto(message: workflow_pb2.Outcome) -> Payload | Failure:
    """The payload or failure of an outcome. An empty message is an empty failure."""
    if message.WhichOneof("kind") == "output":
        return payload_from_proto(message.output)
    return failure_from_proto(message.failure)


def outcome_payload(value: Payload | Failure, wraps: int) -> Payload:
    """The value of a task with `catch_exceptions`: (null, failure) of a failure, `wraps` nested pairs (value, null) of
    a value, whose bytes are not decoded."""
    if isinstance(value, Failure):
        data = workflow_pb2.Outcome(failure=failure_to_proto(value)).SerializeToString()
        value = Payload(OUTCOME, data)
    for _ in range(wraps):
        value = Payload(OUTCOME, workflow_pb2.Outcome(output=payload_to_proto(value)).SerializeToString())
    return value


def path_to_proto(path: Path) -> list[spec_pb2.PathStep]:
    steps = []
    for step in path:
        match step:
            case Index(index):
                steps.append(spec_pb2.PathStep(index=index))
            case Key(key):
                steps.append(spec_pb2.PathStep(key=key))
            case Attribute(name):
                steps.append(spec_pb2.PathStep(attribute=name))
    return steps


def path_from_proto(steps: Sequence[spec_pb2.PathStep]) -> Path:
    if not steps:
        return ()
    path: list[Index | Key | Attribute] = []
    for step in steps:
        match step.WhichOneof("step"):
            case "index":
                path.append(Index(step.index))
            case "key":
                path.append(Key(step.key))
            case "attribute":
                path.append(Attribute(step.attribute))
            case _:
                raise ValueError("a step of a path is an index, a key or an attribute")
    return tuple(path)


# ------------------------------------------------------------------------------ options


def json_to_struct(text: str) -> Struct | None:
    """A struct of JSON; None of "". ValueError for an integer that a struct cannot hold exactly."""
    if not text:
        return None
    struct = Struct()
    if text == "{}":
        return struct
    struct.update(json.loads(text, parse_int=_exact))
    return struct


def _exact(digits: str) -> int:
    number = int(digits)
    if abs(number) > EXACT_MAX:
        raise ValueError(f"the integer {digits:.40} is beyond 2**53 and would be rounded; give it as a string")
    return number


def struct_to_json(struct: Struct) -> str:
    """Canonical JSON: sorted keys, and whole numbers as integers."""
    return json.dumps(_whole(MessageToDict(struct)), sort_keys=True, separators=(",", ":"))


def _whole(value: Any) -> Any:
    match value:
        case float() if value.is_integer() and abs(value) <= EXACT_MAX:
            return int(value)
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case list():
            return [_whole(item) for item in value]
        case _:
            return value


# ------------------------------------------------------------------------------ functions


def function_to_proto(function: Function) -> spec_pb2.FunctionRef:
    if function.code is None:
        return spec_pb2.FunctionRef(
            registered=spec_pb2.RegisteredFunction(name=function.name, version=function.version)
        )
    return spec_pb2.FunctionRef(
        pickled=spec_pb2.PickledFunction(
            code=payload_to_proto(function.code),
            qualified_name=function.name,
            python_version=function.python_version,
        )
    )


def function_from_proto(message: spec_pb2.FunctionRef) -> Function:
    match message.WhichOneof("kind"):
        case "registered":
            name, version = message.registered.name, message.registered.version
            if not name:
                raise ValueError("a registered function has a name")
            return Function(key=f"{name}@{version}", name=name, version=version)
        case "pickled":
            code = payload_from_proto(message.pickled.code)
            key = hashlib.sha256(code.data).hexdigest() if code.blob is None else code.blob.sha256
            return Function(key, message.pickled.qualified_name, code, python_version=message.pickled.python_version)
        case _:
            raise ValueError("a function is registered or pickled")
