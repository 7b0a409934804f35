"""Blobs in a dict, for tests."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from perdure.model import BlobRef
from perdure.storage.ports import BlobNotFound, BlobWriter


class _Writer:
    def __init__(self, store: MemoryBlobStore) -> None:
        self._store = store
        self._parts: list[bytes] = []

    async def write(self, chunk: bytes | memoryview) -> None:
        self._parts.append(bytes(chunk))

    def sha256(self) -> str:
        return hashlib.sha256(b"".join(self._parts)).hexdigest()

    async def commit(self) -> BlobRef:
        return self._store.put_now(b"".join(self._parts))


class MemoryBlobStore:
    """Implements BlobStore. `clock` returns seconds; it times the puts of blobs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._blobs: dict[str, bytes] = {}
        self._puts: dict[str, float] = {}

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[BlobWriter]:
        yield _Writer(self)

    async def put(self, chunks: Iterable[bytes | memoryview]) -> BlobRef:
        return self.put_now(b"".join(chunks))

    def put_now(self, data: bytes) -> BlobRef:
        """`put` without `await`."""
        sha256 = hashlib.sha256(data).hexdigest()
        self._blobs.setdefault(sha256, data)
        self._puts[sha256] = self._clock()
        return BlobRef(sha256, len(data))

    def has(self, sha256: str) -> bool:
        return sha256 in self._blobs

    async def get(self, sha256: str) -> memoryview:
        if sha256 not in self._blobs:
            raise BlobNotFound(sha256)
        return memoryview(self._blobs[sha256])

    async def size(self, sha256: str) -> int | None:
        return len(self._blobs[sha256]) if sha256 in self._blobs else None

    async def renew(self, sha256: str) -> int | None:
        if sha256 in self._blobs:
            self._puts[sha256] = self._clock()
        return await self.size(sha256)

    async def delete(self, sha256: str, *, idle_s: float = 0) -> bool:
        if sha256 in self._puts and self._clock() - self._puts[sha256] < idle_s:
            return False
        self._blobs.pop(sha256, None)
        self._puts.pop(sha256, None)
        return True

    async def list(self) -> AsyncIterator[BlobRef]:
        for sha256, data in list(self._blobs.items()):
            yield BlobRef(sha256, len(data))

    async def close(self) -> None:
        pass
