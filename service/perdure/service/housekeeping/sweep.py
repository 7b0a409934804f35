"""Removes unused blobs, but none that a run uses or is about to use.

Uses. The journal entry that stores a reference to a blob also stores that the run uses the blob.

Marks. Deleting a run marks its blobs. So does an actor that forgets a record, and a late report. Marks are rows, so
after a crash the next engine sweeps again; removing a blob is idempotent.

Sweep. A sweep unmarks the marked blobs that a run uses, and removes the unused ones, unless they were put within the
grace period: a client or worker that has put a blob is about to have its use stored.

Collection. Some blobs are never used: those of an attempt whose receipt was lost, or of an upload without a run. From
time to time a collection lists all blobs and marks the unused ones; the sweep does the rest.

A sweep is correct if each use is stored within the grace period after the put, as seen from the moment when the sweep
read the uses. So a sweep that is delayed adds the delay to the grace period. Uses are also delayed while the database
is away or an engine is stopped. So a sweep first waits until neither has happened for a while, in which delayed uses
are stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from perdure.service.common.clocks import elapsed_s
from perdure.service.journal.journal import Journal
from perdure.service.journal.loops import Loop
from perdure.storage.ports import BlobStore, ChangeStore, HousekeepingStore, StorageError
from perdure.storage.rows import BlobMark
from perdure.storage.writes import MarkBlobs, Unmark

log = logging.getLogger(__name__)

PAGE: Final = 500
PAUSE_S: Final = 1.0
"""The pause between two sweeps, so that many deletions share one. There is none without a grace period."""
AGAIN_MAX_S: Final = 60.0
CALM_S: Final = 30.0
"""Before a sweep, the database has answered and this engine was awake for at least this long."""
BEAT_S: Final = 1.0


class SweepStore(ChangeStore, HousekeepingStore, Protocol):
    """The part of the store that a sweep uses."""


class Sweeper:
    """Sweeps in the background, at the start and whenever it is woken."""

    def __init__(
        self,
        store: SweepStore,
        journal: Journal,
        blobs: BlobStore,
        *,
        grace_s: float,
        collect_s: float = 0,
        now_s: Callable[[], float] = elapsed_s,
    ) -> None:
        """`collect_s` is the time between two collections; 0: none in the background. `now_s` is a clock that goes on
        while the process is stopped."""
        self._now_s = now_s
        self._store = store
        self._journal = journal
        self._blobs = blobs
        self._grace_s = grace_s
        self._collect_s = collect_s
        self._sweeping = Loop("sweep", self._sweep, trouble="sweep broken off, trying again", failed=self._again_s)
        self._collecting = Loop(
            "collect", self._collect, trouble="collection broken off", first_s=collect_s, failed=lambda: collect_s
        )

    async def start(self) -> None:
        self._sweeping.start()
        if self._collect_s:
            self._collecting.start()

    async def stop(self) -> None:
        await self._sweeping.stop()
        await self._collecting.stop()

    def wake(self) -> None:
        """Blobs were marked."""
        self._sweeping.wake()

    async def sweep(self) -> bool:
        """Check all marked blobs. Returns whether marks are left: of blobs that were put recently, or that the blob
        store could not remove."""
        is_left, after = False, ""
        while True:
            looked_s = self._now_s()
            await self._journal.barrier()  # uses that were reported before are now in the store
            page = await self._store.marked_blobs(after=after, limit=PAGE)
            if not page:
                return is_left
            after = page[-1].sha256
            done = [mark for mark in page if mark.is_used or await self._remove(mark, looked_s)]
            is_left = is_left or len(done) < len(page)
            if done:
                await self._journal.commit((Unmark(tuple(done)),), droppable=True)

    async def collect(self) -> tuple[int, int]:
        """Mark all blobs that no run uses. Returns the number of all blobs and of those that it marked."""
        seen = marked = 0
        page: list[str] = []
        async for blob in self._blobs.list():
            seen += 1
            page.append(blob.sha256)
            if len(page) == PAGE:
                marked += await self._mark_unused(page)
                page = []
        if page:
            marked += await self._mark_unused(page)
        if marked:
            self.wake()
        return seen, marked

    async def _mark_unused(self, sha256s: list[str]) -> int:
        unused = await self._store.unused_blobs(sha256s)
        if unused:
            await self._journal.commit((MarkBlobs(tuple(unused)),), droppable=True)
        return len(unused)

    async def _remove(self, mark: BlobMark, looked_s: float) -> bool:
        idle_s = self._grace_s + self._now_s() - looked_s if self._grace_s else 0
        try:
            return await self._blobs.delete(mark.sha256, idle_s=idle_s)
        except StorageError as error:
            log.warning("blob not removed, trying again", extra={"sha256": mark.sha256, "error": str(error)})
            return False

    async def _sweep(self) -> float | None:
        if self._grace_s:
            await self._calm()
        is_left = await self.sweep()
        if self._grace_s:
            await asyncio.sleep(PAUSE_S)
        return self._again_s() if is_left else None

    def _again_s(self) -> float:
        return min(max(self._grace_s / 2, PAUSE_S), AGAIN_MAX_S)

    async def _calm(self) -> None:
        """Wait until this engine was awake and the database answered for long enough."""
        calm_s = min(CALM_S, self._grace_s / 4)
        since_s = last_s = self._now_s()
        while self._now_s() - since_s < calm_s:
            await asyncio.sleep(min(BEAT_S, calm_s))
            is_answering = self._journal.error is None
            try:
                await self._store.last_change()
            except StorageError:
                is_answering = False
            now_s = self._now_s()
            if not is_answering or now_s - last_s > 5 * BEAT_S:
                since_s = now_s
            last_s = now_s

    async def _collect(self) -> float:
        seen, marked = await self.collect()
        log.info("blobs collected", extra={"blobs": seen, "unused": marked})
        return self._collect_s
