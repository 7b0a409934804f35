"""The group commit: everything that arrives while one transaction is flushed goes into the next.

An idle engine commits one entry in one flush, a busy one hundreds. There is no delay by the clock; but while
commits have been of several entries, one of few first lets the event loop have some turns, for what is to come
with it is often on its way, and the price of a commit hardly depends on its size. What
depends on an entry stands in its `then`, which is called once the entry is durable, in the order of
the entries. The journal knows nothing of runs, and whether to refuse work is the caller's matter.

When the store fails, the journal goes on trying the same batch with growing pauses: memory is ahead
of it and nothing that a worker reported may be lost. Entries that nothing in memory depends on yet
(`droppable`) are given up when the store says for certain that they did not happen.
When there is no room, entries that make room (`frees`) are tried by themselves before all others.

An entry that the store never takes (Unstorable) must not hold up the others. The batch is halved until it is
alone, the rest is committed in its order, and the entry is handed back: whoever appended it is told. Later
entries `of` the same run are handed back with it, for they build on it, and the store must not have them
without it. When the store raises what no store should raise, the batch is halved, too. Such an entry is tried
a few times more, and is handed back only if the store takes an empty commit meanwhile: a store that is broken for
all is an outage and no reason to fail anybody.

When the store says that this engine is no longer a member (Fenced), the journal ends: nothing that is
appended will ever happen, whoever waits is told so, and `on_fenced` is called.

One engine among several knows its runs better than the store only as long as its lease holds; later
others may have gone on with them. So nothing acts on what was committed, and nobody is told what
memory says, before a lease that may have ended is renewed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, TypedDict, TypeVar, Unpack, cast, overload

from perdure.storage.ports import CommitStore, CorruptData, Entry, Fenced, StorageError, StorageFull, Unstorable
from perdure.storage.rows import Committed, EntryResult

log = logging.getLogger(__name__)

RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 2.0
BUG_TRIES_MAX: Final = 5
"""Attempts at one entry by itself for which the store raised what no store should raise."""
BATCH_WRITES_MAX: Final = 20_000
"""Writes of one transaction. More only grows the latency of everybody in it."""
FEW: Final = 16
"""Entries. A commit of as many does not wait for more."""
CROWD: Final = 1.5
"""Entries of a commit, on the average, from which on there are others to wait for: a chain has one at a time."""
CROWD_SMOOTHING: Final = 0.1
LOOK_EVERY: Final = 16
"""Commits after which who seems to be alone looks whether others have come: commits of one entry make a busy loop, and
a busy loop takes one call at a time, which makes commits of one entry."""
TURNS_MAX: Final = 100
TURNS_STILL_MAX: Final = 20
"""Turns of the loop in a row in which nothing came, so that nothing more is on its way."""

T = TypeVar("T")
Then: TypeAlias = Callable[[EntryResult, int], T]
"""Called with the result of an entry and the number of its commit, once it is durable."""


class Terms(TypedDict, total=False):
    """What may be said of an entry besides what it writes: see `Journal.append`."""

    droppable: bool
    frees: bool
    dropped: Callable[[], None] | None
    once: bool
    of: str
    refused: Callable[[Exception], None] | None


class Lease(Protocol):
    """For how long this engine's runs are certainly its own."""

    @property
    def holds(self) -> bool: ...

    async def renew(self) -> None:
        """Raises StorageError, and Fenced if it is too late."""
        ...


@dataclass(slots=True, eq=False)
class _Pending:
    entry: Entry
    then: Then[object]
    trouble: Callable[[Exception], None] | None
    droppable: bool
    frees: bool = False
    dropped: Callable[[], None] | None = None
    once: bool = False
    of: str = ""
    refused: Callable[[Exception], None] | None = None
    patient: bool = False
    bugs: int = 0
    may_have_happened: bool = False


