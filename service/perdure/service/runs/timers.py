"""Fires timers when they are due.

Timers are in the store. Memory holds those of the next minute only, so millions of runs may sleep. A timer may fire
more than once (after a restart, for example); the core takes it once.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Final

from perdure.service.journal.loops import TROUBLE_S, Loop
from perdure.storage.ports import TimerStore
from perdure.storage.rows import Timer

HORIZON_MS: Final = 60_000
PAGE: Final = 10_000
POLL_S: Final = 20.0
FIRED_AT_ONCE = 50
"""Timers that fire in one turn of the event loop, if many are due."""
END_OF_TIME_MS: Final = (1 << 63) - 1
"""The largest time that a store can hold."""


class Timers:
    """Calls `fire` for every timer that is due."""

    def __init__(self, store: TimerStore, clock: Callable[[], int], fire: Callable[[Timer], None]) -> None:
        self._store = store
        self._clock = clock
        self._fire = fire
        self._heap: list[tuple[int, str, str, int]] = []
        self._known: set[tuple[int, str, str, int]] = set()
        self._horizon_ms = 0
        self._handle: asyncio.TimerHandle | None = None
        self._loop = Loop("timers", self._poll, trouble="timers not read, trying again")

    async def start(self) -> None:
        self._loop.start()

    async def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        await self._loop.stop()

    def look_again(self) -> None:
        """Read timers from the store: there are some that were not set here."""
        self._loop.wake()

    async def next_ms(self, *, after_ms: int = -1) -> int | None:
        """The time of the earliest timer after this moment, here or in the store; None if there is none. A timer stays
        in the store after it has fired, until what it let begin has ended."""
        stored = await self._store.next_timers(until_ms=END_OF_TIME_MS, limit=1 if after_ms < 0 else PAGE)
        moments = [timer.wake_ms for timer in stored] + [item[0] for item in self._heap]
        return min((moment for moment in moments if moment > after_ms), default=None)

    async def clock_moved(self) -> None:
        """The clock was moved by hand: fire the timers that are due now."""
        await self._poll()
        self._fire_due()
        while self._heap and self._heap[0][0] <= self._clock():
            await asyncio.sleep(0)
            self._fire_due()

    def set(self, timer: Timer, *, is_recorded: bool) -> None:
        """Set a timer. A recorded timer beyond the horizon is left to the store."""
        if is_recorded and timer.wake_ms > self._horizon_ms:
            return
        item = (timer.wake_ms, timer.run_id, timer.task_id, timer.attempt)
        if item in self._known:
            return
        self._known.add(item)
        heapq.heappush(self._heap, item)
        if self._heap[0] is item:
            self._arm()

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._heap:
            delay_s = max(self._heap[0][0] - self._clock(), 0) / 1000
            self._handle = asyncio.get_running_loop().call_later(delay_s, self._fire_due)

    def _fire_due(self) -> None:
        now_ms = self._clock()
        for _ in range(FIRED_AT_ONCE):
            if not self._heap or self._heap[0][0] > now_ms:
                break
            item = heapq.heappop(self._heap)
            self._known.discard(item)
            wake_ms, run_id, task_id, attempt = item
            self._fire(Timer(run_id, task_id, attempt, wake_ms))
        self._arm()

    async def _poll(self) -> float:
        """Read the timers up to a new horizon. Returns the seconds until the next poll."""
        until_ms = self._clock() + HORIZON_MS
        # The horizon moves first: a timer that is recorded during the read is then set directly, and one that was
        # recorded before is in the page.
        before_ms, self._horizon_ms = self._horizon_ms, until_ms
        try:
            page = await self._store.next_timers(until_ms=until_ms, limit=PAGE)
        except Exception:
            self._horizon_ms = before_ms
            raise
        for timer in page:
            self.set(timer, is_recorded=True)
        if len(page) < PAGE:
            return POLL_S
        self._horizon_ms = page[-1].wake_ms
        return max((page[-1].wake_ms - self._clock()) / 2000, TROUBLE_S)
