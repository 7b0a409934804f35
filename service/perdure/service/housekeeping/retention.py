"""Deletes runs that ended long ago. It is off unless the settings say how long runs are kept. Of actors it only deletes
canceled ones, whose deletion was broken off.

Each deletion is one entry of the journal, like a client's deletion: it happens wholly or not at all, so an engine may
die at any moment and the next one goes on. The entry is conditional on the row that was read: a run that was resumed
meanwhile is not deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from perdure.service.housekeeping.deletion import Deletions
from perdure.service.journal.loops import Loop
from perdure.service.queue.moves import Moves
from perdure.storage.ports import HousekeepingStore, RunStore
from perdure.storage.rows import RunRow

log = logging.getLogger(__name__)

PAGE: Final = 100
PAUSE_MIN_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0


class RetentionStore(HousekeepingStore, RunStore, Protocol):
    """The part of the store that the retention uses."""


class Retention:
    """Deletes final runs `keep_ms` after their end, in the background."""

    def __init__(
        self,
        store: RetentionStore,
        moves: Moves,
        deletions: Deletions,
        clock: Callable[[], int],
        *,
        keep_ms: int,
    ) -> None:
        self._store = store
        self._moves = moves
        self._deletions = deletions
        self._clock = clock
        self._keep_ms = keep_ms
        self._loop = Loop("retention", self._step, trouble="retention broken off, trying again", failed=self._pause_s)

    async def start(self) -> None:
        self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    async def expire(self) -> int:
        """Delete all runs that are old enough now. Returns their number. Raises StorageError."""
        before_ms = self._clock() - self._keep_ms
        count = 0
        while page := await self._store.finished_runs(before_ms=before_ms, limit=PAGE):
            gone = sum(await asyncio.gather(*[self._delete(row, before_ms) for row in page]))
            count += gone
            if gone < len(page):  # another engine deletes the same runs: go on later
                break
        return count

    async def _delete(self, row: RunRow, before_ms: int) -> bool:
        async with self._moves.alone(row.run_id):
            now = await self._store.get_run(row.run_id)
            if now is None or not now.status.is_final or now.end_ms is None or now.end_ms >= before_ms:
                return False
            current = await self._store.find_run(row.namespace, row.workflow_id)
            if not await self._deletions.remove(now):
                return False
        if current is not None and current.run_id == row.run_id:
            self._deletions.tell(row)
        return True

    async def _step(self) -> float:
        if count := await self.expire():
            log.info("finished runs deleted", extra={"runs": count})
        return self._pause_s()

    def _pause_s(self) -> float:
        return min(max(self._keep_ms / 10_000, PAUSE_MIN_S), PAUSE_MAX_S)
