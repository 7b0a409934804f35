"""Who waits for what: live changes of runs and tasks, told after they are durable.

A subscriber that does not keep up is cut off rather than waited for; it can read what it missed from
the store by the number of the last commit it saw.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from perdure.service.views import RunView, TaskView

BACKLOG_MAX: Final = 20_000
"""Changes that a subscriber may be behind."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change: of a run, of a task (workflow id, run id, task), or the deletion of a workflow id.

    `change` numbers the commit; 0: it was not committed (an attempt began). `namespace` is the run's.
    """

    change: int
    at_ms: int
    namespace: str
    run: RunView | None = None
    task: tuple[str, str, TaskView] | None = None
    deleted: str | None = None


class Overflowed(Exception):
    """The subscriber was too slow."""


class Closed(Exception):
    """The engine is shutting down."""


class Subscription:
    """The changes since it was opened, in batches."""

    def __init__(self) -> None:
        self._backlog: deque[Change] = deque()
        self._wake = asyncio.Event()
        self._ended: type[Exception] | None = None

    def _offer(self, change: Change) -> None:
        if len(self._backlog) >= BACKLOG_MAX:
            self._end(Overflowed)
            return
        self._backlog.append(change)
        self._wake.set()

    def _end(self, reason: type[Exception]) -> None:
        self._ended = self._ended or reason
        self._wake.set()

    async def next_batch(self, timeout_s: float) -> list[Change]:
        """Everything that gathered, after waiting for something for so long; [] if nothing came.

        Raises Overflowed or Closed once what came before that was given.
        """
        if not self._backlog and self._ended is None:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return []
        self._wake.clear()
        if self._backlog and self._ended is not Overflowed:
            batch = list(self._backlog)
            self._backlog.clear()
            if self._ended is not None:
                self._wake.set()
            return batch
        if self._ended is not None:
            raise self._ended
        return []


class Changes:
    """The hub. Publishing costs next to nothing where nobody listens."""

    def __init__(self) -> None:
        self._all: set[Subscription] = set()
        self._by_run: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._waits: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._is_closed = False

    @property
    def has_listeners(self) -> bool:
        """Whether anybody waits or has subscribed."""
        return bool(self._waits) or self.has_subscribers

    @property
    def has_subscribers(self) -> bool:
        return bool(self._all or self._by_run)

    def waited_runs(self) -> set[str]:
        """Runs of which somebody waits for something."""
        return set(self._waits)

    def watched_runs(self) -> set[str]:
        """Runs of which somebody has subscribed to the tasks."""
        return set(self._by_run)

    def wants_tasks(self, run_id: str) -> bool:
        """Whether anybody listens for changes of this run's tasks."""
        return run_id in self._by_run

    def publish(self, run_id: str, change: Change) -> None:
        """Tell everybody concerned. Called after the commit."""
        for subscription in self._by_run.get(run_id, ()):
            subscription._offer(change)
        if change.task is None:
            for subscription in self._all:
                subscription._offer(change)

    def stir(self, run_id: str) -> None:
        """Wake those who wait for something of this run: they look again."""
        for event in self._waits.get(run_id, ()):
            event.set()

    @contextmanager
    def subscribe(self, run_ids: Collection[str] | None) -> Iterator[Subscription]:
        """Listen to these runs and their tasks, or (None) to all runs without their tasks."""
        subscription = Subscription()
        if self._is_closed:
            subscription._end(Closed)
        homes = [self._all] if run_ids is None else [self._by_run[run_id] for run_id in set(run_ids)]
        for home in homes:
            home.add(subscription)
        try:
            yield subscription
        finally:
            for home in homes:
                home.discard(subscription)
            for run_id in run_ids or ():
                if not self._by_run.get(run_id, True):
                    del self._by_run[run_id]

    async def stirs(self, run_id: str, timeout_s: float) -> AsyncGenerator[None, None]:
        """Yield at once, then each time the run was stirred, until the time is up or the hub closes.

        What a look finds after a yield is never missed: the wait begins before the look.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        event = asyncio.Event()
        self._waits[run_id].add(event)
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
            waits.discard(event)
            if not waits:
                del self._waits[run_id]

    def count_waits(self) -> int:
        """How many wait for something of a run and have seen all that there is to see."""
        return sum(not event.is_set() for events in self._waits.values() for event in events)

    def close(self) -> None:
        """Shut down: waits end as if their time were up, subscriptions end with Closed."""
        self._is_closed = True
        for subscription in {*self._all, *(s for subscriptions in self._by_run.values() for s in subscriptions)}:
            subscription._end(Closed)
        for events in self._waits.values():
            for event in events:
                event.set()
