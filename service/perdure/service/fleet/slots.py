"""Slots that hold over all engines of a namespace: the store counts, under a lock.

The numbers here only tell whether asking the store is worthwhile. Other engines queue runs, start them, free slots and
die, so the numbers are read again after each hint of a change. Hints may be lost, so while runs wait the store is
polled. While none waits, it is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from perdure.model import RunStatus
from perdure.service.journal.loops import Loop
from perdure.service.queue.slots import ANY, PAGE, Capacity, Pending, Way
from perdure.storage.ports import QueueStore
from perdure.storage.rows import RunRow
from perdure.storage.writes import Limit

POLL_S: Final = 1.0
"""Pending runs are counted at most this often."""


class SharedSlots(Pending):
    """Implements Slots for one engine among several."""

    def __init__(self, store: QueueStore, capacity: Capacity) -> None:
        super().__init__(store, capacity)
        self._counting = Loop("slots-count", self._count, trouble="queue not read, trying again", gather_s=POLL_S)

    # -------------------------------------------------------------------------- the other engines

    async def start(self) -> None:
        """Begin to follow the number of pending runs."""
        self._counting.start()

    async def stop(self) -> None:
        await self._counting.stop()

    def heard(self) -> None:
        """Another engine may have changed something: queued a run, or freed a slot."""
        self._stir()
        self._counting.wake()

    def _stir(self) -> None:
        if self.crowded():
            self.stirred.set()

    async def _count(self) -> float | None:
        await self.count()
        self._stir()
        return 0 if self.crowded() else None  # after `gather_s`

    # -------------------------------------------------------------------------- the port

    def ways(self, namespace: str, run_id: str) -> Iterator[Way]:
        """Run at once if there is a slot and no other run waits; else wait in the queue if it has room."""
        if self.capacity.running == ANY:
            yield Way(RunStatus.RUNNING)
            return
        nobody_waits = Limit(namespace, RunStatus.PENDING, 1)
        yield Way(RunStatus.RUNNING, (*self._has_slot(namespace), nobody_waits))
        self._pending[namespace] += 1
        if self.capacity.pending == ANY:
            yield Way(RunStatus.PENDING)
        else:
            yield Way(RunStatus.PENDING, (Limit(namespace, RunStatus.PENDING, self.capacity.pending),))

    def queued(self) -> None:
        super().queued()
        self._counting.wake()  # a count that began before the commit has left the run out

    def withdraw(self, row: RunRow) -> None:
        if row.status is RunStatus.PENDING:
            self._pending[row.namespace] -= 1
        else:
            self.heard()  # the run may be pending again, and its slot free

    def free(self, namespace: str) -> int:
        return PAGE

    def promote(self, namespace: str, run_id: str) -> tuple[Limit, ...]:
        self._pending[namespace] -= 1
        return self._has_slot(namespace)

    def demote(self, namespace: str, run_id: str) -> None:
        self.heard()
        self._pending[namespace] += 1

    def leave(self, run_id: str) -> None:
        self._stir()

    def count_running(self, namespace: str) -> int:
        return 0

    def _has_slot(self, namespace: str) -> tuple[Limit, ...]:
        return (Limit(namespace, RunStatus.RUNNING, self.capacity.running),) if self.capacity.running != ANY else ()
