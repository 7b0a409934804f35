"""A run in memory. Turns its commands into store writes, and into acts to carry out once those are durable.

Nothing here waits or touches other parts of the engine, so that it can be done in a thread for a large run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from perdure.engine.machine import Machine
from perdure.engine.messages import (
    CancelAttempt,
    Command,
    ConsumeEvent,
    DeleteUnused,
    DropOutput,
    ForgetTasks,
    KeepOutput,
    RecordDefinition,
    RecordRun,
    RecordTask,
    SetTimer,
    StartAttempt,
)
from perdure.model import Payload, TaskStatus
from perdure.service.common.aside import is_large
from perdure.service.common.uses import names_of, of_record, use, user
from perdure.service.machines.source import RunSource
from perdure.service.runs.acting import Attempting
from perdure.service.runs.restore import output_of, write_of
from perdure.service.runs.views import RunView, TaskView, count_tasks
from perdure.storage.rows import RunRow, ValueKey
from perdure.storage.writes import SetDormant, SetRun, Write


@dataclass(slots=True, eq=False)
class Live:
    """A run in memory.

    - `pending`: its journal entries that are not durable yet.
    - `dormant`: its dormancy in the store once all of them are durable. None: unknown.
    - `roused_by`: the write of the last entry about its dormancy, if that is the entry of an event, which makes it
      active in the store.
    - `held`: calls that wait until it is decided whether the run was canceled, or until `at_rest` is set. None: calls
      need not wait.
    - `is_refused`: the store rejected a record, or a step failed, so memory is not what the store will have. The run
      takes no more events and fails.
    - `at_rest`: exists while a thread works on `run` or a large step is under way. Other code must not read `run` then.
    - `change`: its last commit that is known to be durable.
    - `told`: the last moment that was published to subscribers."""

    row: RunRow
    run: Machine
    pending: int = 0
    dormant: bool | None = None
    roused_by: Write | None = None
    held: deque[Callable[[], None]] | None = None
    is_refused: bool = False
    at_rest: asyncio.Event | None = None
    change: int = 0
    told: int = 0

    @property
    def is_ending(self) -> bool:
        """Whether the end of the run is being committed, or may be. The store may then have a newer state than
        `row`."""
        return self.held is not None or self.is_refused or self.run.status is not self.row.status

    def view(self) -> RunView:
        return RunView(self.row, count_tasks(self.run))


@dataclass(slots=True)
class Step:
    """The results of one or more events: commands, and for subscribers the tasks that changed their state, each with
    the moment of the change."""

    commands: list[Command] = field(default_factory=list)
    views: list[tuple[int, TaskView]] = field(default_factory=list)


@dataclass(slots=True)
class Acts:
    """Acts to carry out once an entry is durable: `kept` before `commands`. `cuts_off`: more tasks have changed than
    subscribers can be told of, so they are cut off and read the run again. `consumers`: tasks that consumed an event,
    which an actor's calls do when they end."""

    kept: Sequence[KeepOutput | DropOutput] = ()
    commands: Sequence[Attempting] = ()
    values: Sequence[tuple[str, Payload]] = ()
    views: list[tuple[int, TaskView]] = field(default_factory=list)
    cuts_off: bool = False
    changes_tasks: bool = False
    failures: Sequence[RecordTask] = ()
    forgotten: Sequence[ValueKey] = ()
    end: SetRun | None = None
    consumers: Sequence[str] = ()


