"""Calls about blobs: upload and download in chunks, and a check for existence."""

from __future__ import annotations

from collections.abc import AsyncIterator

from perdure import errors
from perdure.model import BlobRef
from perdure.service.api import requests
from perdure.service.common import limits
from perdure.storage.ports import BlobStore
from perdure.v1 import blob_service_pb2 as pb
from perdure.v1 import payload_pb2


class BlobCalls:
    """Streams into and out of the blob store."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def upload(self, stream: AsyncIterator[pb.UploadBlobRequest]) -> pb.UploadBlobResponse:
        """Store a blob: a header, then chunks in order. Nothing is stored unless size and hash match the header."""
        header = await self._header(stream)
        if header.sha256 and await self._blobs.renew(header.sha256) == header.size_bytes:
            return _uploaded(BlobRef(header.sha256, header.size_bytes), existed=True)
        async with self._blobs.writer() as writer:
            size = 0
            async for request in stream:
                chunk = request.chunk
                _check_chunk(request, chunk, size, header)
                await writer.write(chunk.data)
                size += len(chunk.data)
            if size != header.size_bytes:
                raise errors.BlobHashMismatchError(
                    "the blob ended too early; nothing was stored", expected=str(header.size_bytes), actual=str(size)
                )
            if header.sha256 and (actual := writer.sha256()) != header.sha256:
                raise errors.BlobHashMismatchError(
                    "the bytes have another hash; nothing was stored", expected=header.sha256, actual=actual
                )
            blob = await writer.commit()
        return _uploaded(blob, existed=False)

    async def _header(self, stream: AsyncIterator[pb.UploadBlobRequest]) -> pb.UploadBlobHeader:
        async for first in stream:
            if first.WhichOneof("kind") != "header":
                break
            header = first.header
            requests.namespace(header.namespace)
            if not 0 <= header.size_bytes <= limits.BLOB_BYTES_MAX:
                raise errors.PayloadTooLargeError(
                    f"a blob has at most {limits.BLOB_BYTES_MAX} bytes",
                    field="size_bytes",
                    size=str(header.size_bytes),
                    limit=str(limits.BLOB_BYTES_MAX),
                )
            if header.sha256:
                _ref(header.sha256)
            return header
        raise requests.invalid("header", "is the first message of an upload")

    async def download(self, request: pb.DownloadBlobRequest) -> AsyncIterator[pb.DownloadBlobResponse]:
        """The chunks of a blob. The first message has the size of the whole blob."""
        _ref(request.sha256)
        view = await self._blobs.get(request.sha256)
        if not 0 <= request.offset <= len(view):
            raise errors.OffsetOutOfRangeError(f"the blob has {len(view)} bytes", size=str(len(view)))
        step = min(max(request.chunk_bytes or limits.CHUNK_BYTES, 4096), limits.CHUNK_BYTES_MAX)
        end = min(request.offset + request.limit, len(view)) if request.limit > 0 else len(view)
        first = pb.DownloadBlobResponse(size_bytes=len(view))
        for offset in range(request.offset, end, step):
            data = bytes(view[offset : min(offset + step, end)])
            first.chunk.CopyFrom(payload_pb2.BlobChunk(offset=offset, data=data))
            yield first
            first = pb.DownloadBlobResponse()
        if request.offset == end:
            yield first

    async def find(self, request: pb.GetBlobRequest) -> pb.GetBlobResponse:
        """The size of a blob. Its grace period begins anew, as if it were stored now. Raises BlobNotFoundError."""
        _ref(request.sha256)
        size = await self._blobs.renew(request.sha256)  # the caller will use it instead of uploading it
        if size is None:
            raise errors.BlobNotFoundError(f"there is no blob {request.sha256}", sha256=request.sha256)
        return pb.GetBlobResponse(blob=payload_pb2.BlobRef(sha256=request.sha256, size_bytes=size))


def _check_chunk(
    request: pb.UploadBlobRequest, chunk: payload_pb2.BlobChunk, size: int, header: pb.UploadBlobHeader
) -> None:
    if request.WhichOneof("kind") != "chunk" or not chunk.data:
        raise requests.invalid("chunk", "every message after the header brings bytes")
    if len(chunk.data) > limits.CHUNK_BYTES_MAX:
        raise requests.invalid("chunk.data", f"has at most {limits.CHUNK_BYTES_MAX} bytes")
    if chunk.offset != size:
        raise requests.invalid("chunk.offset", f"must be {size}: chunks come in order and without gaps")
    if size + len(chunk.data) > header.size_bytes:
        raise errors.BlobHashMismatchError(
            "more bytes came than were announced; nothing was stored", expected=str(header.size_bytes)
        )


def _ref(sha256: str) -> BlobRef:
    try:
        return BlobRef(sha256, 0)
    except ValueError as error:
        raise requests.invalid("sha256", str(error)) from error


def _uploaded(blob: BlobRef, *, existed: bool) -> pb.UploadBlobResponse:
    return pb.UploadBlobResponse(blob=payload_pb2.BlobRef(sha256=blob.sha256, size_bytes=blob.size), existed=existed)
