"""Tells those who wait here what other engines have done.

The store hints that others have changed something; whoever waits here for a run that is not in memory
here then looks for himself. Hints may be lost, so that happens every so often without one, too. Only
durable things are seen this way.

Commits of several engines become visible in another order than that of their numbers. So what subscribers may name as
the place up to which they heard everything is said by the follower alone, after each look: it has published what
others did up to there, and the journal has published what this engine did.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from perdure import errors
from perdure.service.journal.journal import Journal
from perdure.service.journal.loops import Loop
from perdure.service.runs.changes import Change, Changes
from perdure.service.runs.moments import Moments
from perdure.service.runs.scheduler import Scheduler
from perdure.service.runs.views import RunView, view_task
from perdure.storage.ports import ChangeStore, CorruptData, RunStore, StorageError
from perdure.storage.rows import RunRow

log = logging.getLogger(__name__)

POLL_S: Final = 2.0
GATHER_S: Final = 0.005
"""Hints that come within this time are dealt with together."""
PAGE: Final = 1_000


class FollowerStore(ChangeStore, RunStore, Protocol):
    """What the follower asks of the store."""


class Follower:
    """Turns hints into stirs and changes."""

    def __init__(
        self,
        store: FollowerStore,
        journal: Journal,
        scheduler: Scheduler,
        changes: Changes,
        moments: Moments,
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._journal = journal
        self._scheduler = scheduler
        self._changes = changes
        self._moments = moments
        self._clock = clock
        self._told = 0
        self._loop = Loop(
            "follower",
            self._look,
            trouble="changes of others not read, trying again",
            first_s=POLL_S,
            gather_s=GATHER_S,
            failed=lambda: POLL_S,
        )

    async def start(self) -> None:
        """Returns once it is known from where to follow; nobody may subscribe before. Waits for the store."""
        while True:
            try:
                self._told = await self._store.last_change()
                break
            except StorageError as error:
                log.warning("changes of others not read, trying again", extra={"error": str(error)})
                await asyncio.sleep(POLL_S)
        self._changes.settle(self._told, self._clock())
        self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    def heard(self) -> None:
        """Others changed something."""
        if self._changes.has_listeners:
            self._loop.wake()

    async def _look(self) -> float:
        for run_id in self._changes.waited_runs():
            if self._scheduler.find_live(run_id) is None:
                self._changes.stir(run_id)
        until = await self._store.last_change()
        since, self._told = self._told, until  # who subscribes from now on needs nothing that was before
        if not self._changes.has_subscribers:
            self._changes.settle(until, self._clock())
            return POLL_S
        try:
            await self._publish(since)
        except BaseException:
            self._told = since
            raise
        with suppress(StorageError):  # then the next look settles it
            await self._journal.barrier()
            self._changes.settle(until, self._clock())
        return POLL_S

    async def _publish(self, since: int) -> None:
        """Runs that changed since the last look, and the tasks of those that somebody watches. Runs that are in memory
        here publish themselves. What is published twice, subscribers know how to tell."""
        after = since
        watched = self._changes.watched_runs()
        wanted = set(watched)
        changed: dict[str, RunRow] = {}
        while page := await self._store.read_changes(None, after=after, limit=PAGE):
            after = page[-1].change
            for row in page:
                if row.run_id in wanted:
                    changed[row.run_id] = row
                elif self._scheduler.find_live(row.run_id) is None:
                    self._publish_row(row)
        for run_id in watched:
            if self._scheduler.find_live(run_id) is None:
                try:
                    await self._publish_run(run_id, changed.get(run_id), since)
                except errors.WorkflowNotFoundError as error:  # deleted meanwhile
                    log.warning("run not told", extra={"run_id": run_id, "error": str(error)})

    async def _publish_run(self, run_id: str, row: RunRow | None, since: int) -> None:
        """A run and its tasks, as they are at one moment: the tasks first, since watches end with the run."""
        if row is None and await self._store.read_tasks(run_id, after=since):
            row = await self._store.get_run(run_id)
        if row is None:
            return
        try:
            now = await self._moments.look(row, lambda run: run)
        except CorruptData as error:
            log.warning("tasks not told", extra={"run_id": run_id, "error": str(error)})
            self._publish_row(row)
            return
        # Read after the look, so that all that the look has seen is in it; what came later is for the next one.
        tasks = dict(await self._store.read_tasks(run_id, after=since))
        if now.is_here or self._scheduler.find_live(run_id) is not None:
            return
        for task_id, change in tasks.items():
            task = now.taken.graph.tasks.get(task_id)
            if task is not None and change <= now.change:
                told = Change(change, self._clock(), row.namespace, task=(row.workflow_id, run_id, view_task(task)))
                self._changes.publish(run_id, told)
        if now.row.change > since:
            self._publish_row(now.row)

    def _publish_row(self, row: RunRow) -> None:
        self._changes.publish(row.run_id, Change(row.change, self._clock(), row.namespace, run=RunView(row)))
