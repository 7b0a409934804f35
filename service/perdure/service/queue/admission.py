"""Who may run: the slots of every namespace, and the queue before them.

A run that finds no slot is stored PENDING and left there: memory holds the number of those that wait,
and nothing else of them. A slot is taken before the row that holds it is stored, and given back when
the store refused that row or when the end of the run is durable, so there are never more RUNNING rows
than slots. Slots live in memory alone and are counted from the store at the start: a crash neither
loses nor leaks one. A run starts by the record that makes it RUNNING and is loaded once that holds.

The order is that in which runs became PENDING. What a run is (its graph, its priority) does not matter.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, Protocol
from weakref import WeakValueDictionary

from perdure import errors, texts, wire
from perdure.engine.failures import record_refused
from perdure.engine.graph_run.run import Before
from perdure.model import RunStatus, frozen
from perdure.service.journal.journal import Journal, Then
from perdure.service.journal.loops import TROUBLE_S, Loop
from perdure.service.runs.scheduler import Scheduler
from perdure.service.runs.views import RunView
from perdure.storage.ports import CorruptData, Entry, Fenced, QueueStore, RunStore, SharedOrNot, StorageError
from perdure.storage.rows import EntryResult, Limit, RunRow, SetRun, Write

log = logging.getLogger(__name__)

ANY: Final = -1
"""A limit that is none."""
PAGE: Final = 100


@frozen
class Way:
    """A state in which a run may be stored. With `guards` in front of it the store may refuse it for its
    own reasons, and there may be another way."""

    status: RunStatus
    guards: tuple[Limit, ...] = ()


class AdmissionStore(QueueStore, RunStore, SharedOrNot, Protocol):
    """What admission asks of the store."""


class Admission:
    """Gives out slots, and changes the state of runs that are not in memory."""

    def __init__(
        self,
        store: AdmissionStore,
        journal: Journal,
        scheduler: Scheduler,
        *,
        owner: str,
        max_running: int = ANY,
        max_pending: int = ANY,
    ) -> None:
        self._owner = owner
        self.max_running = max_running
        self.max_pending = max_pending
        self._store = store
        self._journal = journal
        self._scheduler = scheduler
        self._slots: dict[str, str] = {}  # run id: namespace; empty if there is no limit
        self._running: Counter[str] = Counter()
        self._pending: Counter[str] = Counter()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._doubtful: set[str] = set()
        self._loop = Loop("admission", self._start_waiting, trouble="nobody started, trying again")
        self._damaged: set[str] = set()

    # -------------------------------------------------------------------------- lifetime

    async def count(self) -> None:
        """Learn from the store who holds a slot and how many wait. Comes before anything else happens."""
        while True:
            try:
                running = await self._store.running_runs() if self.max_running != ANY else []
                self._pending = Counter(await self._store.count_pending())
                break
            except CorruptData:
                raise  # of the database as a whole: to look again does not help
            except StorageError as error:
                log.warning("queue not read, trying again", extra={"error": str(error)})
                await asyncio.sleep(TROUBLE_S)
        for namespace, run_id in running:
            self._take(namespace, run_id)

    async def start(self) -> None:
        """Begin to start those who wait."""
        self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    @property
    def is_idle(self) -> bool:
        """Whether nobody is about to start."""
        return self._loop.is_idle

    # -------------------------------------------------------------------------- slots

    def admit(self, namespace: str, run_id: str) -> RunStatus:
        """Take a slot (RUNNING) or a place in the queue (PENDING) for a row that is about to be stored.

        Raises QueueFullError. Those for whom there is a slot already do not count as waiting.
        """
        if self.max_running == ANY:
            return RunStatus.RUNNING
        waiting = self._pending[namespace] - self._free(namespace)
        if waiting < 0 and not self._pending[namespace]:
            self._take(namespace, run_id)
            return RunStatus.RUNNING
        if self.max_pending != ANY and waiting >= self.max_pending:
            raise self.full(namespace)
        self._pending[namespace] += 1
        return RunStatus.PENDING

    def ways(self, namespace: str, run_id: str) -> Iterator[Way]:
        """The states in which the row may be stored, to be tried in this order: each with what must be
        written with it. None is left: the queue is full. What was tried in vain is withdrawn."""
        try:
            yield Way(self.admit(namespace, run_id))
        except errors.QueueFullError:
            return

    def full(self, namespace: str) -> errors.QueueFullError:
        """There was no way."""
        return errors.QueueFullError(
            f"{self.max_running} workflows run and {self.max_pending} wait, which is as many as may",
            namespace=namespace,
            max_running=str(self.max_running),
            max_pending=str(self.max_pending),
        )

    def withdraw(self, row: RunRow) -> None:
        """The row that `admit` was asked for was not stored."""
        if row.status is RunStatus.PENDING:
            self._pending[row.namespace] -= 1
        else:
            self.leave(row.run_id)

    def leave(self, run_id: str) -> None:
        """A run has ended for good or for now: its slot is free. Leaving twice is no error."""
        namespace = self._slots.pop(run_id, None)
        if namespace is not None:
            self._running[namespace] -= 1
            if self._pending[namespace]:
                self._loop.wake()

    def queued(self, row: RunRow) -> RunView:
        """A run is durably PENDING."""
        self._scheduler.tell(row, row.change)
        self._loop.wake()  # its turn may have come before its row was there
        return RunView(row)

    def count_running(self, namespace: str) -> int:
        """How many hold a slot; 0 if there is no limit."""
        return self._running[namespace]

    def count_pending(self, namespace: str) -> int:
        """How many wait for one."""
        return self._pending[namespace]

    def _take(self, namespace: str, run_id: str) -> None:
        if run_id not in self._slots:
            self._slots[run_id] = namespace
            self._running[namespace] += 1

    def _free(self, namespace: str) -> int:
        return PAGE if self.max_running == ANY else max(self.max_running - self._running[namespace], 0)

    # -------------------------------------------------------------------------- states

    @asynccontextmanager
    async def alone(self, run_id: str) -> AsyncIterator[None]:
        """Meanwhile nobody else changes the state of a run that is not in memory, and whatever was changed
        before is decided: what is read inside is what holds. Raises StorageError while the store fails."""
        lock = self._locks.get(run_id)
        if lock is None:
            lock = self._locks[run_id] = asyncio.Lock()
        async with lock:
            if run_id in self._doubtful:
                await self._journal.barrier()
            try:
                yield
            except BaseException:
                # Whoever was inside has gone, but what he wrote may still be on its way.
                self._doubtful.add(run_id)
                self._journal.append((), lambda _result, _change: self._doubtful.discard(run_id))
                raise

    async def move(
        self, row: RunRow, write: SetRun, guards: tuple[Limit, ...] = (), more: tuple[Write, ...] = ()
    ) -> RunRow | None:
        """Change the state of a run that is not in memory, with `more` that belongs to that; gives the row after
        that, or None if the store refused it: somebody else changed the run, or a guard did not hold.

        What the new state needs has been taken before; a place in the queue is given back here. Raises
        StorageError when the store fails; unless that is certain, the change may happen all the same once the store
        works again, but for a run that is to wait: anybody may start it then, so nobody says twice that it waits.
        """
        once = self._store.is_shared and write.status is RunStatus.PENDING
        dropped = partial(self.withdraw, write.applied_to(row, row.change))
        entry = (*guards, write, *more)
        return await self._journal.commit(entry, self._moves(row, write), droppable=True, once=once, dropped=dropped)

    def _moves(self, row: RunRow, write: SetRun) -> Then[RunRow | None]:
        """What happens once the change is durable, or refused."""

        def then(result: EntryResult, change: int) -> RunRow | None:
            after = write.applied_to(row, change)
            if result.is_refused:
                self.withdraw(after)
                return None
            if row.status is RunStatus.PENDING and after.status is not RunStatus.RUNNING:
                self._pending[row.namespace] -= 1
            if after.status is RunStatus.PENDING:
                self.queued(after)
            else:
                self._scheduler.tell(after, change)
            if after.status is RunStatus.RUNNING:
                before: Before | None = None
                if row.status is RunStatus.PENDING and row.start_ms is None:
                    before = "nothing"
                elif row.status is RunStatus.FAILED:
                    before = "told"
                self._scheduler.take_up(row.run_id, before=before)
            return after

        return then

    # -------------------------------------------------------------------------- the queue

    async def _start_waiting(self) -> None:
        for namespace in [namespace for namespace, count in self._pending.items() if count > 0]:
            await self._start_oldest(namespace)

    async def _start_oldest(self, namespace: str) -> None:
        while free := self._free(namespace):
            found = await self._store.pending_runs(namespace, limit=min(free, PAGE) + len(self._damaged))
            page = [row for row in found if row.run_id not in self._damaged]
            if not page:
                return
            async with AsyncExitStack() as alone:
                waiting = []
                for row in page:  # one after the other: who cannot be started is not passed
                    await alone.enter_async_context(self.alone(row.run_id))
                    if row.damage:
                        self._fail(row)
                        continue
                    now = await self._store.get_run(row.run_id)
                    if now is not None and now.status is RunStatus.PENDING:  # it was not canceled meanwhile
                        waiting.append(now)
                # With nothing between them in the journal: a slot that becomes free there would be the second's.
                if None in await asyncio.gather(*[self._start(now) for now in waiting]):
                    return  # somebody else was faster, and will wake us

    def _fail(self, row: RunRow) -> None:
        """One that cannot start, for its row is damaged, gives its place to others."""
        self._damaged.add(row.run_id)
        self._pending[row.namespace] -= 1
        self._scheduler.fail_corrupt(row)

    def _start(self, row: RunRow) -> Coroutine[object, object, RunRow | None]:
        """Append the start of a run to the journal, before this returns; waiting for it gives the row after that."""
        if self.max_running != ANY:
            self._take(row.namespace, row.run_id)
        self._pending[row.namespace] -= 1
        now_ms = self._scheduler.clock()
        write = SetRun.of(row, RunStatus.RUNNING, now_ms, owner=self._owner)
        entry: Entry = (*self._start_guards(row.namespace), write)
        return self._started(row, self._journal.commit(entry, self._moves(row, write), patient=True))

    async def _started(self, row: RunRow, started: asyncio.Future[RunRow | None]) -> RunRow | None:
        try:
            return await started
        except Fenced:
            raise
        except Exception as error:  # the store never lets this run start: it fails, for it must not block the queue
            self.leave(row.run_id)
            self._pending[row.namespace] += 1
            failure = wire.encode_failure(texts.mended(record_refused(str(error))))
            end = SetRun.of(row, RunStatus.FAILED, self._scheduler.clock(), failure=failure)
            return await self._journal.commit((end,), self._moves(row, end), patient=True)

    def _start_guards(self, namespace: str) -> tuple[Limit, ...]:
        """Slots are counted here, by the only engine that there is."""
        return ()
