"""Tells those who wait here what other engines have done.

The store hints that others have changed something; whoever waits here for a run that is not in memory
here then looks for himself. Hints may be lost, so that happens every so often without one, too. Only
durable things are seen this way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from perdure import errors
from perdure.service.journal.loops import Loop
from perdure.service.operations.queries import Queries
from perdure.service.runs.changes import Change, Changes
from perdure.service.runs.scheduler import Scheduler
from perdure.service.runs.views import RunView
from perdure.storage.ports import CorruptData, MetadataStore, StorageError

log = logging.getLogger(__name__)

POLL_S: Final = 2.0
GATHER_S: Final = 0.005
"""Hints that come within this time are dealt with together."""
PAGE: Final = 1_000


class Follower:
    """Turns hints into stirs and changes."""

    def __init__(
        self,
        store: MetadataStore,
        scheduler: Scheduler,
        changes: Changes,
        queries: Queries,
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._changes = changes
        self._queries = queries
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
        if self._changes.has_subscribers:
            await self._publish(self._told)
        self._told = until  # who subscribes from now on needs nothing that was before
        return POLL_S

    async def _publish(self, since: int) -> None:
        """Runs that changed since the last look, and the tasks of those that somebody watches. What is
        published twice, subscribers know how to tell."""
        after = since
        while page := await self._store.read_changes(None, after=after, limit=PAGE):
            after = page[-1].change
            for row in page:
                if self._scheduler.find_live(row.run_id) is None:
                    told = Change(row.change, self._clock(), row.namespace, run=RunView(row))
                    self._changes.publish(row.run_id, told)
        for run_id in self._changes.watched_runs():
            if self._scheduler.find_live(run_id) is None:
                try:
                    await self._publish_tasks(run_id, since)
                except (errors.WorkflowNotFoundError, CorruptData) as error:  # deleted meanwhile, or damaged
                    log.warning("tasks not told", extra={"run_id": run_id, "error": str(error)})

    async def _publish_tasks(self, run_id: str, since: int) -> None:
        changed = dict(await self._store.read_tasks(run_id, after=since))
        row = await self._store.get_run(run_id) if changed else None
        if row is None:
            return
        for task in (await self._queries.look(row, changed)).taken[1]:
            told = Change(changed[task.task_id], self._clock(), row.namespace, task=(row.workflow_id, run_id, task))
            self._changes.publish(run_id, told)
