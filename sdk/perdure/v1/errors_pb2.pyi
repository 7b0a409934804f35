from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FIELD: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_SPEC: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FILTER: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_PAGE_TOKEN: _ClassVar[ErrorReason]
    ERROR_REASON_REQUEST_ID_REUSED: _ClassVar[ErrorReason]
    ERROR_REASON_PAYLOAD_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_BLOB_HASH_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_PYTHON_VERSION_UNSUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_ARGUMENTS: _ClassVar[ErrorReason]
    ERROR_REASON_WORKFLOW_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_TASK_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ACTOR_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_BLOB_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_FUNCTION_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_WORKFLOW_ALREADY_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_WORKFLOW_ALREADY_FINAL: _ClassVar[ErrorReason]
    ERROR_REASON_WORKFLOW_STILL_ACTIVE: _ClassVar[ErrorReason]
    ERROR_REASON_OUTPUT_NOT_STORED: _ClassVar[ErrorReason]
    ERROR_REASON_ACTOR_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_ACTOR_CYCLE: _ClassVar[ErrorReason]
    ERROR_REASON_WRONG_KIND: _ClassVar[ErrorReason]
    ERROR_REASON_ETAG_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_OFFSET_OUT_OF_RANGE: _ClassVar[ErrorReason]
    ERROR_REASON_QUEUE_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_STORAGE_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_MAILBOX_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_SLOW_CONSUMER: _ClassVar[ErrorReason]
    ERROR_REASON_DRAINING: _ClassVar[ErrorReason]
    ERROR_REASON_DATABASE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_STARTING: _ClassVar[ErrorReason]
    ERROR_REASON_UNREACHABLE: _ClassVar[ErrorReason]
    ERROR_REASON_CAPABILITY_MISSING: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_CORRUPT_DATA: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_INVALID_FIELD: ErrorReason
ERROR_REASON_INVALID_SPEC: ErrorReason
ERROR_REASON_INVALID_FILTER: ErrorReason
ERROR_REASON_INVALID_PAGE_TOKEN: ErrorReason
ERROR_REASON_REQUEST_ID_REUSED: ErrorReason
ERROR_REASON_PAYLOAD_TOO_LARGE: ErrorReason
ERROR_REASON_BLOB_HASH_MISMATCH: ErrorReason
ERROR_REASON_PYTHON_VERSION_UNSUPPORTED: ErrorReason
ERROR_REASON_INVALID_ARGUMENTS: ErrorReason
ERROR_REASON_WORKFLOW_NOT_FOUND: ErrorReason
ERROR_REASON_TASK_NOT_FOUND: ErrorReason
ERROR_REASON_ACTOR_NOT_FOUND: ErrorReason
ERROR_REASON_BLOB_NOT_FOUND: ErrorReason
ERROR_REASON_FUNCTION_NOT_FOUND: ErrorReason
ERROR_REASON_WORKFLOW_ALREADY_EXISTS: ErrorReason
ERROR_REASON_WORKFLOW_ALREADY_FINAL: ErrorReason
ERROR_REASON_WORKFLOW_STILL_ACTIVE: ErrorReason
ERROR_REASON_OUTPUT_NOT_STORED: ErrorReason
ERROR_REASON_ACTOR_FAILED: ErrorReason
ERROR_REASON_ACTOR_CYCLE: ErrorReason
ERROR_REASON_WRONG_KIND: ErrorReason
ERROR_REASON_ETAG_MISMATCH: ErrorReason
ERROR_REASON_OFFSET_OUT_OF_RANGE: ErrorReason
ERROR_REASON_QUEUE_FULL: ErrorReason
ERROR_REASON_STORAGE_FULL: ErrorReason
ERROR_REASON_MAILBOX_FULL: ErrorReason
ERROR_REASON_SLOW_CONSUMER: ErrorReason
ERROR_REASON_DRAINING: ErrorReason
ERROR_REASON_DATABASE_UNAVAILABLE: ErrorReason
ERROR_REASON_STARTING: ErrorReason
ERROR_REASON_UNREACHABLE: ErrorReason
ERROR_REASON_CAPABILITY_MISSING: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_CORRUPT_DATA: ErrorReason

class ItemError(_message.Message):
    __slots__ = ("code", "reason", "message", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: ErrorReason
    message: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[_Union[ErrorReason, str]] = ..., message: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...
