"""A check that tasks take the transitions of the table and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from perdure.engine.graph_run.run import Run
from perdure.engine.graph_run.tasks import Task
from perdure.engine.graph_run.transitions import TRANSITIONS
from perdure.model import TaskStatus

Transition = tuple[TaskStatus, TaskStatus]


@contextmanager
def each_transition(seen: Callable[[Transition], None]) -> Iterator[None]:
    """Meanwhile `seen` hears of every transition of every run of this process."""
    inner = Run._set

    def watched(run: Run, task: Task, status: TaskStatus) -> None:
        if task.status is not status:
            seen((task.status, status))
        inner(run, task, status)

    Run._set = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        Run._set = inner  # type: ignore[method-assign]


def refuse_unknown(transition: Transition) -> None:
    assert transition in TRANSITIONS, f"no such transition: {transition[0]} -> {transition[1]}"
