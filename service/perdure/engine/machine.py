"""The machine of a run: it decides what the run does next.

Every kind of run has a machine. That of graphs is in `graph_run/`. The service applies events to machines and carries
out their commands. It knows this protocol and no machine in particular, so a new kind needs no change in the service
but a line where kinds are registered (`service/machines/`).

A machine has no clock, no randomness, no I/O and no await. It applies an event wholly, and ignores late, repeated and
unknown events. State that must survive a crash is a record in the list of commands, before the acts that depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

from perdure.engine.messages import CancelRequested, Command, Event, EventArrived, RecordTask
from perdure.model import Failure, RunStatus, Sleep, TaskOptions, TaskStatus, WaitEvent, frozen

Before: TypeAlias = Literal["nothing", "told", "unknown"]
"""Which attempts of a restored run may have begun before: none; those with records and any of volatile tasks; or any,
because the run was cut off."""


@frozen
class Saved:
    """The stored state of a run, to restore its machine from.

    `records` are those of its tasks, by `seq`, and can be read once; outputs are left out. `mail` are the events that
    no task has consumed, in the order of their sequence; events up to `last_event` are to be ignored if they arrive
    again. `began_ms` is the start of a run that is RUNNING, None for one that is not. `ended_ms` is the end of a run
    that has begun and ended, None for others.
    """

    status: RunStatus
    records: Iterable[RecordTask]
    mail: Sequence[EventArrived]
    last_event: int
    began_ms: int | None
    ended_ms: int | None = None


class TaskState(Protocol):
    """A task of a run as queries and subscribers may read it, until the next call of its machine.

    `attempt` is the number of the current or next attempt, `attempts_begun` the number of those that have begun.
    `source` is the task whose stored output is the value of this one, once it is `done`; `wraps` is the number of tasks
    with `catch_exceptions` that this value passed through. `is_volatile`: its output is not recorded. `wake_ms` is the
    time that it waits for.
    """

    @property
    def id(self) -> str: ...
    @property
    def status(self) -> TaskStatus: ...
    @property
    def attempt(self) -> int: ...
    @property
    def attempts_begun(self) -> int: ...
    @property
    def started_ms(self) -> int | None: ...
    @property
    def ended_ms(self) -> int | None: ...
    @property
    def wake_ms(self) -> int | None: ...
    @property
    def failure(self) -> Failure | None: ...
    @property
    def done(self) -> bool: ...
    @property
    def source(self) -> str: ...
    @property
    def wraps(self) -> int: ...
    @property
    def output_bytes(self) -> int: ...
    @property
    def is_volatile(self) -> bool: ...
    @property
    def function_name(self) -> str:
        """The name of the function that it runs, or of what it waits for."""
        ...

    @property
    def options(self) -> TaskOptions: ...
    @property
    def node_id(self) -> str:
        """The node of the run's own graph that it comes from, "" if there is none."""
        ...

    @property
    def parent_id(self) -> str:
        """The task that made this one, "" if there is none."""
        ...

    @property
    def upstream(self) -> tuple[str, ...]:
        """The tasks whose values it needs."""
        ...

    @property
    def awaited(self) -> WaitEvent | Sleep | None:
        """The event or the time that it waits for without a worker while it is RUNNING."""
        ...


class Machine(Protocol):
    """The state of one run. In threads: one call at a time."""

    @property
    def status(self) -> RunStatus: ...
    @property
    def last_event(self) -> int:
        """The highest sequence of the EventArrived that it has applied or was restored with."""
        ...

    # -------------------------------------------------------------------------- what happens

    def start(self, at_ms: int) -> list[Command]:
        """The first commands of a new run."""
        ...

    def recover(self, at_ms: int, before: Before) -> list[Command]:
        """The commands that a restored state implies. Attempts that were in flight run again, with numbers that no
        attempt had. Tasks that failed or were canceled start anew, because the run is RUNNING again."""
        ...

    def apply(self, event: Event) -> list[Command]:
        """Change the state by one event. Late, repeated and unknown events change nothing and command nothing."""
        ...

    def cancellation(self, event: CancelRequested) -> list[Command]:
        """The commands that `apply` would return now. Changes nothing, so that the end of the run can be recorded
        first."""
        ...

    def reach(self, event: Event) -> int:
        """About how many tasks `apply` will look at, so that the caller can choose where to wait for it. Asked for
        machines of many tasks, and before TaskContinued and CancelRequested."""
        ...

    # -------------------------------------------------------------------------- staying in memory

    @property
    def is_dormant(self) -> bool:
        """Whether only time or an event moves it on, so that it need not be in memory. True once the run has ended."""
        ...

    @property
    def lingers(self) -> bool:
        """Whether it will probably be needed again soon although it is dormant, so that it should stay in memory while
        there is room."""
        ...

    @property
    def next_wake_ms(self) -> int | None:
        """The earliest recorded time that a task waits for."""
        ...

    @property
    def keeps_values(self) -> bool:
        """Whether it has values in memory that are not in the store. Such a run should not leave memory without
        need."""
        ...

    # -------------------------------------------------------------------------- attempts

    def in_flight(self) -> Sequence[tuple[str, int]]:
        """Task and number of the attempts that are with the executor, or will be."""
        ...

    def begun(self) -> dict[str, int]:
        """The number of the last attempt of each task that had one."""
        ...

    def number_from(self, begun: Mapping[str, int]) -> None:
        """Number the next attempts above these, which may have begun without a record, so that late reports of those
        are recognised. Unknown tasks are ignored."""
        ...

    # -------------------------------------------------------------------------- tasks

    @property
    def size(self) -> int:
        """The number of tasks."""
        ...

    @property
    def counts(self) -> Mapping[TaskStatus, int]:
        """The number of tasks in each state. Takes constant time."""
        ...

    def tasks(self, start: int = 0) -> Iterator[TaskState]:
        """The tasks in the order in which they became known, from this place on."""
        ...

    def find_task(self, task_id: str) -> TaskState | None:
        """The task of this id; None if there is none."""
        ...

    def pop_changed(self) -> Sequence[TaskState]:
        """Tasks that changed their state or became known since the last call."""
        ...
