"""Publishes the changes of runs in memory, once they are durable.

Memory is ahead of the store, so the changed tasks are copied when their state changes. Each copy has a *moment*, which
counts the changes that were copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from perdure.engine.machine import Machine, TaskState
from perdure.service.runs.changes import BACKLOG_MAX, Change, Changes
from perdure.service.runs.live import Acts, Live
from perdure.service.runs.runlog import log_end
from perdure.service.runs.views import RunView, TaskView, view_task
from perdure.storage.rows import RunRow


class Publishing:
    """Copies changed tasks for subscribers, and publishes what is durable."""

    def __init__(self, changes: Changes, clock: Callable[[], int]) -> None:
        self._changes = changes
        self._clock = clock
        self.moment = 0
        """The number of the last change that was copied."""

    def copy_changed(self, live: Live, views: list[tuple[int, TaskView]]) -> None:
        """Add copies of the tasks that the last event changed, if they have subscribers."""
        changed = live.run.pop_changed()
        if changed and self._changes.wants_tasks(live.row.run_id):
            self.add(views, views_of(changed))

    def add_copies(self, acts: Acts, copies: list[TaskView] | None) -> None:
        """Add copies that were made in a thread. None: they are too many, so subscribers will be cut off."""
        if copies is None:
            acts.cuts_off = True
        else:
            self.add(acts.views, copies)

    def add(self, views: list[tuple[int, TaskView]], new: list[TaskView]) -> None:
        """Add views, all with the same new moment."""
        if new:
            self.moment += 1
            views += [(self.moment, view) for view in new]

    def ahead_of(self, live: Live, stored: Machine) -> list[tuple[int, TaskView]]:
        """Copies of the tasks whose state in memory differs from the `stored` run, which subscribers have seen."""
        known = {task.id: (task.status, task.attempt) for task in stored.tasks()}
        ahead = [task for task in live.run.tasks() if known.get(task.id) != (task.status, task.attempt)]
        views: list[tuple[int, TaskView]] = []
        self.add(views, views_of(ahead))
        return views

    def tell_tasks(self, live: Live, views: Sequence[tuple[int, TaskView]], change: int) -> None:
        """Publish copied tasks, which commit `change` made durable."""
        row = live.row
        for moment, view in views:
            live.told = moment
            told = Change(change, self._clock(), row.namespace, task=(row.workflow_id, row.run_id, view), moment=moment)
            self._changes.publish(row.run_id, told)

    def tell(self, row: RunRow, change: int) -> None:
        """Publish and log the new, durable state of a run."""
        if row.status.is_final:
            log_end(row)
        self.tell_row(row, change)
        self._changes.stir(row.run_id)

    def tell_row(self, row: RunRow, change: int) -> None:
        """Publish the durable state of a run to its subscribers alone."""
        if self._changes.wants_run(row.run_id):
            self._changes.publish(row.run_id, Change(change, self._clock(), row.namespace, run=RunView(row)))


def copies_of(tasks: Sequence[TaskState]) -> list[TaskView] | None:
    """Copies of tasks for subscribers. None: there are more than a subscriber's backlog takes, so that copying them
    would be in vain."""
    return views_of(tasks) if len(tasks) <= BACKLOG_MAX else None


def views_of(tasks: Iterable[TaskState]) -> list[TaskView]:
    """Copies of tasks."""
    return [view_task(task) for task in tasks]
