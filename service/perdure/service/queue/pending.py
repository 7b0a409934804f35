"""The queue: pending runs start in the order in which they became PENDING.

A pending run is a row. Memory holds only the number of pending runs. Graph and priority of a run do not matter.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Protocol

from perdure.model import RunStatus
from perdure.service.journal.loops import Loop, until_answered
from perdure.service.queue.moves import Moves
from perdure.service.queue.slots import PAGE, Slots
from perdure.service.runs.scheduler import Scheduler
from perdure.storage.ports import QueueStore, RunStore
from perdure.storage.rows import RunRow


class PendingStore(QueueStore, RunStore, Protocol):
    """The part of the store that the queue uses."""


class PendingRuns:
    """Starts pending runs whenever there is a slot."""

    def __init__(self, store: PendingStore, scheduler: Scheduler, slots: Slots, moves: Moves) -> None:
        self._store = store
        self._scheduler = scheduler
        self._slots = slots
        self._moves = moves
        self._damaged: set[str] = set()
        self._loop = Loop("queue", self._start_all, trouble="nobody started, trying again", wake=slots.stirred)

    async def count(self) -> None:
        """Count the slots, as soon as the store answers. Must be called first."""
        await until_answered(self._slots.count, trouble="queue not read")

    async def start(self) -> None:
        """Begin to start pending runs."""
        self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    @property
    def is_idle(self) -> bool:
        """Whether no run is about to start."""
        return self._loop.is_idle

    async def _start_all(self) -> None:
        for namespace in self._slots.crowded():
            await self._start_oldest(namespace)

    async def _start_oldest(self, namespace: str) -> None:
        while free := self._slots.free(namespace):
            found = await self._store.pending_runs(namespace, limit=min(free, PAGE) + len(self._damaged))
            page = [row for row in found if row.run_id not in self._damaged]
            if not page:
                return
            async with AsyncExitStack() as alone:
                waiting = []
                for row in page:  # in order: a run that cannot start now is not overtaken
                    await alone.enter_async_context(self._moves.alone(row.run_id))
                    if row.damage:
                        self._fail(row)
                        continue
                    now = await self._store.get_run(row.run_id)
                    if now is not None and now.status is RunStatus.PENDING:  # it was not canceled meanwhile
                        waiting.append(now)
                # The starts are adjacent entries of the journal. So if the first one is refused, no slot becomes free
                # in between that would go to the second one.
                if None in await asyncio.gather(*[self._moves.start(now) for now in waiting]):
                    return  # another engine was faster; its change wakes this loop

    def _fail(self, row: RunRow) -> None:
        """Fail a pending run whose row is damaged, and give its place to others."""
        self._damaged.add(row.run_id)
        self._slots.forget(row.namespace)
        self._scheduler.fail_corrupt(row)
