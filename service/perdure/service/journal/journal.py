"""The group commit: everything that arrives while one transaction is flushed goes into the next one.

An idle engine commits one entry per flush, a busy one hundreds. There is no timed delay. But the cost of a commit
hardly depends on its size, so under load a small batch first yields some turns of the event loop, for more entries to
arrive. The `then` of an entry is called once the entry is durable, in the order of the entries. The journal does not
know runs, and leaves it to its callers to refuse work.

Outages. When the store fails, the journal repeats the same batch with growing pauses, because memory is ahead of the
store and reports of workers must not be lost. An entry that nothing in memory depends on yet (`droppable`) is given up
if the store says for certain that it did not happen. When the store is full, entries that make room (`frees`) are
tried first.

Bad entries. An entry that the store rejects for good (Unstorable) must not hold up the others. The batch is halved
until the entry is alone; the rest is committed in order, and the entry is handed back to its caller. Later entries
`of` the same run are handed back with it, because they build on it. If the store raises an unexpected error, the batch
is halved as well. The entry to blame is tried a few times more, and is handed back only if the store then takes an
empty commit; otherwise the store is broken for all entries, which is an outage.

Fencing. When the store says that this engine is no longer a member (Fenced), the journal ends. No later entry will
ever be committed, all waiting callers get the error, and the membership is told (`fence`).

Several engines. After the end of this engine's lease, other engines may have taken its runs over. So if the lease may
have ended, it is renewed before the engine acts on a commit or answers from memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias, TypedDict, TypeVar, Unpack, cast, overload

from perdure.service.journal.membership import Membership, SoleMember
from perdure.storage.ports import CommitStore, CorruptData, Entry, Fenced, StorageError, StorageFull, Unstorable
from perdure.storage.writes import Committed, EntryResult

log = logging.getLogger(__name__)

RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 2.0
BUG_TRIES_MAX: Final = 5
"""Tries of a single entry for which the store raises an unexpected error."""
BATCH_WRITES_MAX: Final = 20_000
"""Writes of one transaction. More would only increase the latency of all its entries."""
FEW: Final = 16
"""A batch of this many entries does not wait for more."""
CROWD: Final = 1.5
"""From this average number of entries per commit, a small batch waits for more. (A lone chain has one per commit.)"""
CROWD_SMOOTHING: Final = 0.1
LOOK_EVERY: Final = 16
"""Even below CROWD, one in this many commits waits for more entries. Commits of one entry keep the loop busy, and a
busy loop handles one call at a time, which makes commits of one entry: without this, the journal would stay in that
state."""
THENS_AT_ONCE = 50
"""Entries of a commit whose `then` is called in one turn of the loop."""
TURNS_MAX: Final = 100
TURNS_STILL_MAX: Final = 20
"""After this many turns of the loop without a new entry, the batch is committed."""

T = TypeVar("T")
Then: TypeAlias = Callable[[EntryResult, int], T]
"""Called with the result of an entry and the number of its commit, once it is durable."""


class Terms(TypedDict, total=False):
    """Options of an entry: see `Journal.append`."""

    patient: bool
    droppable: bool
    frees: bool
    dropped: Callable[[], None] | None
    once: bool
    of: str
    refused: Callable[[Exception], None] | None


@dataclass(slots=True, eq=False)
class _Pending:
    """An entry that is not durable yet. `answer` is the future of the caller that waits for it, if one does."""

    entry: Entry
    then: Then[object]
    answer: asyncio.Future[object] | None = None
    trouble: Callable[[Exception], None] | None = None
    patient: bool = False
    droppable: bool = False
    frees: bool = False
    dropped: Callable[[], None] | None = None
    once: bool = False
    of: str = ""
    refused: Callable[[Exception], None] | None = None
    bugs: int = 0
    may_have_happened: bool = False

    def complete(self, result: EntryResult, change: int) -> None:
        """The entry is durable: call `then`, and answer the caller. Raises the error of `then` if no caller gets it."""
        answer = self.answer
        try:
            value = self.then(result, change)
        except Exception as error:
            if answer is None or answer.done():
                raise
            answer.set_exception(error)
        else:
            if answer is not None and not answer.done():
                answer.set_result(value)

    def fail(self, error: Exception) -> None:
        """The store fails: tell the caller, once."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)
        if self.trouble is not None:
            self.trouble(error)
            self.trouble = None