@dataclass(slots=True)
class Plan:
    """The result of a step: writes for its journal entry, and acts to carry out once that entry is durable.

    `early` holds writes that may become durable before the rest: that an attempt was cancelled, or that one may have
    begun before a restart. A run restored with only some of them behaves as without them. Very many of them go into
    entries of their own, and entries of other runs come between."""

    writes: list[Write] = field(default_factory=list)
    acts: Acts = field(default_factory=Acts)
    early: list[Write] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the step needs neither writes nor acts."""
        acts = self.acts
        return not (self.writes or self.early or acts.kept or acts.commands or acts.views or acts.cuts_off)


@dataclass(slots=True)
class Begun:
    """A new run that is not yet visible to other code, because its first entry is not durable, and its first step."""

    live: Live
    plan: Plan


def begin_run(row: RunRow, source: RunSource) -> Begun:
    """Make a new run."""
    run = source.begin()
    commands = run.start(row.create_ms)
    run.pop_changed()  # a new run has no subscribers
    if run.is_dormant and not run.status.is_final:
        row = row.but(is_dormant=True)
    live = Live(row, run, pending=1, dormant=row.is_dormant)
    return Begun(live, sort_out(live, Step(commands), is_dormant=row.is_dormant))


def sort_out(live: Live, step: Step, *, is_dormant: bool | None = None) -> Plan:
    """Turn records into writes; the other commands wait for them. `is_dormant`: the run's new dormancy, None if it does
    not change."""
    run_id = live.row.run_id
    writes: list[Write] = []
    early: list[Write] = []
    has_early = is_large(len(step.commands))
    kept: list[KeepOutput | DropOutput] = []
    attempting: list[Attempting] = []
    values: list[tuple[str, Payload]] = []
    failures: list[RecordTask] = []
    forgotten: list[ValueKey] = []
    consumers: list[str] = []
    changes_tasks = False
    end: SetRun | None = None
    for command in step.commands:
        match command:
            case RecordTask():
                output = output_of(command)
                (early if has_early and _may_be_early(command) else writes).append(write_of(run_id, command, output))
                if blobs := of_record(command, output):
                    writes += use(run_id, names_of(blobs), user(live.row, command.task_id))
                changes_tasks = True
                if command.failure is not None:
                    failures.append(command)
                if output is not None:
                    values.append((command.task_id, output))
            case RecordRun():
                write = write_of(run_id, command, None)
                assert isinstance(write, SetRun)
                writes.append(write)
                end = write
            case ConsumeEvent():
                writes.append(write_of(run_id, command, None))
                consumers.append(command.task_id)
            case ForgetTasks():
                writes.append(write_of(run_id, command, None))
                forgotten += [ValueKey(run_id, task_id=task_id) for task_id in command.task_ids]
                forgotten += [ValueKey(run_id, input=name) for name in command.inputs]
            case RecordDefinition():
                writes.append(write_of(run_id, command, None))
            case KeepOutput():
                writes += use(run_id, names_of(command.output.blobs()), user(live.row, command.task_id))
                kept.append(command)
                changes_tasks = True
            case DropOutput():
                kept.append(command)
            case StartAttempt() | CancelAttempt() | SetTimer() | DeleteUnused():
                attempting.append(command)
            case _:
                assert_never(command)
    if is_dormant is None:
        is_dormant = live.run.is_dormant and not live.run.status.is_final
    if is_dormant is not live.dormant:
        writes.append(SetDormant(run_id, is_dormant))
        live.dormant = is_dormant
        live.roused_by = None
    # Few steps have acts of every kind. Empty lists would stay until the entry is durable, and the garbage collector
    # would look at each.
    acts = Acts(
        kept or (),
        attempting or (),
        values or (),
        step.views,
        changes_tasks=changes_tasks,
        failures=failures or (),
        forgotten=forgotten or (),
        end=end,
        consumers=consumers or (),
    )
    return Plan(writes, acts, early)


def _may_be_early(record: RecordTask) -> bool:
    """Whether the record may be durable before the rest of its step. A canceled task of a run that goes on is tried
    again. A timer must stay in the store until it is certainly no longer needed. An attempt that may have begun has no
    end time."""
    if record.wake_ms is not None or record.failure is not None:
        return False
    return record.status is TaskStatus.CANCELED or (record.status in _NOT_BEGUN and record.ended_ms is None)


_NOT_BEGUN: Final = (TaskStatus.READY, TaskStatus.BLOCKED)
