"""Views: runs and tasks as clients see them, as values."""

from __future__ import annotations

from datetime import UTC, datetime

from perdure.engine.machine import Machine, TaskState
from perdure.model import (
    Failure,
    Payload,
    RunStatus,
    Sleep,
    TaskOptions,
    TaskStatus,
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


def count_tasks(run: Machine) -> TaskCounts:
    """The number of tasks in each state. Takes constant time."""
    counts = run.counts
    return TaskCounts(
        total=run.size,
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


def view_task(task: TaskState, waiting: Waiting | None = None) -> TaskView:
    options = task.options
    return TaskView(
        task_id=task.id,
        node_id=task.node_id,
        parent_task_id=task.parent_id,
        function_name=task.function_name,
        status=task.status,
        attempts=task.attempts_begun,
        started_ms=task.started_ms,
        ended_ms=task.ended_ms,
        output_bytes=task.output_bytes,
        checkpointed=task.status is TaskStatus.SUCCESSFUL and not task.is_volatile,
        failure=task.failure,
        next_attempt_ms=task.wake_ms if task.status is TaskStatus.BACKING_OFF else None,
        metadata=options.metadata,
        options=options,
        upstream=task.upstream,
        waiting=waiting,
    )


def waits_for(task: TaskState) -> Waiting | None:
    """The event or the time that a running event wait or timer waits for."""
    until = f" until {_moment(task.wake_ms)}" if task.wake_ms is not None else ""
    match task.awaited:
        case WaitEvent(key=key):
            return Waiting(WaitReason.EVENT, f"waits for the event {key!r}{until}")
        case Sleep():
            return Waiting(WaitReason.TIME, f"sleeps{until}")
        case None:
            return None


def _moment(ms: int) -> str:
    """A time as text; a time beyond the calendar as a number."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"
