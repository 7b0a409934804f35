"""Removes blobs that nobody uses any more.

The store knows who uses what: the entry that mentions a blob notes the use. Deleting a run marks its
blobs, and so does a report that comes too late. A sweep looks at the marked ones: one that a run uses
is let go, one that nobody uses is removed, unless it was put within the grace period. For whoever puts
a blob (and finds it there, perhaps) is about to have its use noted, and that takes a while. Marks are
rows, so a sweep that died is done again by the next engine; what was removed twice is gone all the same.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from perdure.service.journal import Journal
from perdure.storage.ports import BlobStore, MetadataStore, StorageError
from perdure.storage.rows import BlobMark, Unmark

log = logging.getLogger(__name__)

PAGE: Final = 500
PAUSE_S: Final = 1.0
"""Between two sweeps, so that many deletions are one sweep. There is none without a grace period."""
AGAIN_MAX_S: Final = 60.0


class Sweeper:
    """Sweeps in the background, at the start and whenever it is woken."""

    def __init__(self, store: MetadataStore, journal: Journal, blobs: BlobStore, *, grace_s: float) -> None:
        self._store = store
        self._journal = journal
        self._blobs = blobs
        self._grace_s = grace_s
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._sweep_forever(), name="sweep")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wake(self) -> None:
        """Blobs were marked."""
        self._wake.set()

    async def sweep(self) -> bool:
        """Look at all that is marked. Gives whether marks are left: of blobs that were put lately, or that
        the blob store would not remove."""
        await self._journal.barrier()  # uses that were reported before the look are in the store then
        is_left, after = False, ""
        while page := await self._store.marked_blobs(after=after, limit=PAGE):
            after = page[-1].sha256
            done = [mark for mark in page if mark.is_used or await self._remove(mark)]
            is_left = is_left or len(done) < len(page)
            if done:
                await self._journal.write((Unmark(tuple(done)),), droppable=True)
        return is_left

    async def _remove(self, mark: BlobMark) -> bool:
        try:
            return await self._blobs.delete(mark.sha256, idle_s=self._grace_s)
        except StorageError as error:
            log.warning("blob not removed, trying again", extra={"sha256": mark.sha256, "error": str(error)})
            return False

    async def _sweep_forever(self) -> None:
        while True:
            self._wake.clear()
            try:
                is_left = await self.sweep()
            except Exception as error:
                log.warning("sweep broken off, trying again", exc_info=not isinstance(error, StorageError))
                is_left = True
            if self._grace_s:
                await asyncio.sleep(PAUSE_S)
            again_s = min(max(self._grace_s / 2, PAUSE_S), AGAIN_MAX_S) if is_left else None
            with suppress(TimeoutError):
                async with asyncio.timeout(again_s):
                    await self._wake.wait()
