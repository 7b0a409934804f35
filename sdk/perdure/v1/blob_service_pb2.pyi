from perdure.v1 import payload_pb2 as _payload_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UploadBlobRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UploadBlobHeader
    chunk: _payload_pb2.BlobChunk
    def __init__(self, header: _Optional[_Union[UploadBlobHeader, _Mapping]] = ..., chunk: _Optional[_Union[_payload_pb2.BlobChunk, _Mapping]] = ...) -> None: ...

class UploadBlobHeader(_message.Message):
    __slots__ = ("namespace", "size_bytes", "sha256")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    size_bytes: int
    sha256: str
    def __init__(self, namespace: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class UploadBlobResponse(_message.Message):
    __slots__ = ("blob", "existed")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    blob: _payload_pb2.BlobRef
    existed: bool
    def __init__(self, blob: _Optional[_Union[_payload_pb2.BlobRef, _Mapping]] = ..., existed: bool = ...) -> None: ...

class DownloadBlobRequest(_message.Message):
    __slots__ = ("namespace", "sha256", "offset", "limit", "chunk_bytes")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    sha256: str
    offset: int
    limit: int
    chunk_bytes: int
    def __init__(self, namespace: _Optional[str] = ..., sha256: _Optional[str] = ..., offset: _Optional[int] = ..., limit: _Optional[int] = ..., chunk_bytes: _Optional[int] = ...) -> None: ...

class DownloadBlobResponse(_message.Message):
    __slots__ = ("size_bytes", "chunk")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    chunk: _payload_pb2.BlobChunk
    def __init__(self, size_bytes: _Optional[int] = ..., chunk: _Optional[_Union[_payload_pb2.BlobChunk, _Mapping]] = ...) -> None: ...

class GetBlobRequest(_message.Message):
    __slots__ = ("namespace", "sha256")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    sha256: str
    def __init__(self, namespace: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class GetBlobResponse(_message.Message):
    __slots__ = ("blob",)
    BLOB_FIELD_NUMBER: _ClassVar[int]
    blob: _payload_pb2.BlobRef
    def __init__(self, blob: _Optional[_Union[_payload_pb2.BlobRef, _Mapping]] = ...) -> None: ...
