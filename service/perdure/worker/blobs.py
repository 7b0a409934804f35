"""The blob store, for code that is not asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from perdure.codec import Encoded
from perdure.model import BlobRef
from perdure.storage.ports import BlobStore

T = TypeVar("T")


class BlockingBlobs:
    """Runs the store's coroutines on a loop that runs in another thread."""

    def __init__(self, store: BlobStore, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop

    def load(self, blob: BlobRef) -> memoryview:
        return self._wait(self._store.get(blob.sha256))

    def store(self, encoded: Encoded) -> BlobRef:
        return self._wait(self._store.put(encoded.chunks))

    def renew(self, blob: BlobRef) -> bool:
        return self._wait(self._store.renew(blob.sha256)) is not None

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
