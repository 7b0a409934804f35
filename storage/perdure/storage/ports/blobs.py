"""What is asked of a store of blobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from perdure.model import BlobRef


class BlobWriter(Protocol):
    """A blob in the making."""

    async def write(self, chunk: bytes | memoryview) -> None:
        """Add bytes."""
        ...

    def sha256(self) -> str:
        """The hash of what was written so far."""
        ...

    async def commit(self) -> BlobRef:
        """Make the blob durable and visible under its hash. Until then nobody sees anything of it."""
        ...


class BlobStore(Protocol):
    """Immutable bytes by the SHA-256 of their content."""

    def writer(self) -> AbstractAsyncContextManager[BlobWriter]:
        """Write a blob in pieces. Leaving the context without `commit` leaves nothing behind."""
        ...

    async def put(self, chunks: Iterable[bytes | memoryview]) -> BlobRef:
        """Write a blob whole. When it returns, the blob survives the loss of power. A blob that is
        there already is not written again, but counts as put now."""
        ...

    async def get(self, sha256: str) -> memoryview:
        """All bytes, read-only; mapped rather than read where that is possible.
        Raises BlobNotFound, CorruptData."""
        ...

    async def size(self, sha256: str) -> int | None:
        """Length in bytes, None if there is no such blob."""
        ...

    async def renew(self, sha256: str) -> int | None:
        """Let a blob count as put now. Length in bytes, None if there is no such blob."""
        ...

    async def delete(self, sha256: str, *, idle_s: float = 0) -> bool:
        """Remove a blob, unless it was put within the last `idle_s` seconds: then False, and it stays.
        Whoever puts it at the same time has it. Memory mapped before stays readable. Removing twice
        is no error."""
        ...

    def list(self) -> AsyncIterator[BlobRef]:
        """Every blob, in no particular order."""
        ...

    async def close(self) -> None:
        """Release the connections of this event loop. Closing twice is no error, nor is a call afterwards."""
        ...
