"""Uploads and downloads of blobs, and checks whether a blob exists."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from perdure import errors
from perdure.bounded import Bounded
from perdure.model import BlobRef
from perdure.transport import Transport
from perdure.v1 import blob_service_pb2, payload_pb2

CHUNK_BYTES: Final = 512 * 1024
ASK_AGAIN_S: Final = 20.0
KNOWN_MAX: Final = 1_000


class Blobs:
    """Blobs for an event loop, by calls to the service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._stored_until_s: Bounded[BlobRef, float] = Bounded(KNOWN_MAX)  # on the loop's clock

    async def has(self, blob: BlobRef) -> bool:
        """Whether the service has it."""
        request = blob_service_pb2.GetBlobRequest(namespace=self._transport.namespace, sha256=blob.sha256)
        try:
            await self._transport.call(lambda: self._transport.blobs.GetBlob(request))
        except errors.BlobNotFoundError:
            return False
        return True

    async def upload(self, chunks: tuple[bytes | memoryview, ...]) -> BlobRef:
        """Store bytes as one blob. If the service goes away, the whole upload is repeated, which is idempotent because
        a blob is named by its content."""
        size = sum(len(chunk) for chunk in chunks)

        async def messages() -> AsyncIterator[blob_service_pb2.UploadBlobRequest]:
            header = blob_service_pb2.UploadBlobHeader(namespace=self._transport.namespace, size_bytes=size)
            yield blob_service_pb2.UploadBlobRequest(header=header)
            offset = 0
            for chunk in chunks:
                for start in range(0, len(chunk), CHUNK_BYTES):
                    data = bytes(chunk[start : start + CHUNK_BYTES])
                    yield blob_service_pb2.UploadBlobRequest(chunk=payload_pb2.BlobChunk(offset=offset, data=data))
                    offset += len(data)

        answer = await self._transport.call(lambda: self._transport.blobs.UploadBlob(messages()))
        return BlobRef(answer.blob.sha256, answer.blob.size_bytes)

    async def load(self, blob: BlobRef) -> memoryview:
        return await self._transport.call(lambda: self._download(blob))

    async def _download(self, blob: BlobRef) -> memoryview:
        data = bytearray(blob.size)
        request = blob_service_pb2.DownloadBlobRequest(namespace=self._transport.namespace, sha256=blob.sha256)
        async for answer in self._transport.blobs.DownloadBlob(request):
            chunk = answer.chunk
            data[chunk.offset : chunk.offset + len(chunk.data)] = chunk.data
        return memoryview(data).toreadonly()

    def has_for_sure(self, blob: BlobRef) -> bool:
        """Whether the service had the blob a moment ago, so that it certainly still has it."""
        return (self._stored_until_s.get(blob) or 0.0) > asyncio.get_running_loop().time()

    async def has_lately(self, blob: BlobRef) -> bool:
        """Like `has`, but does not ask again within ASK_AGAIN_S, because the service keeps a blob for longer."""
        if self.has_for_sure(blob):
            return True
        if not await self.has(blob):
            return False
        self._stored_until_s.keep(blob, asyncio.get_running_loop().time() + ASK_AGAIN_S)
        return True


class BlockingBlobs:
    """Implements runtimeenv.Store, for threads other than the loop's. Make it on the loop."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._loop = asyncio.get_running_loop()

    def has(self, blob: BlobRef) -> bool:
        return asyncio.run_coroutine_threadsafe(self._blobs.has_lately(blob), self._loop).result()

    def put(self, data: bytes) -> BlobRef:
        return asyncio.run_coroutine_threadsafe(self._blobs.upload((data,)), self._loop).result()
