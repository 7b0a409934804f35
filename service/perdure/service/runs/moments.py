"""Reads of a run, each from one durable moment.

Memory is ahead of the store by the entries that the journal still holds. So an answer is a snapshot that is taken from
memory at once, and is given when everything that was appended before it is durable; later events are not in it. The
store may also be ahead of memory, because a commit is visible there before its answer is here. With several engines,
another one may have seen the end of a run in the store and have gone on with it. So if the end of a run is being
committed, the answer waits until that is decided; by then the run has left memory.

A run that is not in memory, or whose records the store has no room for, is read from the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from perdure import errors
from perdure.bounded import Bounded
from perdure.engine.machine import Machine
from perdure.model import frozen
from perdure.service.common.aside import aside, is_large
from perdure.service.journal.journal import Journal
from perdure.service.runs.live import Live
from perdure.service.runs.ownership import Ownership
from perdure.service.runs.restore import restore_run
from perdure.service.runs.scheduler import Scheduler
from perdure.storage.ports import CorruptData, RecoveryStore, RunStore, StorageFull
from perdure.storage.rows import RunRow, StoredRun

T = TypeVar("T")

TORN_MAX: Final = 5
"""Times that a graph may be missing because it was removed while its run was read."""
LOOK_S: Final = 0.5
"""The interval at which a caller that waits for a thread checks whether the store fails."""
FINAL_TASKS_MAX: Final = 20_000
"""Tasks of final runs that are cached after rebuilding, for the next page of the same query."""


@frozen
class Moment(Generic[T]):
    """A run at one durable moment: its row, and what `take` returned. It contains all changes of tasks up to the
    scheduler's moment `number`, and all commits up to `change`. `is_here`: it was taken from memory."""

    row: RunRow
    taken: T
    number: int
    change: int
    is_here: bool


class MomentStore(RecoveryStore, RunStore, Protocol):
    """The part of the store that moments use."""


