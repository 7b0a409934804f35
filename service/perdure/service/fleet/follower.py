"""Publishes the changes of other engines to waiting calls and subscribers of this one.

The store hints that another engine changed something. Calls that wait for a run that is not in memory here then read
the store. Hints may be lost, so the follower also polls. Only durable changes are seen this way.

Commits of several engines become visible in another order than that of their numbers. So only the follower advances
the commit up to which everything was published (`Changes.published`). It does so after each look: it has published the
changes of other engines up to there, and the journal those of this engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from perdure import errors
from perdure.model import TaskStatus
from perdure.service.journal.journal import Journal
from perdure.service.journal.loops import Loop, until_answered
from perdure.service.runs.changes import Change, Changes
from perdure.service.runs.moments import Moments
from perdure.service.runs.scheduler import Scheduler
from perdure.service.runs.views import RunView, has_ended_since, view_task
from perdure.storage.ports import ChangeStore, CorruptData, RunStore, StorageError
from perdure.storage.rows import RunRow

log = logging.getLogger(__name__)

POLL_S: Final = 2.0
GATHER_S: Final = 0.005
"""Hints that arrive within this time are handled together."""
PAGE: Final = 1_000


class FollowerStore(ChangeStore, RunStore, Protocol):
    """The part of the store that the follower uses."""


class Follower:
    """Turns hints into stirs and changes. `moved` is called when a look finds commits, also without a hint."""

    def __init__(
        self,
        store: FollowerStore,
        journal: Journal,
        scheduler: Scheduler,
        changes: Changes,
        moments: Moments,
        clock: Callable[[], int],
        *,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._journal = journal
        self._scheduler = scheduler
        self._changes = changes
        self._moments = moments
        self._clock = clock
        self._moved = moved
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
        """Returns once the first commit to follow from is known; callers must not subscribe before. Waits for the
        store."""
        self._told = await until_answered(self._store.last_change, trouble="changes of others not read")
        self._changes.advance(self._told)
        self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    def heard(self) -> None:
        """Another engine may have changed something."""
        if self._changes.has_listeners:
            self._loop.wake()

    async def _look(self) -> float:
        for run_id in self._changes.waited_runs():
            if self._scheduler.memory.find(run_id) is None:
                self._changes.stir(run_id)
        until = await self._store.last_change()
        since, self._told = self._told, until  # later subscribers need no earlier changes
        if until > since:
            self._moved()
        if not self._changes.has_subscribers:
            self._changes.advance(until)
            return POLL_S
        try:
            await self._publish(since)
        except BaseException:
            self._told = since
            raise
        with suppress(StorageError):  # then the next look does this
            await self._journal.barrier()
            self._changes.advance(until)
        return POLL_S

    async def _publish(self, since: int) -> None:
        """Publish runs that changed since the last look, and the tasks of watched ones. The scheduler publishes runs
        that are in memory here. Subscribers ignore a change that is published twice."""
        after = since
        watched: dict[str, RunRow | None] = dict.fromkeys(self._changes.watched_runs())
        while page := await self._store.read_changes(None, after=after, limit=PAGE):
            after = page[-1].change
            for row in page:
                # A watch of the tasks may have begun during the reads. The end of the run would end it.
                if row.run_id in watched or self._changes.wants_tasks(row.run_id):
                    watched[row.run_id] = row
                elif self._scheduler.memory.find(row.run_id) is None:
                    self._publish_row(row)
        for run_id, changed in watched.items():
            if self._scheduler.memory.find(run_id) is None:
                try:
                    await self._publish_run(run_id, changed, since)
                except errors.WorkflowNotFoundError as error:  # deleted meanwhile
                    log.warning("run not told", extra={"run_id": run_id, "error": str(error)})

    async def _publish_run(self, run_id: str, row: RunRow | None, since: int) -> None:
        """Publish a run and its tasks as of one moment: the tasks first, since watches end with the run."""
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
        # Read after the look, so that this contains all changes the look saw. Later ones are for the next look.
        tasks = dict(await self._store.read_tasks(run_id, after=since))
        if now.is_here or self._scheduler.memory.find(run_id) is not None:
            return
        if has_ended_since(now.row, since):
            canceled = [task for task in now.taken.tasks() if task.status is TaskStatus.CANCELED]
            tasks |= {task.id: now.row.change for task in canceled if task.id not in tasks}
        for task_id, change in tasks.items():
            task = now.taken.find_task(task_id)
            if task is not None and change <= now.change:
                told = Change(change, self._clock(), row.namespace, task=(row.workflow_id, run_id, view_task(task)))
                self._changes.publish(run_id, told)
        if now.row.change > since:
            self._publish_row(now.row)

    def _publish_row(self, row: RunRow) -> None:
        self._changes.publish(row.run_id, Change(row.change, self._clock(), row.namespace, run=RunView(row)))
