import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListEnginesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListEnginesResponse(_message.Message):
    __slots__ = ("engines",)
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    engines: _containers.RepeatedCompositeFieldContainer[Engine]
    def __init__(self, engines: _Optional[_Iterable[_Union[Engine, _Mapping]]] = ...) -> None: ...

class Engine(_message.Message):
    __slots__ = ("engine_id", "name", "address", "version", "start_time", "expire_time", "dead")
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    DEAD_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    name: str
    address: str
    version: str
    start_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    dead: bool
    def __init__(self, engine_id: _Optional[str] = ..., name: _Optional[str] = ..., address: _Optional[str] = ..., version: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., dead: bool = ...) -> None: ...

class CollectBlobsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CollectBlobsResponse(_message.Message):
    __slots__ = ("blobs", "marked")
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    MARKED_FIELD_NUMBER: _ClassVar[int]
    blobs: int
    marked: int
    def __init__(self, blobs: _Optional[int] = ..., marked: _Optional[int] = ...) -> None: ...

class GetSystemInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSystemInfoResponse(_message.Message):
    __slots__ = ("server_version", "capabilities", "limits", "replica_id", "python_versions", "http_address")
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    HTTP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    server_version: str
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    replica_id: str
    python_versions: _containers.RepeatedScalarFieldContainer[str]
    http_address: str
    def __init__(self, server_version: _Optional[str] = ..., capabilities: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., replica_id: _Optional[str] = ..., python_versions: _Optional[_Iterable[str]] = ..., http_address: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_message_bytes", "max_inline_payload_bytes", "max_blob_bytes", "max_nodes", "max_wait", "max_running_workflows", "max_pending_workflows", "max_batch_items")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_INLINE_PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BLOB_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_NODES_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNNING_WORKFLOWS_FIELD_NUMBER: _ClassVar[int]
    MAX_PENDING_WORKFLOWS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_ITEMS_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_inline_payload_bytes: int
    max_blob_bytes: int
    max_nodes: int
    max_wait: _duration_pb2.Duration
    max_running_workflows: int
    max_pending_workflows: int
    max_batch_items: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_inline_payload_bytes: _Optional[int] = ..., max_blob_bytes: _Optional[int] = ..., max_nodes: _Optional[int] = ..., max_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_running_workflows: _Optional[int] = ..., max_pending_workflows: _Optional[int] = ..., max_batch_items: _Optional[int] = ...) -> None: ...
