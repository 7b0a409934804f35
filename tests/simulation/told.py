"""Records what clients were told of runs and tasks, and checks that no answer is ever taken back.

An answer may be as old as its question, not older: whatever somebody had been told by then, by whatever engine, has
to be in it. And what is told of an end is in the store by then, whatever dies afterwards. That an attempt began is
known to the engine that began it only, so READY and RUNNING are not compared. Times are of one clock, the world's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from perdure.model import Payload, RunStatus, TaskStatus
from perdure.service.runs.views import RunView, TaskCounts, TaskView
from perdure.storage.rows import RunRow
from simulation.executor import VOLATILE
from simulation.store import Watch

ENDS: Final = (TaskStatus.SUCCESSFUL, TaskStatus.FAILED, TaskStatus.CANCELED)

RECORDED: Final = (*ENDS, TaskStatus.BACKING_OFF)
"""States that are in the store."""

Said: TypeAlias = tuple[float, TaskStatus]
"""When a state was told for the first time, and which one."""


class Rising:
    """A number that only grows, as it was told at each time."""

    def __init__(self) -> None:
        self._told: list[tuple[float, int]] = []

    def before(self, asked_s: float) -> int:
        """The last number that was told before this time."""
        return next((number for said_s, number in reversed(self._told) if said_s < asked_s), -1)

    def note(self, now_s: float, number: int) -> None:
        if not self._told or number > self._told[-1][1]:
            self._told.append((now_s, number))


@dataclass
class _Run:
    """The answers about one run."""

    resumed_s: float | None = None
    ended: tuple[float, RunStatus] | None = None
    changes: Rising = field(default_factory=Rising)
    """The commit that its state came with."""
    tasks: dict[str, Said] = field(default_factory=dict)
    attempts: dict[str, Rising] = field(default_factory=dict)
    """Of its tasks: those that are recorded."""
    outputs: dict[str, tuple[float, bytes]] = field(default_factory=dict)
    ends: dict[int, Mapping[str, tuple[object, ...]]] = field(default_factory=dict)
    """All of the tasks of a run that was over, by the change that ended it."""


class Told:
    """Remembers what was told, and ends the world with what cannot be."""

    def __init__(self, watch: Watch, now_s: Callable[[], float]) -> None:
        self._watch = watch
        self._now_s = now_s
        self._runs: dict[str, _Run] = {}
        self.count = 0

    def resumes(self, run_ids: Sequence[str]) -> None:
        """Somebody is about to ask for a resumption: what had failed or was canceled may be at work again."""
        for run_id in run_ids:
            self._run(run_id).resumed_s = self._now_s()

    def row(self, asked_s: float, row: RunRow) -> None:
        """The state of a run was told."""
        self.state(asked_s, row.run_id, row.status, row.change)

    def state(self, asked_s: float, run_id: str, status: RunStatus, change: int) -> None:
        """The same of a run of which no more is known."""
        self._watch.guard(lambda: self._see_state(asked_s, run_id, status, change))

    def run(self, asked_s: float, view: RunView) -> None:
        """A run was told with its tasks counted."""
        self.row(asked_s, view.row)
        counts = view.counts
        if counts is not None:
            self._watch.guard(lambda: self._see_counts(view.row, counts))

    def all(self, asked_s: float, row: RunRow, counts: TaskCounts, tasks: Sequence[TaskView]) -> None:
        """A run was told with all of its tasks, of one moment."""
        self.run(asked_s, RunView(row, counts))
        self.tasks(asked_s, row.run_id, tasks)
        self._watch.guard(lambda: self._see_moment(row, tasks))

    def tasks(self, asked_s: float, run_id: str, tasks: Sequence[TaskView]) -> None:
        """All tasks of a run were told."""
        self._watch.guard(lambda: self._see_names(asked_s, run_id, {task.task_id for task in tasks}))
        for task in tasks:
            self.task(asked_s, run_id, task.task_id, task.status, task.attempts)

    def task(self, asked_s: float, run_id: str, task_id: str, status: TaskStatus, attempts: int) -> None:
        """A task was told."""
        if not task_id.startswith(VOLATILE):
            self._watch.guard(lambda: self._see_task(asked_s, run_id, task_id, status))
            self._watch.guard(lambda: self._see_attempts(asked_s, run_id, task_id, status, attempts))

    def output(self, asked_s: float, run_id: str, task_id: str, value: Payload) -> None:
        """The output of a task was told."""
        self._watch.guard(lambda: self._see_output(asked_s, run_id, task_id, value))

    def no_output(self, asked_s: float, run_id: str, task_id: str) -> None:
        """A task was told to have no output, or none yet."""
        self._watch.guard(lambda: self._see_no_output(asked_s, run_id, task_id))

    def _run(self, run_id: str) -> _Run:
        self.count += 1
        return self._runs.setdefault(run_id, _Run())

    def _see_state(self, asked_s: float, run_id: str, status: RunStatus, change: int) -> None:
        known = self._run(run_id)
        was_resumed = known.resumed_s is not None
        if known.ended is not None and asked_s > known.ended[0]:
            before = known.ended[1]
            may_go_on = before is RunStatus.FAILED and was_resumed
            assert status is before or may_go_on, f"{run_id} was {before} and is {status}"
        newest = known.changes.before(asked_s)
        assert change >= newest, f"{run_id} was told as of commit {newest}, and is {status} as of commit {change}"
        known.changes.note(self._now_s(), change)
        if status.is_final:
            stored = self._watch.finals.get(run_id)
            is_stored = stored == str(status) or (status is RunStatus.FAILED and was_resumed)
            assert is_stored, f"{run_id} is told {status}, which is not stored"
            known.ended = known.ended or (self._now_s(), status)

    def _see_counts(self, row: RunRow, counts: TaskCounts) -> None:
        assert counts.total == counts.pending + counts.running + counts.successful + counts.failed + counts.canceled
        is_open = counts.running > 0 and row.status.is_final
        assert not is_open, f"{row.run_id} is {row.status} and {counts.running} of its tasks are at work"

    def _see_moment(self, row: RunRow, tasks: Sequence[TaskView]) -> None:
        """The run and its tasks are of one moment."""
        if row.status is RunStatus.RUNNING:
            is_over = all(task.status is TaskStatus.SUCCESSFUL for task in tasks)
            assert not is_over, f"{row.run_id} is at work, and all of its tasks are done"
        if row.status.is_final:
            shown = {task.task_id: (task.status, task.attempts, task.started_ms, task.ended_ms) for task in tasks}
            known = self._run(row.run_id).ends.setdefault(row.change, shown)
            changed = {name: (known.get(name), shown.get(name)) for name in known.keys() | shown.keys()}
            changed = {name: both for name, both in changed.items() if both[0] != both[1]}
            assert not changed, f"{row.run_id} is over, and its tasks have changed: {changed}"

    def _see_names(self, asked_s: float, run_id: str, shown: set[str]) -> None:
        for task_id, (said_s, before) in self._run(run_id).tasks.items():
            is_there = task_id in shown or said_s >= asked_s
            assert is_there, f"{task_id} of {run_id} was {before} and is not there"

    def _see_task(self, asked_s: float, run_id: str, task_id: str, status: TaskStatus) -> None:
        known = self._run(run_id)
        said_s, before = known.tasks.get(task_id, (asked_s, status))
        may_go_back = before is not TaskStatus.SUCCESSFUL and known.resumed_s is not None
        if said_s < asked_s and before in ENDS and not may_go_back:
            assert status is before, f"{task_id} of {run_id} was {before} and is {status}"
        if status in ENDS:
            stored = self._watch.recorded.get((run_id, task_id), set())
            # The end of a run whose tasks' records are refused is all that is stored of what it stopped.
            follows = status is TaskStatus.CANCELED and run_id in self._watch.finals
            assert status in stored or follows, f"{task_id} of {run_id} is told {status}, which is not stored"
        if task_id not in known.tasks or (status in ENDS and before is not status):
            known.tasks[task_id] = (self._now_s(), status)

    def _see_attempts(self, asked_s: float, run_id: str, task_id: str, status: TaskStatus, attempts: int) -> None:
        known = self._run(run_id)
        told = known.attempts.setdefault(task_id, Rising())
        recorded = told.before(asked_s)
        assert attempts >= recorded, f"{task_id} of {run_id} had {recorded} attempts and has {attempts}"
        if status in RECORDED:
            told.note(self._now_s(), attempts)

    def _see_output(self, asked_s: float, run_id: str, task_id: str, value: Payload) -> None:
        if task_id.startswith(VOLATILE):
            return
        said_s, before = self._run(run_id).outputs.setdefault(task_id, (self._now_s(), value.data))
        assert before == value.data, f"the output of {task_id} of {run_id} is another one"
        stored = self._watch.outputs.get((run_id, task_id))
        assert stored is not None or said_s < asked_s or self._is_owner(run_id, task_id), (
            f"the output of {task_id} of {run_id} is told and not stored"
        )

    def _see_no_output(self, asked_s: float, run_id: str, task_id: str) -> None:
        if run_id not in self._runs or task_id.startswith(VOLATILE):
            return
        said_s, _ = self._runs[run_id].outputs.get(task_id, (asked_s, b""))
        assert said_s >= asked_s, f"{task_id} of {run_id} had an output and has none"

    def _is_owner(self, run_id: str, task_id: str) -> bool:
        """Whether it returned a graph, whose value is stored as that of another task."""
        return (run_id, task_id) in self._watch.owners_of_graphs
