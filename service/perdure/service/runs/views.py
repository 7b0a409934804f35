"""Views: runs and tasks as clients see them, as values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import assert_never

from perdure.engine.graph_run.run import Run
from perdure.engine.graph_run.state import Task
from perdure.model import (
    Call,
    Failure,
    Payload,
    RunStatus,
    Sleep,
    TaskOptions,
    TaskStatus,
    Wait,
    WaitEvent,
    frozen,
)
from perdure.service.executors.port import Waiting, WaitReason
from perdure.storage.rows import RunRow


@frozen
class TaskCounts:
    """The number of tasks in each state."""

    total: int = 0
    pending: int = 0
    running: int = 0
    successful: int = 0
    failed: int = 0
    canceled: int = 0


@frozen
class RunView:
    """The durable state of a run. `counts` is None where it would cost too much (in lists). `waiting`: why its first
    ready task has not begun, if that was asked for."""

    row: RunRow
    counts: TaskCounts | None = None
    waiting: Waiting | None = None


@frozen
class TaskView:
    """The state of a task, without its value."""

    task_id: str
    node_id: str
    parent_task_id: str
    function_name: str
    status: TaskStatus
    attempts: int
    started_ms: int | None
    ended_ms: int | None
    output_bytes: int
    checkpointed: bool
    failure: Failure | None
    next_attempt_ms: int | None
    metadata: str
    options: TaskOptions
    upstream: tuple[str, ...]
    waiting: Waiting | None = None


@frozen
class OutcomeView:
    """The outcome of a run or a task. `value` None: there is none yet."""

    run_id: str
    status: RunStatus
    value: Payload | Failure | None


def count_tasks(run: Run) -> TaskCounts:
    """The number of tasks in each state. Takes constant time."""
    counts = run.graph.counts
    return TaskCounts(
        total=len(run.graph.tasks),
        pending=counts[TaskStatus.BLOCKED] + counts[TaskStatus.READY],
        running=counts[TaskStatus.RUNNING] + counts[TaskStatus.BACKING_OFF],
        successful=counts[TaskStatus.SUCCESSFUL],
        failed=counts[TaskStatus.FAILED],
        canceled=counts[TaskStatus.CANCELED],
    )


def has_ended_since(row: RunRow, change: int) -> bool:
    """Whether a run ended after this commit. Its CANCELED tasks have changed then, even if their records are older:
    the records of a large run are stored before its end, and mean nothing until it has ended."""
    return row.status.is_final and row.change > change


def view_task(task: Task, waiting: Waiting | None = None) -> TaskView:
    options = task.node.options
    owner = task.scope.owner
    return TaskView(
        task_id=task.id,
        node_id=task.node.id if owner is None else "",
        parent_task_id=owner.id if owner is not None else "",
        function_name=_name_of(task),
        status=task.status,
        attempts=_begun(task),
        started_ms=task.started_ms,
        ended_ms=task.ended_ms,
        output_bytes=task.output_bytes,
        checkpointed=task.status is TaskStatus.SUCCESSFUL and not task.is_volatile,
        failure=task.failure,
        next_attempt_ms=task.wake_ms if task.status is TaskStatus.BACKING_OFF else None,
        metadata=options.metadata,
        options=options,
        upstream=_upstream(task),
        waiting=waiting,
    )


def _begun(task: Task) -> int:
    """The number of attempts that have begun. An attempt gets its number before it begins."""
    if not isinstance(task.node.action, Call):
        return int(task.attempt > 0)
    is_canceled_before = task.status is TaskStatus.CANCELED and task.started_ms is None and not task.failures
    return max(task.attempt - (task.status is TaskStatus.READY or is_canceled_before), 0)


def _upstream(task: Task) -> tuple[str, ...]:
    """Tasks that it needs, in the order in which its node names them."""
    inner = (task.scope.tasks[node_id].id for node_id in task.node.needs)
    return tuple(dict.fromkeys((*inner, *task.node.task_needs)))


def waits_for(task: Task) -> Waiting | None:
    """What a running event wait or timer waits for."""
    until = f" until {_moment(task.wake_ms)}" if task.wake_ms is not None else ""
    match task.node.action:
        case WaitEvent(key=key):
            return Waiting(WaitReason.EVENT, f"waits for the event {key!r}{until}")
        case Sleep():
            return Waiting(WaitReason.TIME, f"sleeps{until}")
        case _:
            return None


def _moment(ms: int) -> str:
    """A time as text; a time beyond the calendar as a number."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"


def _name_of(task: Task) -> str:
    match task.node.action:
        case Call(function=function):
            return function.name
        case Sleep():
            return "sleep"
        case WaitEvent():
            return "event"
        case Wait():
            return "wait"
        case action:
            assert_never(action)
