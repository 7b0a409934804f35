"""Slots that hold over all engines of a namespace: the store counts, under a lock.

The numbers here only tell whether asking the store is worthwhile. This engine may not hear that a run ended elsewhere
and freed a slot, nor that an engine with a limit queued runs and died. So it polls the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from perdure.model import RunStatus
from perdure.service.journal.loops import Loop
from perdure.service.queue.slots import ANY, PAGE, Capacity, Pending, Way
from perdure.storage.ports import QueueStore
from perdure.storage.rows import Limit, RunRow

POLL_S: Final = 1.0


class SharedSlots(Pending):
    """Implements Slots for one engine among several."""

    def __init__(self, store: QueueStore, capacity: Capacity) -> None:
        super().__init__(store, capacity)
        self._polling = Loop("slots-poll", self._poll, trouble="queue not read, trying again", first_s=POLL_S)

    # -------------------------------------------------------------------------- the other engines

    async def start(self) -> None:
        """Begin to ask the store how many wait."""
        self._polling.start()

    async def stop(self) -> None:
        await self._polling.stop()

    def wake(self) -> None:
        """Another engine changed something, so there may be a free slot."""
        if self._pending.total() > 0:
            self.stirred.set()

    async def _poll(self) -> float:
        await self.count()
        self.wake()
        return POLL_S

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

    def withdraw(self, row: RunRow) -> None:
        if row.status is RunStatus.PENDING:
            self._pending[row.namespace] -= 1
        else:
            self.wake()

    def free(self, namespace: str) -> int:
        return PAGE

    def promote(self, namespace: str, run_id: str) -> tuple[Limit, ...]:
        self._pending[namespace] -= 1
        return self._has_slot(namespace)

    def demote(self, namespace: str, run_id: str) -> None:
        self.wake()
        self._pending[namespace] += 1

    def leave(self, run_id: str) -> None:
        self.wake()

    def count_running(self, namespace: str) -> int:
        return 0

    def _has_slot(self, namespace: str) -> tuple[Limit, ...]:
        return (Limit(namespace, RunStatus.RUNNING, self.capacity.running),) if self.capacity.running != ANY else ()
