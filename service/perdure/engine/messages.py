"""The two closed alphabets of the core: what happened, and what to do about it.

Events are in the past tense and carry the moment they happened, since the core has no clock: `at_ms`, by the
engine's clock, which timers follow. `started_ms` and `ended_ms` are what the worker's clock said. An
event about an attempt carries the attempt's number: only the current attempt of a task counts.
Commands are imperative. Those that *record* have to be durable before those that *act* and stand in
the same list, or in a later one of the same run, are carried out: write, then act.
"""

from __future__ import annotations

from typing import TypeAlias

from perdure.model import Failure, Node, Path, Payload, RunStatus, Spec, TaskStatus, frozen

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
    """An attempt returned a graph; the graph's value is to be the task's. `spec_key` names it in storage."""

    task_id: str
    attempt: int
    spec: Spec
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
    """The worker of an attempt that may have begun is gone."""

    task_id: str
    attempt: int
    reason: str
    at_ms: int


@frozen
class EventArrived:
    """An event for the run is durable. `sequence` grows from one event to the next."""

    sequence: int
    key: str
    payload: Payload
    at_ms: int


@frozen
class TimerFired:
    """The moment that SetTimer asked for has come."""

    task_id: str
    attempt: int
    at_ms: int


@frozen
class CancelRequested:
    """Somebody wants the run to end."""

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
    """Where a value is: the stored output of a task, or an input of the run.

    `wraps` counts the tasks with `catch_exceptions` it has passed through as a success: each puts it
    into a pair (value, None).
    """

    task_id: str = ""
    input: str = ""
    wraps: int = 0
    path: Path = ()


@frozen
class RecordTask:
    """Store what is known of a task, over what was stored of it before.

    `seq` orders the records of a run for its recovery. SUCCESSFUL has an `output` (of which recovery
    gets the size alone), or the `spec_key` of the graph that it returned, or a `failure` that was
    caught. READY with an end is a volatile task that succeeded: it is done for those who ask, and runs again
    if its value is needed after a restart. `wake_ms` is the moment at which TimerFired is due.
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
    """Store that an event was delivered to a task; it goes with the record of that task."""

    sequence: int
    task_id: str


@frozen
class RecordRun:
    """Store the end of the run. SUCCESSFUL has an `output`, FAILED and CANCELED a `failure`."""

    status: RunStatus
    at_ms: int
    output: Source | None = None
    failure: Failure | None = None


@frozen
class Dispatch:
    """Run an attempt of a task. `inputs` are where the values of its refs are, in their order; `beside`
    names the task in whose process it should run, if that is possible."""

    task_id: str
    attempt: int
    node: Node
    inputs: tuple[Source, ...]
    beside: str = ""


@frozen
class KeepOutput:
    """Have the output of a volatile task at hand until DropOutput or the end of the run."""

    task_id: str
    output: Payload


@frozen
class DropOutput:
    """Nobody needs the output of a volatile task any more."""

    task_id: str


@frozen
class CancelAttempt:
    """Stop an attempt; nobody waits for it any more."""

    task_id: str
    attempt: int


@frozen
class SetTimer:
    """Apply TimerFired at `due_ms`, at least once. If `is_recorded`, the task's record has the moment."""

    task_id: str
    attempt: int
    due_ms: int
    is_recorded: bool = True


Record: TypeAlias = RecordTask | ConsumeEvent | RecordRun
Act: TypeAlias = Dispatch | KeepOutput | DropOutput | CancelAttempt | SetTimer
Command: TypeAlias = Record | Act