class Journal:
    """Makes entries durable in the order in which they were appended."""

    def __init__(self, store: CommitStore) -> None:
        self._store = store
        self._pending: list[_Pending] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._freeing = asyncio.Event()  # an entry that makes room has come
        self._task: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._crowd = 0.0  # entries of a commit, on the average
        self._until_look = LOOK_EVERY
        self.on_fenced: Callable[[], None] = lambda: None
        # `lease`: of an engine among several. `happened`: see `fleet.repeats`.
        self.lease: Lease | None = None
        self.happened: Callable[[Sequence[Entry]], Awaitable[Mapping[int, int]]] | None = None

    @property
    def error(self) -> Exception | None:
        """What the store says while it fails; None while it works."""
        return self._error

    @property
    def is_idle(self) -> bool:
        """Whether everything that was appended is durable."""
        return self._idle.is_set()

    @property
    def is_sure(self) -> bool:
        """Whether nobody else can have gone on with what is this engine's."""
        return self.lease is None or self.lease.holds

    async def assure(self) -> None:
        """Make sure of it. Raises StorageError."""
        if self.lease is not None and not self.lease.holds:
            await self.lease.renew()

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="journal")

    async def stop(self, *, grace_s: float) -> bool:
        """Flush what is there, for at most so long. False: something was not flushed."""
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
        patient: bool = False,
        droppable: bool = False,
        frees: bool = False,
        dropped: Callable[[], None] | None = None,
        once: bool = False,
        of: str = "",
        refused: Callable[[Exception], None] | None = None,
    ) -> None:
        """Add an entry that nobody waits for. An empty one comes after those before it. One that `frees` may overtake
        others.

        `trouble` is called once if the store fails while the entry is at it; unless the entry is given up (see above),
        it stays and may yet happen. With `patient` it is called only once the entry has not happened and never will.
        `dropped` is called when an entry is given up.

        When the store never takes the entry, it has not happened and never will, nor will the entries after it that
        are `of` the same run: `refused` of the one is called, then all of them are told their trouble and are dropped.

        What is to happen at most `once` is given up, too, when nobody knows whether it has happened: others may
        have built on it since, and even removed it, so that it would happen twice.
        """
        if not entry and self._idle.is_set() and self.is_sure:
            then(EntryResult(), 0)
            return
        if isinstance(self._error, Fenced):
            if trouble is not None:
                trouble(self._error)
            return
        self._pending.append(_Pending(entry, then, trouble, droppable, frees, dropped, once, of, refused, patient))
        self._idle.clear()
        if frees:
            self._freeing.set()
        self._wake.set()

    @overload
    def commit(self, entry: Entry, *, patient: bool = False, **terms: Unpack[Terms]) -> asyncio.Future[EntryResult]: ...

    @overload
    def commit(
        self, entry: Entry, then: Then[T], *, patient: bool = False, **terms: Unpack[Terms]
    ) -> asyncio.Future[T]: ...

    def commit(
        self, entry: Entry, then: Then[T] | None = None, *, patient: bool = False, **terms: Unpack[Terms]
    ) -> asyncio.Future[T] | asyncio.Future[EntryResult]:
        """Add an entry, before this returns, and wait for it: the future has what `then` gave, without `then` the
        result of the entry.

        It raises what `then` raised, or what the store raises (StorageError as a rule) while the entry is at it: the
        entry may yet happen unless it is given up (see `append`). With `patient` it raises only once the entry
        has not happened and never will. `then` is called, at the end of the commit, even if nobody waits any more.
        """
        committed: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def done(result: EntryResult, change: int) -> None:
            try:
                value = then(result, change) if then is not None else result
            except Exception as error:
                if committed.done():
                    raise  # nobody else hears of it
                committed.set_exception(error)
            else:
                if not committed.done():
                    committed.set_result(value)

        def trouble(error: Exception) -> None:
            if not committed.done():
                committed.set_exception(error)

        self.append(entry, done, trouble=trouble, patient=patient, **terms)
        return cast("asyncio.Future[T]", committed)

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
                batch = self._take()
                self._crowd += CROWD_SMOOTHING * (len(batch) - self._crowd)
                await self._flush(batch)
                if self._pending:
                    await asyncio.sleep(0)  # a store may commit without waiting; others have their turn
            self._idle.set()

    async def _gather(self) -> None:
        """Let the loop go on for a moment, as long as that brings entries."""
        still = 0
        for _ in range(TURNS_MAX):
            count = len(self._pending)
            if count >= FEW or still == TURNS_STILL_MAX:
                return
            await asyncio.sleep(0)
            still = still + 1 if len(self._pending) == count else 0

    def _take(self) -> list[_Pending]:
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
            if isinstance(error, _Suspect):  # it is tried again in a moment, and nobody need know
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
        """Commit a batch, in parts if it has an entry that the store does not take. Gives what the store says if it
        fails otherwise, and what is left."""
        try:
            done = await self._done(batch)  # of all at once: that a run has ended is told by its last entry
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
        """Those that had happened before, and in which commit at the latest. Raises StorageError."""
        if self.happened is None:
            return {}
        sent = [pending for pending in batch if pending.may_have_happened]
        found = await self.happened([pending.entry for pending in sent]) if sent else {}
        return {sent[place]: change for place, change in found.items()}

    async def _try(self, batch: list[_Pending], done: Mapping[_Pending, int]) -> Exception | None:
        """Commit, and do what follows. Otherwise: what the store says."""
        entries = [pending.entry for pending in batch if pending.entry and pending not in done]
        try:
            committed = await self._store.commit(entries) if entries else Committed(0, ())
            if not self.is_sure:
                await self._make_sure(batch)
        except Exception as error:
            if not isinstance(error, StorageError):
                log.exception("the store raised what it should not")
            log.error("commit failed", extra={"error": str(error), "entries": len(entries)})
            return error
        self._error = None
        _finish(batch, committed, done)
        return None

    async def _blame(self, pending: _Pending, error: Exception) -> Exception | None:
        """None: the entry alone is to blame. Otherwise what the journal has to wait for."""
        if isinstance(error, Unstorable) or pending.once:  # what happens once is not tried again in any case
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
        """The store never takes this entry: neither it nor those that build on it are in anybody's way any more."""
        log.error("an entry that the store never takes", extra={"run_id": pending.of, "error": str(error)})
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
        """Until the next try, which an entry that makes room does not wait for."""
        if any(pending.frees for pending in self._pending):
            return
        self._freeing.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._freeing.wait()

    async def _make_sure(self, batch: list[_Pending]) -> None:
        """What is in the batch has happened, but perhaps others have gone on from there. Raises Fenced."""
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
        self.on_fenced()


class _Suspect(Exception):
    """There is an entry for which the store raises what it should not; others may well be committed."""


def _is_of_an_entry(error: Exception) -> bool:
    """Whether an entry may be to blame, and not the store."""
    return isinstance(error, Unstorable | CorruptData) or not isinstance(error, StorageError)


def _after_trouble(batch: list[_Pending], error: Exception) -> list[_Pending]:
    """Tell those who wait, and give up what certainly did not happen and nobody builds on; gives the rest."""
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
    """Each is told once. `is_over`: these entries have not happened and never will."""
    for pending in batch:
        if pending.trouble is not None and (is_over or not pending.patient):
            pending.trouble(error)
            pending.trouble = None


def _finish(batch: Sequence[_Pending], committed: Committed, done: Mapping[_Pending, int]) -> None:
    """`done` are those that had happened before, and in which commit at the latest."""
    results = iter(committed.results)
    for pending in batch:
        result = next(results) if pending.entry and pending not in done else EntryResult()
        try:
            pending.then(result, done.get(pending, committed.change))
        except Exception:
            log.exception("a step after a commit failed")
