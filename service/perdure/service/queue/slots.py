"""Slots: how many runs of a namespace are at work, and how many wait for that.

A slot is taken before the row that holds it is stored. It is given back when the store refused that row, or when the
end of the run is durable, so there are never more RUNNING rows than slots. Slots are not stored: the store's rows say
who holds one, so a crash neither loses nor leaks one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Final, Protocol

from perdure import errors
from perdure.model import RunStatus, frozen
from perdure.storage.ports import QueueStore
from perdure.storage.rows import Limit, RunRow

ANY: Final = -1
"""A limit that is none."""
PAGE: Final = 100
"""Runs that are started together at most."""


@frozen
class Way:
    """A state in which a run may be stored. With `guards` in front of it the store may refuse it for its
    own reasons, and there may be another way."""

    status: RunStatus
    guards: tuple[Limit, ...] = ()


@frozen
class Capacity:
    """How many runs of each namespace may run, and how many may wait."""

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


class Slots(Protocol):
    """Gives out slots and places in the queue."""

    @property
    def capacity(self) -> Capacity: ...

    @property
    def stirred(self) -> asyncio.Event:
        """Set whenever a run that waits may have got its turn."""
        ...

    async def count(self) -> None:
        """Learn from the store who holds a slot and how many wait. Comes before anything else. Raises StorageError."""
        ...

    # ------------------------------------------------------------------ a row that is about to be stored

    def ways(self, namespace: str, run_id: str) -> Iterator[Way]:
        """The states in which the row may be stored, to be tried in this order, each with what must be written with
        it. What the row needs is taken. A way that was tried in vain has to be withdrawn. When no way is left, the
        queue is full."""
        ...

    def withdraw(self, row: RunRow) -> None:
        """The row was not stored: what was taken for it is given back."""
        ...

    # ------------------------------------------------------------------ runs that wait

    def crowded(self) -> list[str]:
        """Namespaces in which runs wait."""
        ...

    def free(self, namespace: str) -> int:
        """How many of those that wait may start now, as far as that is known here."""
        ...

    def promote(self, namespace: str, run_id: str) -> tuple[Limit, ...]:
        """A run that waits is about to start; gives the guards of that."""
        ...

    def demote(self, namespace: str, run_id: str) -> None:
        """It did not start, and waits again."""
        ...

    def forget(self, namespace: str) -> None:
        """A run of the namespace has left the queue for good."""
        ...

    # ------------------------------------------------------------------ runs that are at work

    def leave(self, run_id: str) -> None:
        """A run has ended for good or for now: its slot is free. Leaving twice is no error."""
        ...

    def count_running(self, namespace: str) -> int:
        """How many are known here to hold a slot; 0 if there is no limit."""
        ...

    def count_pending(self, namespace: str) -> int:
        """How many are known here to wait for one."""
        ...


class LocalSlots:
    """Implements Slots where there is one engine: what is counted in memory is what there is."""

    def __init__(self, store: QueueStore, capacity: Capacity) -> None:
        self.capacity = capacity
        self.stirred = asyncio.Event()
        self._store = store
        self._holders: dict[str, str] = {}  # run id: namespace; empty if there is no limit
        self._running: Counter[str] = Counter()
        self._pending: Counter[str] = Counter()

    async def count(self) -> None:
        running = await self._store.running_runs() if self.capacity.running != ANY else []
        self._pending = Counter(await self._store.count_pending())
        for namespace, run_id in running:
            self._take(namespace, run_id)

    def ways(self, namespace: str, run_id: str) -> Iterator[Way]:
        """Runs for which there is a slot already do not count as waiting."""
        if self.capacity.running == ANY:
            yield Way(RunStatus.RUNNING)
            return
        waiting = self._pending[namespace] - self.free(namespace)
        if waiting < 0 and not self._pending[namespace]:
            self._take(namespace, run_id)
            yield Way(RunStatus.RUNNING)
        elif self.capacity.pending == ANY or waiting < self.capacity.pending:
            self._pending[namespace] += 1
            yield Way(RunStatus.PENDING)

    def withdraw(self, row: RunRow) -> None:
        if row.status is RunStatus.PENDING:
            self._pending[row.namespace] -= 1
        else:
            self.leave(row.run_id)

    def crowded(self) -> list[str]:
        return [namespace for namespace, count in self._pending.items() if count > 0]

    def free(self, namespace: str) -> int:
        return PAGE if self.capacity.running == ANY else max(self.capacity.running - self._running[namespace], 0)

    def promote(self, namespace: str, run_id: str) -> tuple[Limit, ...]:
        if self.capacity.running != ANY:
            self._take(namespace, run_id)
        self._pending[namespace] -= 1
        return ()

    def demote(self, namespace: str, run_id: str) -> None:
        self.leave(run_id)
        self._pending[namespace] += 1

    def forget(self, namespace: str) -> None:
        self._pending[namespace] -= 1

    def leave(self, run_id: str) -> None:
        namespace = self._holders.pop(run_id, None)
        if namespace is not None:
            self._running[namespace] -= 1
            if self._pending[namespace]:
                self.stirred.set()

    def count_running(self, namespace: str) -> int:
        return self._running[namespace]

    def count_pending(self, namespace: str) -> int:
        return self._pending[namespace]

    def _take(self, namespace: str, run_id: str) -> None:
        if run_id not in self._holders:
            self._holders[run_id] = namespace
            self._running[namespace] += 1