class Journal:
    """Makes entries durable in the order in which they were appended. `finished` is called with the number of each
    commit once the `then` of all its entries were called."""

    def __init__(
        self,
        store: CommitStore,
        membership: Membership | None = None,
        *,
        finished: Callable[[int], None] = lambda _change: None,
    ) -> None:
        self._store = store
        self._finished = finished
        self._membership = membership or SoleMember()
        self._pending: list[_Pending] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._freeing = asyncio.Event()  # an entry that makes room was appended
        self._task: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._crowd = 0.0  # moving average of entries per commit
        self._until_look = LOOK_EVERY

    @property
    def error(self) -> Exception | None:
        """The error of the store while it fails; None while it works."""
        return self._error

    @property
    def is_idle(self) -> bool:
        """Whether everything that was appended is durable."""
        return self._idle.is_set()

    @property
    def is_sure(self) -> bool:
        """Whether no other engine can have taken over the runs of this one."""
        return self._membership.holds

    async def assure(self) -> None:
        """Renew the lease unless it holds. Raises StorageError."""
        if not self._membership.holds:
            await self._membership.renew()

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="journal")

    async def stop(self, *, grace_s: float) -> bool:
        """Flush what was appended, for at most `grace_s`. False: something was not flushed."""
        if self._task is None:
            return True
        if not self._idle.is_set():
            try:
                await asyncio.wait_for(self._idle.wait(), grace_s)
            except TimeoutError:
                log.error("journal not flushed", extra={"entries": len(self._pending)})
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        return self._idle.is_set()

    def append(
        self,
        entry: Entry,
        then: Then[object],
        *,
        trouble: Callable[[Exception], None] | None = None,
        **terms: Unpack[Terms],
    ) -> None:
        """Add an entry without waiting for it. An empty entry completes after those before it.

        - `then` is called with the result, once the entry is durable.
        - `trouble` is called once, if the store fails during a commit of the entry. The entry stays and may still be
          committed, unless it is given up. With `patient` it is called only if the entry will certainly never be
          committed.
        - `droppable` entries are given up on certain failures (see above), then `dropped` is called.
        - `frees`: the entry makes room, and may overtake others.
        - `once`: the entry is given up also when it is unknown whether it was committed. Other engines may have built
          on it and removed the result, so a repetition could commit it twice.
        - `of`: the run that the entry belongs to. If the store rejects the entry for good, `refused` is called. Then
          `trouble` and `dropped` of this entry and of all later entries of the run are called.
        """
        self._add(_Pending(entry, then, trouble=trouble, **terms))

    def _add(self, pending: _Pending) -> None:
        if not pending.entry and self._idle.is_set() and self.is_sure:
            pending.complete(EntryResult(), 0)
            return
        if isinstance(self._error, Fenced):
            pending.fail(self._error)
            return
        self._pending.append(pending)
        self._idle.clear()
        if pending.frees:
            self._freeing.set()
        self._wake.set()

    @overload
    def commit(self, entry: Entry, **terms: Unpack[Terms]) -> asyncio.Future[EntryResult]: ...

    @overload
    def commit(self, entry: Entry, then: Then[T], **terms: Unpack[Terms]) -> asyncio.Future[T]: ...

    def commit(
        self, entry: Entry, then: Then[T] | None = None, **terms: Unpack[Terms]
    ) -> asyncio.Future[T] | asyncio.Future[EntryResult]:
        """Add an entry before this returns. The future gets the result of `then`, or without `then` that of the entry.

        The future raises the error of `then`, or the error of the store during a commit of the entry (normally a
        StorageError). After an error of the store the entry may still be committed, unless it is given up (see
        `append`). With `patient` the future raises only if the entry will certainly never be committed. `then` is
        called at the end of the commit even if the future was cancelled.
        """
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._add(_Pending(entry, then or _result, answer, **terms))
        return cast("asyncio.Future[T]", answer)

    async def barrier(self) -> None:
        """Wait until everything appended so far is durable. Raises StorageError while the store fails."""
        if not (self._idle.is_set() and self.is_sure):
            await self.commit(())

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                self._until_look -= 1
                if self._crowd > CROWD or self._until_look <= 0:
                    self._until_look = LOOK_EVERY
                    await self._gather()
                batch = self._next_batch()
                self._crowd += CROWD_SMOOTHING * (len(batch) - self._crowd)
                await self._flush(batch)
                if self._pending:
                    await asyncio.sleep(0)  # a store may commit without yielding: let other tasks run
            batch = []  # it may hold a large run, which would stay in memory until the next commit
            self._idle.set()

    async def _gather(self) -> None:
        """Yield to the loop, as long as that brings entries."""
        still = 0
        for _ in range(TURNS_MAX):
            count = len(self._pending)
            if count >= FEW or still == TURNS_STILL_MAX:
                return
            await asyncio.sleep(0)
            still = still + 1 if len(self._pending) == count else 0

    def _next_batch(self) -> list[_Pending]:
        writes = 0
        for count, pending in enumerate(self._pending, 1):
            writes += len(pending.entry)
            if writes >= BATCH_WRITES_MAX:
                batch, self._pending = self._pending[:count], self._pending[count:]
                return batch
        batch, self._pending = self._pending, []
        return batch

    async def _flush(self, batch: list[_Pending]) -> None:
        pause_s = RETRY_FIRST_S
        while batch:
            error, batch = await self._commit(batch)
            if error is None:
                break
            if isinstance(error, Fenced):
                self._end(batch, error)
                return
            batch, self._pending = batch + self._pending, []
            if isinstance(error, _Suspect):  # tried again soon; callers need not know
                await self._pause(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)
                continue
            self._error = error
            freeing = [pending for pending in batch if pending.frees]
            if freeing and isinstance(error, StorageFull):
                others = [pending for pending in batch if not pending.frees]
                error_of_freeing, freeing = await self._commit(freeing)
                if error_of_freeing is None:
                    batch = others
                    continue
                if isinstance(error_of_freeing, Fenced):
                    self._end(freeing + others, error_of_freeing)
                    return
                if not isinstance(error_of_freeing, _Suspect):
                    freeing = _after_trouble(freeing, error_of_freeing)
                batch = freeing + others
            batch = _after_trouble(batch, error)
            if batch:
                await self._pause(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)
        self._error = None

    async def _commit(self, batch: list[_Pending]) -> tuple[Exception | None, list[_Pending]]:
        """Commit a batch, in parts if the store rejects an entry. Returns an error if the store fails otherwise, and
        the entries that are left."""
        try:
            done = await self._done(batch)  # for the whole batch: the last entry of a run shows that it has ended
        except Exception as unknown:
            return unknown, batch
        parts = [batch]  # the next one last
        while parts:
            part = parts.pop()
            error = await self._try(part, done)
            if error is None:
                continue
            if not _is_of_an_entry(error):
                return error, [*part, *(pending for later in reversed(parts) for pending in later)]
            if len(part) > 1:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            blame = await self._blame(part[0], error)
            if blame is not None:
                return blame, [*part, *(pending for later in reversed(parts) for pending in later)]
            self._hand_back(part[0], error, parts)
        return None, []

    async def _done(self, batch: list[_Pending]) -> dict[_Pending, int]:
        """The entries that were committed before, each with a commit that is not before its own. Raises
        StorageError."""
        sent = [pending for pending in batch if pending.may_have_happened]
        found = await self._membership.happened([pending.entry for pending in sent]) if sent else {}
        return {sent[place]: change for place, change in found.items()}

    async def _try(self, batch: list[_Pending], done: Mapping[_Pending, int]) -> Exception | None:
        """Commit the entries and call their `then`. Returns the error of the store, or None."""
        entries = [pending.entry for pending in batch if pending.entry and pending not in done]
        try:
            committed = await self._store.commit(entries) if entries else Committed(0, ())
            if not self.is_sure:
                await self._make_sure(batch)
        except Exception as error:
            if not isinstance(error, StorageError):
                log.exception("the store raised an unexpected error")
            log.error("commit failed", extra={"error": str(error), "entries": len(entries)})
            return error
        self._error = None
        return await self._finish(batch, committed, done)

    async def _finish(self, batch: list[_Pending], committed: Committed, done: Mapping[_Pending, int]) -> Fenced | None:
        """Call each `then`, some in each turn of the loop. `done`: see `_done`. Returns Fenced if the lease is lost
        in between; the remaining ones of the batch are not called then."""
        results = iter(committed.results)
        for place, pending in enumerate(batch):
            if place and place % THENS_AT_ONCE == 0:
                await asyncio.sleep(0)
                if not self.is_sure:
                    try:
                        await self._make_sure(batch[place:])
                    except Fenced as error:
                        del batch[:place]
                        return error
                    self._error = None
            result = next(results) if pending.entry and pending not in done else EntryResult()
            try:
                pending.complete(result, done.get(pending, committed.change))
            except Exception:
                log.exception("a step after a commit failed")
        self._finished(committed.change)
        return None

    async def _blame(self, pending: _Pending, error: Exception) -> Exception | None:
        """None: the entry alone is to blame. Otherwise the error that the journal waits out."""
        if isinstance(error, Unstorable) or pending.once:  # a `once` entry is never repeated
            return None
        pending.may_have_happened = True
        pending.bugs += 1
        if pending.bugs < BUG_TRIES_MAX:
            return _Suspect()
        try:
            await self._store.commit([()])
        except Exception as others:
            pending.bugs = 0
            return others
        return None

    def _hand_back(self, pending: _Pending, error: Exception, parts: Collection[list[_Pending]]) -> None:
        """Remove an entry that the store rejects for good, with the later entries of its run, and call their
        callbacks."""
        log.error("the store rejects an entry for good", extra={"run_id": pending.of, "error": str(error)})
        gone = [pending]
        if pending.of:
            for some in (*reversed(tuple(parts)), self._pending):
                gone += [other for other in some if other.of == pending.of]
                some[:] = [other for other in some if other.of != pending.of]
        try:
            if pending.refused is not None:
                pending.refused(error)
            _tell_trouble(gone, error, is_over=True)
            for each in gone:
                if each.dropped is not None:
                    each.dropped()
        except Exception:
            log.exception("a step after a refusal failed")

    async def _pause(self, pause_s: float) -> None:
        """Wait for the next try. An entry that makes room ends the pause."""
        if any(pending.frees for pending in self._pending):
            return
        self._freeing.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._freeing.wait()

    async def _make_sure(self, batch: list[_Pending]) -> None:
        """Renew the lease before the engine acts on the committed batch: another engine may have taken the runs over.
        Raises Fenced."""
        pause_s = RETRY_FIRST_S
        while not self.is_sure:
            try:
                await self.assure()
            except Fenced:
                raise
            except StorageError as error:
                self._error = error
                _tell_trouble([*batch, *self._pending], error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)

    def _end(self, batch: list[_Pending], error: Fenced) -> None:
        log.error("commit refused: this engine is no longer a member", extra={"error": str(error)})
        batch, self._pending, self._error = batch + self._pending, [], error
        _tell_trouble(batch, error, is_over=True)
        self._membership.fence()


