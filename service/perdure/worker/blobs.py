"""The blob store for synchronous code.

While the store is away or full, an attempt waits for it, so that its result is not lost and the outage costs no retry.
The wait can be interrupted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from perdure.codec import Encoded
from perdure.model import BlobRef
from perdure.storage.ports import BlobStore, StorageFull, StorageUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_S: Final = 600.0
PAUSE_FIRST_S: Final = 0.2
PAUSE_MAX_S: Final = 5.0
STEP_S: Final = 0.05


class BlockingBlobs:
    """Runs the store's coroutines on a loop that runs in another thread."""

    def __init__(self, store: BlobStore, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop

    def load(self, blob: BlobRef) -> memoryview:
        return self._patiently(lambda: self._store.get(blob.sha256))

    def store(self, encoded: Encoded) -> BlobRef:
        return self._patiently(lambda: self._store.put(encoded.chunks))

    def renew(self, blob: BlobRef) -> bool:
        return self._patiently(lambda: self._store.renew(blob.sha256)) is not None

    def _patiently(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        failed_s: float | None = None  # the first failure: a try before it may have taken long
        pause_s = PAUSE_FIRST_S
        while True:
            try:
                return self._wait(work())
            except (StorageUnavailable, StorageFull) as error:
                now_s = time.monotonic()
                failed_s = now_s if failed_s is None else failed_s
                if now_s - failed_s >= PATIENCE_S:
                    raise
                log.warning("the blob store fails, trying again", extra={"error": str(error)})
            until_s = time.monotonic() + pause_s
            while time.monotonic() < until_s:
                time.sleep(STEP_S)  # short, because a sleeping thread cannot be interrupted
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
