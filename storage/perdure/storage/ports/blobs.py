"""The port of blob stores."""

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
        """Make the blob durable and visible under its hash. Before this, no reader sees any of it."""
        ...


class BlobStore(Protocol):
    """Immutable bytes by the SHA-256 of their content."""

    def writer(self) -> AbstractAsyncContextManager[BlobWriter]:
        """Write a blob in pieces. If the context is left without `commit`, nothing is stored."""
        ...

    async def put(self, chunks: Iterable[bytes | memoryview]) -> BlobRef:
        """Write a whole blob. When it returns, the blob survives a power failure. A blob that exists is not written
        again, but renewed."""
        ...

    async def get(self, sha256: str) -> memoryview:
        """All bytes, read-only; mapped rather than read where that is possible.
        Raises BlobNotFound, CorruptData."""
        ...

    async def size(self, sha256: str) -> int | None:
        """Length in bytes, None if there is no such blob."""
        ...

    async def renew(self, sha256: str) -> int | None:
        """Set the time of a blob's last put to now. Length in bytes, None if there is no such blob."""
        ...

    async def delete(self, sha256: str, *, idle_s: float = 0) -> bool:
        """Remove a blob. False: it was put or renewed within the last `idle_s` seconds, so it stays. After a put that
        races the deletion, the blob exists. Memory that was mapped before stays readable. Removing twice is
        allowed."""
        ...

    def list(self) -> AsyncIterator[BlobRef]:
        """Every blob, in no particular order."""
        ...

    async def close(self) -> None:
        """Release the connections of this event loop. Closing twice is allowed, and so are calls afterwards."""
        ...
