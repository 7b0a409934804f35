from perdure.v1 import payload_pb2 as _payload_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FailureKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_KIND_UNSPECIFIED: _ClassVar[FailureKind]
    FAILURE_KIND_APPLICATION: _ClassVar[FailureKind]
    FAILURE_KIND_TIMEOUT: _ClassVar[FailureKind]
    FAILURE_KIND_CANCELED: _ClassVar[FailureKind]
    FAILURE_KIND_SYSTEM: _ClassVar[FailureKind]
    FAILURE_KIND_FUNCTION_UNAVAILABLE: _ClassVar[FailureKind]
    FAILURE_KIND_SERIALIZATION: _ClassVar[FailureKind]
FAILURE_KIND_UNSPECIFIED: FailureKind
FAILURE_KIND_APPLICATION: FailureKind
FAILURE_KIND_TIMEOUT: FailureKind
FAILURE_KIND_CANCELED: FailureKind
FAILURE_KIND_SYSTEM: FailureKind
FAILURE_KIND_FUNCTION_UNAVAILABLE: FailureKind
FAILURE_KIND_SERIALIZATION: FailureKind

class Failure(_message.Message):
    __slots__ = ("kind", "type", "message", "stack_trace", "cause", "error", "task_id", "attempts", "non_retryable", "base_types")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STACK_TRACE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    NON_RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    BASE_TYPES_FIELD_NUMBER: _ClassVar[int]
    kind: FailureKind
    type: str
    message: str
    stack_trace: str
    cause: Failure
    error: _payload_pb2.Payload
    task_id: str
    attempts: int
    non_retryable: bool
    base_types: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kind: _Optional[_Union[FailureKind, str]] = ..., type: _Optional[str] = ..., message: _Optional[str] = ..., stack_trace: _Optional[str] = ..., cause: _Optional[_Union[Failure, _Mapping]] = ..., error: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., task_id: _Optional[str] = ..., attempts: _Optional[int] = ..., non_retryable: bool = ..., base_types: _Optional[_Iterable[str]] = ...) -> None: ...
