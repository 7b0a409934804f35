"""The calls of an actor, as tasks."""

from __future__ import annotations

from typing import Final

from perdure.engine.actor.reminders import Reminder
from perdure.engine.graph_run.run import Run
from perdure.model import (
    ACTOR_CALL,
    CREATION,
    ActorSpec,
    Call,
    Failure,
    InputRef,
    Payload,
    Sleep,
    Spec,
    SpecNode,
    TaskOptions,
    TaskStatus,
    WaitEvent,
)

CLASS: Final = ".class/"
"""The beginning of the ids of changes of the class: of their events, and of the record of the last one."""
ARGUMENTS: Final = "call"
"""The input of the run that has the call of the constructor."""
_ELSEWHERE: Final = Payload(ACTOR_CALL)
"""Arguments that are not in the graph: those of the constructor are an input, those of an ended call are not needed."""


class ActorCall:
    """One call: implements TaskState. While it has its turn, `run` is its graph run, whose only node of its own is this
    call. `sequence` is that of the event that recorded it, `children` are the tasks of the graph that it returned."""

    __slots__ = (
        "arguments",
        "attempt",
        "callers",
        "children",
        "ended_ms",
        "expected_revision",
        "failure",
        "id",
        "method",
        "output_bytes",
        "reminder",
        "revision",
        "run",
        "sequence",
        "source",
        "started_ms",
        "status",
        "wraps",
    )

    def __init__(
        self,
        call_id: str,
        sequence: int = 0,
        *,
        method: str = "",
        arguments: Payload = _ELSEWHERE,
        expected_revision: int | None = None,
        reminder: Reminder | None = None,
        callers: tuple[str, ...] = (),
    ) -> None:
        self.id = call_id
        self.sequence = sequence
        self.method = method
        self.arguments = arguments
        self.expected_revision = expected_revision
        self.reminder = reminder
        self.callers = callers
        self.run: Run | None = None
        self.status = TaskStatus.BLOCKED
        self.attempt = 0
        self.output_bytes = 0
        self.revision = 0
        self.started_ms: int | None = None
        self.ended_ms: int | None = None
        self.failure: Failure | None = None
        self.source = call_id
        self.wraps = 0
        self.children: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """The beginning of the ids of the other tasks in `run`."""
        return f"{self.id}/"

    def graph(self, spec: ActorSpec) -> Spec:
        """The graph of the call: one node."""
        refs = (InputRef(ARGUMENTS),) if self.id == CREATION else ()
        call = Call(spec.function, self.arguments, refs)
        return Spec((SpecNode(self.id, call, options=spec.options),), self.id, self.callers)

    def follow(self) -> None:
        """Take the state of its task in `run`."""
        assert self.run is not None
        task = self.run.graph.tasks[self.id]
        self.status = task.status
        self.attempt = task.attempt
        self.output_bytes = task.output_bytes
        self.started_ms, self.ended_ms = task.started_ms, task.ended_ms
        self.failure = task.failure
        self.source, self.wraps = task.source, task.wraps

    def end(self) -> None:
        """It has a result. All but that is forgotten."""
        if self.run is not None:
            self.children = tuple(task.id for task in self.run.tasks(1))
        self.run = None
        self.arguments = _ELSEWHERE

    def fail(self, failure: Failure, at_ms: int) -> None:
        """It ends without a value, by another cause than its own task."""
        self.status = TaskStatus.FAILED
        self.failure = failure
        self.ended_ms = at_ms
        self.source, self.wraps = self.id, 0

    # -------------------------------------------------------------------------- as others see it

    @property
    def done(self) -> bool:
        return self.status is TaskStatus.SUCCESSFUL and self.run is None

    @property
    def has_ended(self) -> bool:
        return self.done or self.status is TaskStatus.FAILED

    @property
    def attempts_begun(self) -> int:
        return self.attempt if self.run is None else self.run.graph.tasks[self.id].attempts_begun

    @property
    def wake_ms(self) -> int | None:
        return None if self.run is None else self.run.graph.tasks[self.id].wake_ms

    @property
    def is_volatile(self) -> bool:
        return False

    @property
    def function_name(self) -> str:
        return self.method

    @property
    def options(self) -> TaskOptions:
        return _PLAIN if self.run is None else self.run.graph.tasks[self.id].options

    @property
    def node_id(self) -> str:
        return ""

    @property
    def parent_id(self) -> str:
        return ""

    @property
    def upstream(self) -> tuple[str, ...]:
        return ()

    @property
    def awaited(self) -> WaitEvent | Sleep | None:
        return None


_PLAIN: Final = TaskOptions()
