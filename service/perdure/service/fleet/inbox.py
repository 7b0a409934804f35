"""Events of runs that several engines write to.

This engine does not learn of their commits in order. So events are read from the store, which numbers the events of a
run in the order of commits.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Protocol

from perdure.engine.messages import EventArrived
from perdure.model import RunStatus
from perdure.service.fleet.letters import event_letter
from perdure.service.journal.journal import Journal
from perdure.service.journal.loops import until_answered
from perdure.service.runs.ownership import Ownership
from perdure.service.runs.restore import arrival_of
from perdure.service.runs.scheduler import Scheduler
from perdure.storage.ports import EventStore, Fenced, RunStore
from perdure.storage.rows import RunRow
from perdure.storage.writes import Write


class InboxStore(EventStore, RunStore, Protocol):
    """The part of the store that the inbox uses."""


class Inbox:
    """Implements Delivery for one engine among several."""

    def __init__(self, store: InboxStore, journal: Journal, scheduler: Scheduler, ownership: Ownership) -> None:
        self._store = store
        self._journal = journal
        self._ownership = ownership
        self._scheduler = scheduler
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def note(self, row: RunRow) -> Write:
        """A letter to the run's owner. The event is handed over some time after its commit. The run may be dormant
        again by then, so clearing the dormancy in its row would not be enough."""
        return event_letter(row.run_id)

    def deliver(self, row: RunRow, event: EventArrived, note: Write) -> None:
        """Read the events of a run that this engine owns. For other runs the letter does this: any engine may have
        started the run before the event was durable."""
        if row.status is RunStatus.RUNNING and self._ownership.is_ours(row):
            self.read_soon(row.run_id)

    async def read(self, run_id: str) -> None:
        """Hand over the durable events that the run has not seen. Raises StorageError."""
        while True:
            live = await self._scheduler.when_live(run_id, lambda live: live)
            if live is None:
                return await self._pass_on(run_id)
            events = await self._store.read_events(run_id, after=live.run.last_event)
            if not events:  # it saw all of them when it was loaded, and may have left memory since
                return
            # Otherwise the run left memory and must be loaded again, or is about to end.
            if self._scheduler.memory.find(run_id) is live and live.held is None:
                for event in events:
                    self._scheduler.apply(live, arrival_of(event))
                return

    async def _pass_on(self, run_id: str) -> None:
        """Tell the run's owner of the events. This engine may have lost the run since the event was committed."""
        row = await self._store.get_run(run_id)
        if row is not None and self._ownership.elsewhere(row) is not None:
            await self._journal.commit((event_letter(run_id),))

    def read_soon(self, run_id: str) -> None:
        """As `read`, in the background, with retries until the store answers."""
        task = asyncio.create_task(self._read_at_last(run_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_at_last(self, run_id: str) -> None:
        with suppress(Fenced):
            await until_answered(partial(self.read, run_id), trouble="events not read", run_id=run_id)
