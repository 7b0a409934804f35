"""The two closed alphabets of the core: events (input) and commands (output).

Events are in the past tense. The core has no clock, so they carry the time at which they happened: `at_ms` by the
engine's clock, which timers follow, `started_ms` and `ended_ms` by the worker's clock. An event about an attempt
carries the attempt's number, and is ignored unless that is the task's current attempt. Commands are imperative. Some
*record*, some *act*. Records must be durable before the acts of the same list, or of a later list of the same run, are
carried out: write, then act.
"""

from __future__ import annotations

from typing import TypeAlias

from perdure.model import Call, Failure, Path, Payload, RunStatus, Shape, TaskStatus, frozen

# ------------------------------------------------------------------------------ events


@frozen
class AttemptStarted:
    """User code of an attempt began."""

    task_id: str
    attempt: int
    at_ms: int
    started_ms: int | None = None


@frozen
class TaskSucceeded:
    """An attempt returned a value."""

    task_id: str
    attempt: int
    output: Payload
    at_ms: int
    started_ms: int | None = None
    ended_ms: int | None = None


@frozen
class TaskContinued:
    """An attempt returned a continuation instead of a value: more work, whose value becomes the task's. The machine's
    kind has decoded it. `spec_key` is its key in the store."""

    task_id: str
    attempt: int
    continuation: object
    spec_key: str
    at_ms: int
    started_ms: int | None = None
    ended_ms: int | None = None


@frozen
class TaskFailed:
    """An attempt raised."""

    task_id: str
    attempt: int
    failure: Failure
    at_ms: int
    started_ms: int | None = None
    ended_ms: int | None = None


@frozen
class AttemptLost:
    """The worker of an attempt is gone. The attempt may have begun, so its number is not given again.

    `is_free`: no report says that it began, and it is probably not the cause of the loss. The next attempt follows at
    once, and the loss does not count against the retry policy.
    """

    task_id: str
    attempt: int
    reason: str
    at_ms: int
    is_free: bool = False


@frozen
class EventArrived:
    """An event for the run is durable. `sequence` grows from one event to the next."""

    sequence: int
    key: str
    payload: Payload
    at_ms: int


@frozen
class TimerFired:
    """The timer of a SetTimer is due. `loading`: the stack of an attempt that still imports the module of its function;
    "" for others."""

    task_id: str
    attempt: int
    at_ms: int
    loading: str = ""


@frozen
class CancelRequested:
    """A caller wants the run to end."""

    reason: str
    at_ms: int


Event: TypeAlias = (
    AttemptStarted
    | TaskSucceeded
    | TaskContinued
    | TaskFailed
    | AttemptLost
    | EventArrived
    | TimerFired
    | CancelRequested
)

# ------------------------------------------------------------------------------ commands


@frozen
class Source:
    """The place of a value: the stored output of a task, or an input of the run.

    `wraps` is the number of tasks with `catch_exceptions` that the value passed through: each puts it into a pair
    (value, None).
    """

    task_id: str = ""
    input: str = ""
    wraps: int = 0
    path: Path = ()


@frozen
class RecordTask:
    """Store the state of a task, replacing its earlier record.

    `seq` orders the records of a run for its recovery. SUCCESSFUL has an `output` (recovery reads its size only), or
    the `spec_key` of the continuation that the task returned, or a `failure` that was caught. READY with an `ended_ms`
    is a volatile task that succeeded: queries show it as done, and it runs again if its value is needed after a
    restart. `wake_ms` is the time at which TimerFired is due.
    """

    seq: int
    task_id: str
    status: TaskStatus
    attempt: int
    failures: int = 0
    output: Payload | None = None
    output_bytes: int | None = None
    failure: Failure | None = None
    spec_key: str = ""
    wake_ms: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None


@frozen
class ConsumeEvent:
    """Store that an event was delivered to a task. Stands beside the record of that task."""

    sequence: int
    task_id: str


@frozen
class ForgetTasks:
    """Remove the records of tasks, with `and_events` the events that they consumed, and with `and_graphs` the graphs
    that they returned. Remove `inputs` of the run."""

    task_ids: tuple[str, ...]
    and_events: bool = False
    and_graphs: bool = False
    inputs: tuple[str, ...] = ()


@frozen
class RecordDefinition:
    """Store a definition that a record of the same list names. `key` is its key in the store."""

    key: str
    data: bytes


@frozen
class RecordRun:
    """Store the end of the run. SUCCESSFUL has an `output`, FAILED and CANCELED a `failure`."""

    status: RunStatus
    at_ms: int
    output: Source | None = None
    failure: Failure | None = None


@frozen
class StartAttempt:
    """Run an attempt of a task on a lease of this shape. `inputs` are the sources of the call's refs, in their order.
    `beside` names a task or a turn: the attempt should run in the process that ran it last, if possible. `is_limited`:
    the time of the attempt is limited from AttemptStarted on. `turn`: if it is not "", the attempt begins only after
    older, cancelled attempts of the run with the same turn have really ended. `callers`: as in MethodCall, those that
    wait for it."""

    task_id: str
    attempt: int
    call: Call
    shape: Shape
    inputs: tuple[Source, ...]
    beside: str = ""
    is_limited: bool = False
    turn: str = ""
    callers: tuple[str, ...] = ()


@frozen
class KeepOutput:
    """Keep the output of a volatile task in memory until DropOutput or the end of the run."""

    task_id: str
    output: Payload


@frozen
class DropOutput:
    """No task needs the output of a volatile task any more."""

    task_id: str


@frozen
class CancelAttempt:
    """Stop an attempt. Its result would be ignored."""

    task_id: str
    attempt: int


@frozen
class SetTimer:
    """Apply TimerFired at `due_ms`, at least once. `is_recorded`: the task's record has that time."""

    task_id: str
    attempt: int
    due_ms: int
    is_recorded: bool = True


@frozen
class DeleteUnused:
    """Delete the run with everything that belongs to it, unless it has an event above `last_event`. If that cannot be
    now, apply TimerFired for this task and attempt again, later."""

    task_id: str
    attempt: int
    last_event: int


Record: TypeAlias = RecordTask | ConsumeEvent | ForgetTasks | RecordDefinition | RecordRun
Act: TypeAlias = StartAttempt | KeepOutput | DropOutput | CancelAttempt | SetTimer | DeleteUnused
Command: TypeAlias = Record | Act
