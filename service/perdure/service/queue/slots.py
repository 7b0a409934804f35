"""Slots: limits of the running and the pending runs of a namespace.

A slot is taken before its row is stored. It is given back when the store refuses the row, or when the end of the run
is durable, so there are never more RUNNING rows than slots. Slots are not stored: RUNNING rows hold them, so a crash
neither loses nor leaks one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Final, Protocol

from perdure import errors
from perdure.model import RunStatus, frozen
from perdure.storage.ports import QueueStore
from perdure.storage.rows import ACTOR, RunRow
from perdure.storage.writes import Limit

ANY: Final = -1
"""No limit."""
PAGE: Final = 100
"""The most runs that are started together."""


@frozen
class Way:
    """A state in which a run may be stored. With `guards` in its entry the store may refuse it, and there may be
    another way."""

    status: RunStatus
    guards: tuple[Limit, ...] = ()


@frozen
class Capacity:
    """The limits of running and pending runs of each namespace."""

    running: int = ANY
    pending: int = ANY

    def exceeded(self, namespace: str) -> errors.QueueFullError:
        """The error of a run for which there is neither a slot nor a place in the queue."""
        return errors.QueueFullError(
            f"{self.running} workflows run and {self.pending} wait, which is as many as may",
            namespace=namespace,
            max_running=str(self.running),
            max_pending=str(self.pending),
        )


def ways_of(slots: Slots, row: RunRow) -> Iterator[Way]:
    """The ways of a row that is about to be stored. Actors need no slot: they live until they are deleted."""
    return iter((Way(RunStatus.RUNNING),)) if row.kind == ACTOR else slots.ways(row.namespace, row.run_id)


class Slots(Protocol):
    """Gives out slots and places in the queue."""

    @property
    def capacity(self) -> Capacity: ...

    @property
    def stirred(self) -> asyncio.Event:
        """Set whenever a pending run may start."""
        ...

    def queued(self) -> None:
        """A run is durably pending. There may be a slot for it: one may have become free before its row was stored."""
        ...

    async def count(self) -> None:
        """Count running and pending runs in the store. Must be called first. Raises StorageError."""
        ...

    # ------------------------------------------------------------------ a row that is about to be stored

    def ways(self, namespace: str, run_id: str) -> Iterator[Way]:
        """The states in which the row may be stored, to be tried in this order, each with the guards of its entry. The
        slot or place of a way is taken when it is returned; a way that was refused must be withdrawn. When no way is
        left, the queue is full."""
        ...

    def withdraw(self, row: RunRow) -> None:
        """The row was not stored: give its slot or place back."""
        ...

    # ------------------------------------------------------------------ runs that wait

    def crowded(self) -> list[str]:
        """Namespaces with pending runs."""
        ...

    def free(self, namespace: str) -> int:
        """The number of pending runs that may start now, as far as is known here."""
        ...

    def promote(self, namespace: str, run_id: str) -> tuple[Limit, ...]:
        """A pending run is about to start. Returns the guards of its entry."""
        ...

    def demote(self, namespace: str, run_id: str) -> None:
        """The run did not start, and is pending again."""
        ...

    def forget(self, namespace: str) -> None:
        """A run of the namespace has left the queue for good."""
        ...

    # ------------------------------------------------------------------ runs that are at work

    def leave(self, run_id: str) -> None:
        """A run has ended: its slot is free. Leaving twice is allowed."""
        ...

    def count_running(self, namespace: str) -> int:
        """The number of runs that are known here to hold a slot; 0 if there is no limit."""
        ...

    def count_pending(self, namespace: str) -> int:
        """The number of runs that are known here to wait for one."""
        ...


class Pending:
    """The pending runs that are known here, counted by namespace. This is the same for one engine and among several."""

    def __init__(self, store: QueueStore, capacity: Capacity) -> None:
        self.capacity = capacity
        self.stirred = asyncio.Event()
        self._store = store
        self._pending: Counter[str] = Counter()

    async def count(self) -> None:
        """Count the pending runs in the store, also without a limit: there may have been one before, or another engine
        may have one."""
        self._pending = Counter(await self._store.count_pending())

    def queued(self) -> None:
        self.stirred.set()

    def crowded(self) -> list[str]:
        return [namespace for namespace, count in self._pending.items() if count > 0]

    def forget(self, namespace: str) -> None:
        self._pending[namespace] -= 1

    def count_pending(self, namespace: str) -> int:
        return self._pending[namespace]


class LocalSlots(Pending):
    """Implements Slots for a single engine, which counts in memory."""

    def __init__(self, store: QueueStore, capacity: Capacity) -> None:
        super().__init__(store, capacity)
        self._holders: dict[str, str] = {}  # run id: namespace; empty if there is no limit
        self._running: Counter[str] = Counter()

    async def count(self) -> None:
        running = await self._store.running_runs() if self.capacity.running != ANY else []
        await super().count()
        for namespace, run_id in running:
            self._hold(namespace, run_id)

    def ways(self, namespace: str, run_id: str) -> Iterator[Way]:
        """See Slots. Pending runs for which there is already a slot do not use a place in the queue."""
        if self.capacity.running == ANY:
            yield Way(RunStatus.RUNNING)
            return
        waiting = self._pending[namespace] - self.free(namespace)
        if waiting < 0 and not self._pending[namespace]:
            self._hold(namespace, run_id)
            yield Way(RunStatus.RUNNING)
        elif self.capacity.pending == ANY or waiting < self.capacity.pending:
            self._pending[namespace] += 1
            yield Way(RunStatus.PENDING)

    def withdraw(self, row: RunRow) -> None:
        if row.status is RunStatus.PENDING:
            self._pending[row.namespace] -= 1
        else:
            self.leave(row.run_id)

    def free(self, namespace: str) -> int:
        return PAGE if self.capacity.running == ANY else max(self.capacity.running - self._running[namespace], 0)

    def promote(self, namespace: str, run_id: str) -> tuple[Limit, ...]:
        if self.capacity.running != ANY:
            self._hold(namespace, run_id)
        self._pending[namespace] -= 1
        return ()

    def demote(self, namespace: str, run_id: str) -> None:
        self.leave(run_id)
        self._pending[namespace] += 1

    def leave(self, run_id: str) -> None:
        namespace = self._holders.pop(run_id, None)
        if namespace is not None:
            self._running[namespace] -= 1
            if self._pending[namespace]:
                self.stirred.set()

    def count_running(self, namespace: str) -> int:
        return self._running[namespace]

    def _hold(self, namespace: str, run_id: str) -> None:
        if run_id not in self._holders:
            self._holders[run_id] = namespace
            self._running[namespace] += 1