class _Suspect(Exception):
    """The store raises an unexpected error for an entry, which is tried again. Other entries can be committed."""


def _is_of_an_entry(error: Exception) -> bool:
    """Whether a single entry may be to blame for the error, and not the store."""
    return isinstance(error, Unstorable | CorruptData) or not isinstance(error, StorageError)


def _after_trouble(batch: list[_Pending], error: Exception) -> list[_Pending]:
    """Call `trouble`, and give up the `droppable` entries that were certainly not committed, and those to happen
    `once`. Returns the others."""
    is_certain = isinstance(error, StorageFull | CorruptData)
    kept = []
    _tell_trouble(batch, error)
    for pending in batch:
        pending.may_have_happened |= not is_certain
        is_kept = not is_certain or not pending.droppable or pending.may_have_happened  # by an attempt before this one
        if is_kept and not pending.once:
            kept.append(pending)
            continue
        _tell_trouble([pending], error, is_over=True)
        if pending.dropped is not None:
            pending.dropped()
    return kept


def _tell_trouble(batch: Sequence[_Pending], error: Exception, *, is_over: bool = False) -> None:
    """Tell each caller once. `is_over`: the entries were not committed and never will be."""
    for pending in batch:
        if is_over or not pending.patient:
            pending.fail(error)


def _result(result: EntryResult, _change: int) -> EntryResult:
    return result
