"""State changes of runs that are not in memory, serialised by a lock per run.

A run that becomes RUNNING is loaded once that is durable, by the path of recovery.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from weakref import WeakValueDictionary

from perdure import texts, wire
from perdure.engine.failures import record_refused
from perdure.engine.machine import Before
from perdure.model import RunStatus
from perdure.service.journal.journal import Journal, Then
from perdure.service.queue.slots import Slots
from perdure.service.runs.ownership import Ownership
from perdure.service.runs.scheduler import Scheduler
from perdure.service.runs.views import RunView
from perdure.storage.ports import Fenced
from perdure.storage.rows import RunRow
from perdure.storage.writes import EntryResult, Limit, SetRun, Write


class Moves:
    """Changes the state of runs that are not in memory, and updates their slots."""

    def __init__(self, journal: Journal, scheduler: Scheduler, slots: Slots, ownership: Ownership) -> None:
        self._journal = journal
        self._scheduler = scheduler
        self._slots = slots
        self._ownership = ownership
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._doubtful: set[str] = set()

    @asynccontextmanager
    async def alone(self, run_id: str) -> AsyncIterator[None]:
        """Hold the run's lock. Inside, no other call of this engine changes the state of the run while it is not in
        memory, and all earlier changes are decided, so a read inside is current. Raises StorageError while the store
        fails."""
        lock = self._locks.get(run_id)
        if lock is None:
            lock = self._locks[run_id] = asyncio.Lock()
        async with lock:
            if run_id in self._doubtful:
                await self._journal.barrier()
            try:
                yield
            except BaseException:
                # The caller has failed or was cancelled, but its write may still be on its way.
                self._doubtful.add(run_id)
                self._journal.append((), lambda _result, _change: self._doubtful.discard(run_id))
                raise

    async def move(
        self, row: RunRow, write: SetRun, guards: tuple[Limit, ...] = (), more: tuple[Write, ...] = ()
    ) -> RunRow | None:
        """Change the state of a run, with `more` writes in the same entry. Returns the new row, or None if the store
        refused the entry: the run has changed since `row` was read, or a guard did not hold.

        The caller has taken a slot or a place for the new state; if the state does not change, it is given back here.
        Raises StorageError when the store fails. The change may then still happen once the store works again, unless
        the store says that it did not. A change to PENDING is not repeated, because another engine may have started the
        run since.
        """
        once = write.status is RunStatus.PENDING and self._ownership.others_may_start()
        dropped = partial(self._slots.withdraw, write.applied_to(row, row.change))
        entry = (*guards, write, *more)
        return await self._journal.commit(entry, self._moves(row, write), droppable=True, once=once, dropped=dropped)

    def start(self, row: RunRow) -> Coroutine[object, object, RunRow | None]:
        """Start a pending run, owned here. The entry is appended to the journal before this returns. The result is the
        new row; None: the run has changed, or there is no slot."""
        guards = self._slots.promote(row.namespace, row.run_id)
        write = SetRun.of(row, RunStatus.RUNNING, self._scheduler.clock(), owner=self._ownership.owner)
        return self._started(row, self._journal.commit((*guards, write), self._moves(row, write), patient=True))

    async def _started(self, row: RunRow, started: asyncio.Future[RunRow | None]) -> RunRow | None:
        try:
            return await started
        except Fenced:
            raise
        except (
            Exception
        ) as error:  # the store rejects the start for good: the run fails, so that it does not block the queue
            self._slots.demote(row.namespace, row.run_id)
            failure = wire.encode_failure(texts.mended(record_refused(str(error))))
            end = SetRun.of(row, RunStatus.FAILED, self._scheduler.clock(), failure=failure)
            return await self._journal.commit((end,), self._moves(row, end), patient=True)

    def _moves(self, row: RunRow, write: SetRun) -> Then[RunRow | None]:
        """The `then` of a change: updates slots, and publishes and loads the run."""

        def then(result: EntryResult, change: int) -> RunRow | None:
            after = write.applied_to(row, change)
            if result.is_refused:
                self._slots.withdraw(after)
                return None
            if row.status is RunStatus.PENDING and after.status is not RunStatus.RUNNING:
                self._slots.forget(row.namespace)
            if after.status is RunStatus.PENDING:
                self.queued(after)
            else:
                self._scheduler.publishing.tell(after, change)
            if after.status is RunStatus.RUNNING:
                before: Before | None = None
                if row.status is RunStatus.PENDING and row.start_ms is None:
                    before = "nothing"
                elif row.status is RunStatus.FAILED:
                    before = "told"
                self._scheduler.take_up(row.run_id, before=before)
            return after

        return then

    def queued(self, row: RunRow) -> RunView:
        """A run is durably PENDING: publish it, and let the queue look."""
        self._scheduler.publishing.tell(row, row.change)
        self._slots.queued()
        return RunView(row)
