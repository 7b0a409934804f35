"""Deletes runs whose time is up: actors that were idle for as long as their class says.

The run is held until the deletion is decided, as for a cancellation. The deletion is one entry of the journal, which
the store refuses if the run has an event that its machine does not know. Either the call is recorded first and the
actor stays, or the deletion commits first and the call finds no actor. The timer of the run stays in the store until
the run is deleted, so it fires again after a crash.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from perdure.engine.messages import DeleteUnused
from perdure.service.runs.holding import Holding
from perdure.service.runs.memory import Memory
from perdure.service.runs.timers import Timers
from perdure.service.runs.values import Values
from perdure.storage.ports import StorageError
from perdure.storage.rows import RunRow, Timer

log = logging.getLogger(__name__)

AT_ONCE: Final = 100
"""Runs that are deleted at the same time."""
AGAIN_MS: Final = 1_000
"""The pause before a deletion that did not happen is tried again, unless the run was used meanwhile."""

Remove: TypeAlias = Callable[[RunRow, int], Awaitable[bool]]
"""Deletes a run unless it has an event above this sequence. False: it has one. Raises StorageError if the run was
certainly not deleted."""


class Expiring:
    """Deletes runs that their machines want to be deleted."""

    def __init__(
        self,
        memory: Memory,
        holding: Holding,
        values: Values,
        timers: Timers,
        clock: Callable[[], int],
        remove: Remove,
        on_end: Callable[[str], None],
    ) -> None:
        self._memory = memory
        self._holding = holding
        self._values = values
        self._timers = timers
        self._clock = clock
        self._remove = remove
        self._on_end = on_end
        self._places = asyncio.Semaphore(AT_ONCE)

    def expire(self, run_id: str, wanted: DeleteUnused) -> None:
        """Delete a run, or fire its timer again if that cannot be now."""
        self._holding.spawn(self._expire(run_id, wanted))

    async def _expire(self, run_id: str, wanted: DeleteUnused) -> None:
        async with self._places:
            if not await self._is_removed(run_id, wanted.last_event):
                again = Timer(run_id, wanted.task_id, wanted.attempt, self._clock() + AGAIN_MS)
                self._timers.set(again, is_recorded=False)

    async def _is_removed(self, run_id: str, last_event: int) -> bool:
        live = self._memory.find(run_id)
        if live is None or live.held is not None or live.pending or live.is_refused or not live.run.is_dormant:
            return False
        if live.run.last_event != last_event:
            return False
        live.held = deque()
        live.pending += 1
        is_removed = False
        try:
            is_removed = await self._remove(live.row, last_event)
        except StorageError as error:
            log.warning("idle actor not deleted, trying again", extra={"run_id": run_id, "error": str(error)})
        finally:
            live.pending -= 1
            if is_removed:
                live.is_refused = True  # it is gone, and takes no events
                self._values.unpin_run(run_id)
                self._memory.dismiss(live)
                self._on_end(run_id)
            self._holding.release(live)
            self._memory.evict_if_idle(live)
        return is_removed
