"""Live changes of runs and tasks: publishes them, once they are durable, to subscriptions and waiting calls.

A subscriber that does not keep up is cut off. It can read the changes it missed from the store, by the number of the
last commit that it saw.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from perdure.model import frozen
from perdure.service.runs.views import RunView, TaskView
from perdure.storage.rows import RunRow

BACKLOG_MAX: Final = 20_000
"""The most changes in the backlog of a subscriber."""
BACKLOG_CHARS_MAX: Final = 16 << 20
"""The most characters of texts (metadata, labels, failures) in a backlog. This bounds the memory of a subscriber."""


@frozen
class Change:
    """One change: of a run, of a task (workflow id, run id, task), or the deletion of a workflow id.

    `change` is the number of the commit; 0: it was not committed (an attempt began). `namespace` is that of the run.
    `moment` is the scheduler's moment of the task's state; 0: the task was read from the store. `of_actor`: what was
    deleted is an actor.
    """

    change: int
    at_ms: int
    namespace: str
    run: RunView | None = None
    task: tuple[str, str, TaskView] | None = None
    deleted: str | None = None
    moment: int = 0
    of_actor: bool = False


class Overflowed(Exception):
    """The subscriber was too slow, or misses a change. It must read the changes from the store."""


class Closed(Exception):
    """The engine is shutting down."""


class Subscription:
    """The changes since it was opened, in batches."""

    def __init__(self) -> None:
        self._backlog: deque[Change] = deque()
        self._chars = 0
        self._wake = asyncio.Event()
        self._ended: type[Exception] | None = None

    def _offer(self, change: Change) -> None:
        if self._ended is Overflowed:
            return
        self._chars += _count_chars(change)
        if len(self._backlog) >= BACKLOG_MAX or (self._backlog and self._chars > BACKLOG_CHARS_MAX):
            self._overflow()
            return
        self._backlog.append(change)
        self._wake.set()

    def _overflow(self) -> None:
        self._backlog.clear()  # it will not be read
        self._end(Overflowed)

    def _end(self, reason: type[Exception]) -> None:
        self._ended = self._ended or reason
        self._wake.set()

    async def next_batch(self, timeout_s: float) -> list[Change]:
        """All changes that have gathered, after waiting up to `timeout_s` for the first one; [] if none came.

        Raises Overflowed or Closed. Closed comes after the changes before it.
        """
        if not self._backlog and self._ended is None:
            with suppress(TimeoutError):  # a change may have come at the same time
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
        self._wake.clear()
        if self._backlog and self._ended is not Overflowed:
            batch = list(self._backlog)
            self._backlog.clear()
            self._chars = 0
            if self._ended is not None:
                self._wake.set()
            return batch
        if self._ended is not None:
            raise self._ended
        return []


def _count_chars(change: Change) -> int:
    """The characters of texts whose size users control."""
    if change.run is not None:
        row = change.run.row
        return (
            len(row.metadata)
            + len(row.failure or b"")
            + sum(len(key) + len(value) for key, value in row.labels.items())
        )
    if change.task is None:
        return 0
    task = change.task[2]
    size, failure = len(task.metadata) + sum(map(len, task.upstream)), task.failure
    while failure is not None:
        size += len(failure.message) + len(failure.stack_trace)
        failure = failure.cause
    return size


class Consumption:
    """Inside of this context manager an event's consumption by a task is waited for: until this engine has published
    it, or that the run has ended, or until the hub closes."""

    __slots__ = ("_changes", "_home", "_run_id", "_seen", "_task_id")

    def __init__(self, changes: Changes, run_id: str, task_id: str) -> None:
        self._changes = changes
        self._run_id = run_id
        self._task_id = task_id
        self._seen: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> Consumption:
        if self._changes.is_closed:
            self.set()
        self._home = self._changes._consumptions[self._run_id]
        self._home[self] = self._task_id
        return self

    def __exit__(self, *error: object) -> None:
        del self._home[self]
        homes = self._changes._consumptions
        if not self._home and homes.get(self._run_id) is self._home:
            del homes[self._run_id]

    def set(self) -> None:
        if not self._seen.done():
            self._seen.set_result(True)

    def is_set(self) -> bool:
        return self._seen.done()

    async def wait(self, wait_s: float) -> bool:
        """Wait for at most this time. Returns whether it was published. May be called once."""
        timer = asyncio.get_running_loop().call_later(wait_s, self._expire)
        try:
            return await self._seen
        finally:
            timer.cancel()

    def _expire(self) -> None:
        if not self._seen.done():
            self._seen.set_result(False)


_NONE: Final[dict[Consumption, str]] = {}


class Gathering:
    """Collects what is published about some runs: the rows of those that ended, and the ids of others that were
    stirred. `known` has the last commit of each that the caller has seen. An end before that is not collected: the run
    was resumed since, and a follower may publish the end late."""

    def __init__(self, known: Mapping[str, int]) -> None:
        self._known = known
        self._wake = asyncio.Event()
        self.ended: dict[str, RunRow] = {}
        self.stirred: dict[str, None] = {}

    def _end(self, row: RunRow) -> None:
        if row.change < self._known[row.run_id]:
            return
        self.ended[row.run_id] = row
        self._wake.set()

    def _stir(self, run_id: str) -> None:
        if run_id not in self.ended:
            self.stirred[run_id] = None
            self._wake.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a publication. False: there was none within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True


class Changes:
    """The hub. Publishing costs almost nothing without listeners. Listeners are called in the order in which they came:
    dictionaries keep that order, whereas the order of sets differs between processes, so that a simulation could not be
    repeated.

    With `is_complete`, every change is published, deletions included, once and in the order of commits. Otherwise a
    follower publishes the commits of other engines: late, perhaps twice, and without deletions."""

    def __init__(self, *, is_complete: bool = True) -> None:
        self._all: dict[Subscription, None] = {}
        self._by_run: defaultdict[str, dict[Subscription, None]] = defaultdict(dict)
        self._waits: defaultdict[str, dict[asyncio.Event, None]] = defaultdict(dict)
        self._gatherings: defaultdict[str, dict[Gathering, None]] = defaultdict(dict)
        self._consumptions: defaultdict[str, dict[Consumption, str]] = defaultdict(dict)  # by run, with the tasks
        self._is_closed = False
        self.is_complete = is_complete
        self._published = 0
        self._late: list[int] = []  # commits of changes that are still to be published, one for each change

    def may_miss(self, change: int) -> bool:
        """Whether a durable commit may not have been published yet."""
        return not self.is_complete and change > self._published

    @property
    def has_listeners(self) -> bool:
        """Whether there are waiting calls or subscriptions."""
        return bool(self._waits or self._gatherings) or self.has_subscribers

    @property
    def has_subscribers(self) -> bool:
        return bool(self._all or self._by_run)

    def waited_runs(self) -> list[str]:
        """Runs that calls wait for."""
        return list(dict.fromkeys((*self._waits, *self._gatherings)))

    def watched_runs(self) -> list[str]:
        """Runs whose tasks have subscribers."""
        return list(self._by_run)

    def wants_tasks(self, run_id: str) -> bool:
        """Whether there are subscribers to this run's tasks."""
        return run_id in self._by_run

    def wants_run(self, run_id: str) -> bool:
        """Whether there are subscribers to this run, or calls that wait for its end."""
        return bool(self._all) or run_id in self._by_run or run_id in self._gatherings

    def publish(self, run_id: str, change: Change) -> None:
        """Pass a change on to its subscribers and gatherings. Call it after the commit."""
        for subscription in self._by_run.get(run_id, ()):
            subscription._offer(change)
        if change.task is None:
            for subscription in self._all:
                subscription._offer(change)
            if change.run is not None and change.run.row.status.is_final:
                for gathering in self._gatherings.get(run_id, ()):
                    gathering._end(change.run.row)

    @property
    def published(self) -> int:
        """The last commit up to which all changes were published. A subscriber that reads this right after a batch has
        all of them."""
        return min(self._published, min(self._late) - 1) if self._late else self._published

    def advance(self, change: int) -> None:
        """All changes up to this commit were published, except those that are late. The journal calls this after each
        commit of an engine alone, the follower among several engines."""
        self._published = max(self._published, change)

    def expect_late(self, change: int) -> None:
        """A change of this commit will be published after `advance`, and `published_late` called then."""
        self._late.append(change)

    def published_late(self, change: int) -> None:
        """A late change of this commit was published."""
        self._late.remove(change)

    def cut_off(self, run_id: str) -> None:
        """Changes of this run's tasks cannot be published: subscribers must read them from the store."""
        for subscription in self._by_run.get(run_id, ()):
            subscription._overflow()

    def stir_tasks(self, run_id: str) -> None:
        """Wake the calls that wait for tasks of this run, but not those that wait for its end."""
        for event in self._waits.get(run_id, ()):
            event.set()

    def consumed(self, run_id: str, task_ids: Collection[str]) -> None:
        """Tasks have consumed events, which is durable: wake the calls that wait for that."""
        for consumption, task_id in self._consumptions.get(run_id, _NONE).items():
            if task_id in task_ids:
                consumption.set()

    def stir(self, run_id: str) -> None:
        """Wake all calls that wait for this run; they read it again."""
        self.stir_tasks(run_id)
        for consumption in self._consumptions.get(run_id, ()):
            consumption.set()
        for gathering in self._gatherings.get(run_id, ()):
            gathering._stir(run_id)

    @contextmanager
    def subscribe(self, run_ids: Collection[str] | None) -> Iterator[Subscription]:
        """Listen to these runs and their tasks, or (None) to all runs without their tasks."""
        subscription = Subscription()
        if self._is_closed:
            subscription._end(Closed)
        homes = [self._all] if run_ids is None else [self._by_run[run_id] for run_id in run_ids]
        for home in homes:
            home[subscription] = None
        try:
            yield subscription
        finally:
            for home in homes:
                home.pop(subscription, None)
            for run_id in run_ids or ():
                if not self._by_run.get(run_id, True):
                    del self._by_run[run_id]

    @property
    def is_closed(self) -> bool:
        """Whether the hub is closed, so that all waits are over."""
        return self._is_closed

    @contextmanager
    def gather(self, known: Mapping[str, int]) -> Iterator[Gathering]:
        """Collect what is published about these runs, given by id with the last commit that the caller has seen."""
        gathering = Gathering(known)
        for run_id in known:
            self._gatherings[run_id][gathering] = None
        try:
            yield gathering
        finally:
            for run_id in known:
                if (others := self._gatherings.get(run_id)) is not None:
                    others.pop(gathering, None)
                    if not others:
                        del self._gatherings[run_id]

    async def stirs(self, run_id: str, timeout_s: float) -> AsyncGenerator[None, None]:
        """Yield at once, then each time the run was stirred, until the time is up or the hub closes.

        A caller that reads the run after each yield misses no change, because the wait begins before the read.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        event = asyncio.Event()
        self._waits[run_id][event] = None
        try:
            yield
            while not self._is_closed and (left := deadline - loop.time()) > 0:
                try:
                    async with asyncio.timeout(left):
                        await event.wait()
                except TimeoutError:
                    return
                event.clear()
                yield
        finally:
            waits = self._waits[run_id]
            waits.pop(event, None)
            if not waits:
                del self._waits[run_id]

    def count_waits(self) -> int:
        """The number of calls that wait for a run and have seen all changes so far."""
        gatherings = {gathering for gatherings in self._gatherings.values() for gathering in gatherings}
        waits = [event for events in self._all_waits() for event in events]
        return sum(not event.is_set() for event in (*waits, *(gathering._wake for gathering in gatherings)))

    def _all_waits(self) -> Iterator[Iterable[asyncio.Event | Consumption]]:
        yield from self._waits.values()
        yield from self._consumptions.values()

    def close(self) -> None:
        """Shut down: waits end as if their time were up, subscriptions end with Closed."""
        self._is_closed = True
        of_runs = (subscription for subscriptions in self._by_run.values() for subscription in subscriptions)
        for subscription in dict.fromkeys((*self._all, *of_runs)):
            subscription._end(Closed)
        for events in self._all_waits():
            for event in events:
                event.set()
        for gatherings in self._gatherings.values():
            for gathering in gatherings:
                gathering._wake.set()
