"""The tasks of a graph run, and their scopes.

A *scope* is one graph at work: the run's own, or the graph that a task (the scope's *owner*) returned. A task is
*done* when its value is known: its output is recorded, the scope it owns has ended, or its failure was caught. A
*volatile* task (`checkpoint=False`) is done without a record; after a crash it runs again if its value is still
needed. An *optional* task is needed by a Wait only, so its scope may end before it does. Outputs are named by the task
that made them; no field holds one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from perdure.model import ACTOR_CALL, Call, Failure, Sleep, SpecNode, TaskOptions, TaskStatus, Wait, WaitEvent


class Task:
    """One step of a run. `attempt` fences late reports, `failures` counts against the retry policy.

    `missing` is the number of needs that must be done before the task starts, `consumers` the number of dependents that
    are not done. `must_keep`: the output is recorded whatever the options say. `counted` is the number of the last
    attempt that may have begun according to the task's record, if the record says nothing more; 0 without a record, -1
    otherwise.
    """

    __slots__ = (
        "attempt",
        "checkpoint",
        "consumers",
        "counted",
        "deadline_ms",
        "dependents",
        "done",
        "ended_ms",
        "failure",
        "failures",
        "id",
        "inner",
        "is_optional",
        "missing",
        "must_keep",
        "node",
        "output_bytes",
        "scope",
        "seq",
        "source",
        "spec_key",
        "started_ms",
        "status",
        "wake_ms",
        "wraps",
    )

    def __init__(self, task_id: str, node: SpecNode, scope: Scope) -> None:
        self.id = task_id
        self.node = node
        self.scope = scope
        self.inner: Scope | None = None
        self.status = TaskStatus.BLOCKED
        self.missing = 0
        self.dependents: list[Task] = []
        self.consumers = 0
        self.is_optional = False
        self.checkpoint = True
        self.must_keep = False
        self.done = False
        self.attempt = 0
        self.counted = 0
        self.failures = 0
        self.source = task_id
        self.wraps = 0
        self.seq = -1
        self.spec_key = ""
        self.wake_ms: int | None = None
        self.deadline_ms: int | None = None
        self.started_ms: int | None = None
        self.ended_ms: int | None = None
        self.output_bytes = 0
        self.failure: Failure | None = None

    @property
    def is_volatile(self) -> bool:
        """Whether its output is not recorded. Outputs of events and waits always are."""
        return not self.checkpoint and not self.must_keep and isinstance(self.node.action, Call)

    @property
    def is_method(self) -> bool:
        """Whether it calls a method of an actor, as opposed to a function."""
        action = self.node.action
        return isinstance(action, Call) and action.arguments.encoding == ACTOR_CALL

    @property
    def is_startable(self) -> bool:
        """Whether it can start now. A Wait starts with its graph, because its time-out runs from then."""
        if self.done or self.spec_key:
            return False
        return self.missing <= 0 or isinstance(self.node.action, Wait)

    @property
    def ends_with_run(self) -> bool:
        """Whether the end of the run says all that is to be known of its end: it is a call whose attempt is submitted,
        and nothing has happened since its record."""
        return self.status is TaskStatus.READY and self.started_ms is None and self.attempt == self.counted + 1

    @property
    def may_be_submitted(self) -> bool:
        """Of a restored task whose needs are done: whether an attempt follows that has no record."""
        return self.counted >= 0 and isinstance(self.node.action, Call)

    # -------------------------------------------------------------------------- as others see it

    @property
    def attempts_begun(self) -> int:
        """The number of attempts that have begun. An attempt has its number before it begins. So a submitted one is
        not counted, unless the record says that it may have begun, nor is one that was canceled before it began."""
        if not isinstance(self.node.action, Call):
            return int(self.attempt > 0)
        is_canceled_before = self.status is TaskStatus.CANCELED and self.started_ms is None and not self.failures
        is_submitted = self.status is TaskStatus.READY and self.attempt > self.counted
        return max(self.attempt - (is_submitted or is_canceled_before), 0)

    @property
    def function_name(self) -> str:
        match self.node.action:
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

    @property
    def options(self) -> TaskOptions:
        return self.node.options

    @property
    def node_id(self) -> str:
        return self.node.id if self.scope.owner is None else ""

    @property
    def parent_id(self) -> str:
        return self.scope.owner.id if self.scope.owner is not None else ""

    @property
    def upstream(self) -> tuple[str, ...]:
        """Tasks that it needs, in the order in which its node names them."""
        inner = (self.scope.tasks[node_id].id for node_id in self.node.needs)
        return tuple(dict.fromkeys((*inner, *self.node.task_needs)))

    @property
    def awaited(self) -> WaitEvent | Sleep | None:
        action = self.node.action
        return action if isinstance(action, (WaitEvent, Sleep)) else None


@dataclass(slots=True, eq=False)
class Scope:
    """One graph at work. It ends when `remaining` (the number of required tasks that are not done) is 0. `stopped`: its
    tasks have no effect any more."""

    owner: Task | None
    output: str
    tasks: dict[str, Task] = field(default_factory=dict)
    remaining: int = 0
    stopped: bool = False

    def is_live(self) -> bool:
        """Neither this scope nor one around it was stopped."""
        scope: Scope | None = self
        while scope is not None:
            if scope.stopped:
                return False
            scope = scope.owner.scope if scope.owner else None
        return True

    def is_within(self, outer: Scope) -> bool:
        scope: Scope | None = self
        while scope is not None:
            if scope is outer:
                return True
            scope = scope.owner.scope if scope.owner else None
        return False