class Moments:
    """Reads runs from memory or from the store."""

    def __init__(self, store: MomentStore, journal: Journal, scheduler: Scheduler, ownership: Ownership) -> None:
        self._store = store
        self._ownership = ownership
        self._journal = journal
        self._scheduler = scheduler
        self._rebuilt: Bounded[tuple[str, int], tuple[StoredRun, Machine]] = Bounded(
            FINAL_TASKS_MAX, lambda rebuilt: rebuilt[1].size
        )

    # -------------------------------------------------------------------------- rows

    async def find_row(self, run_id: str) -> RunRow | None:
        """A run by its id."""
        await self._assure()
        live = self._scheduler.memory.find(run_id)
        if live is not None and await self._is_told(live):
            return live.row
        return await self._store.get_run(run_id)

    async def find_current(self, namespace: str, workflow_id: str) -> RunRow | None:
        """The current run of a workflow id."""
        await self._assure()
        live = self._scheduler.memory.find_current(namespace, workflow_id)
        if live is not None and await self._is_told(live):
            return live.row
        return await self._store.find_run(namespace, workflow_id)

    async def find_rows(self, run_ids: Collection[str]) -> dict[str, RunRow]:
        """The existing runs of these ids, by id."""
        await self._assure()
        here: list[Live] = []
        away: list[str] = []
        for run_id in run_ids:
            live = self._scheduler.memory.find(run_id)
            if live is not None:
                here.append(live)
            else:
                away.append(run_id)
        found: dict[str, RunRow] = {}
        for live in here:  # one wait decides all ends
            if self._is_told_now(live) or await self._is_told(live):
                found[live.row.run_id] = live.row
            else:
                away.append(live.row.run_id)
        if away:
            found.update((row.run_id, row) for row in await self._store.get_runs(away))
        return found

    async def _assure(self) -> None:
        if not self._journal.is_sure:  # the lease may have ended, so memory may be behind the store
            await self._journal.assure()

    async def _is_told(self, live: Live) -> bool:
        """Whether the row in memory is that of the store. If the end of the run is being committed, this waits for the
        commit first."""
        if live.is_ending:
            await self._is_settled(live)
        return self._is_told_now(live)

    def _is_told_now(self, live: Live) -> bool:
        return not live.is_ending and self._scheduler.memory.find(live.row.run_id) is live

    # -------------------------------------------------------------------------- tasks

    async def look(self, row: RunRow, read: Callable[[Machine], T], *, is_whole: bool = False) -> Moment[T]:
        """The result of `read` of the run, with the row of the same moment. `read` must copy what it returns, because
        the run goes on. `is_whole`: it copies all tasks, which is done in a thread if they are many.

        Raises WorkflowNotFoundError if the run was deleted meanwhile, and StorageError.
        """
        while True:
            live = self._scheduler.memory.find(row.run_id)
            if live is not None and (live.held is not None or live.is_refused) and await self._is_settled(live):
                live = self._scheduler.memory.find(row.run_id)
                if live is not None and live.at_rest is not None:
                    continue
            if live is not None and live.held is None and not live.is_refused:
                number, change = self._scheduler.publishing.moment, live.change
                before, is_over = live.row, live.is_ending
                taken = (
                    await self._scheduler.read(live, read) if is_whole and is_large(live.run.size) else read(live.run)
                )
                is_durable = await self._is_settled(live) and not live.is_refused
                if is_durable and not (is_over and self._ownership.others_may_resume()):
                    return Moment(live.row if is_over else before, taken, number, change, is_here=True)
                # otherwise memory had state that is never stored, or another engine may have gone on with the run
                live = self._scheduler.memory.find(row.run_id)
            number = live.told if live is not None else self._scheduler.publishing.moment
            stored, run = await self._rebuild(row)
            if live is not None:
                self._scheduler.tell_later(live, run)
            if live is not None or self._scheduler.memory.find(row.run_id) is None:
                taken = await aside(partial(read, run)) if is_whole and is_large(run.size) else read(run)
                return Moment(stored.run, taken, number, stored.change, is_here=False)
            # the run was loaded since, and may have gone on in memory

    async def _is_settled(self, *lives: Live) -> bool:
        """Wait until everything in memory is durable, and no thread works on these runs. False: the store is full."""
        try:
            await self._journal.barrier()
            for live in lives:
                while (at_rest := live.at_rest) is not None:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_S):
                            await at_rest.wait()
                    await self._journal.barrier()  # raises if the store fails
        except StorageFull:
            return False
        return True

    async def _rebuild(self, row: RunRow) -> tuple[StoredRun, Machine]:
        """A run from its records. Graphs are read after them: one may have been removed between, with the run or with
        the task that returned it. Then the records are read again."""
        if (known := self._rebuilt.get((row.run_id, row.change))) is not None:
            return known
        if row.damage:  # its id may be damaged too
            raise CorruptData(row.damage, subject=row.run_id)
        for torn in range(TORN_MAX + 1):
            stored = await self._store.load_run(row.run_id)
            if stored is None:
                break
            try:
                rebuilt = stored, await restore_run(stored, self._scheduler.definitions)
            except CorruptData:
                if torn == TORN_MAX:
                    raise
                continue
            if stored.run.status.is_final:
                self._keep(rebuilt)
            return rebuilt
        raise not_found(row.namespace, row.workflow_id)

    def _keep(self, rebuilt: tuple[StoredRun, Machine]) -> None:
        row = rebuilt[0].run
        if (row.run_id, row.change) not in self._rebuilt:
            self._rebuilt.keep((row.run_id, row.change), rebuilt)


def not_found(namespace: str, workflow_id: str) -> errors.WorkflowNotFoundError:
    """The error for an unknown run."""
    return errors.WorkflowNotFoundError(
        f"there is no workflow {workflow_id!r}", namespace=namespace, workflow_id=workflow_id
    )
