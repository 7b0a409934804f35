"""What the core remembers of a run: its tasks and the scopes they live in.

A *scope* is one graph at work: the run's own, or the graph that a task returned (its *owner*). A
task is *done* when its value is known: its own output is recorded, its scope has ended, or its
failure was caught. No field holds bytes of the user's; values are named by the task that made them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from perdure.model import Failure, Node, Spec, TaskStatus


class Task:
    """One step of a run. `attempt` fences, `failures` counts against the retry policy."""

    __slots__ = (
        "attempt",
        "deadline_ms",
        "dependents",
        "done",
        "ended_ms",
        "failure",
        "failures",
        "id",
        "missing",
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

    def __init__(self, task_id: str, node: Node, scope: Scope) -> None:
        self.id = task_id
        self.node = node
        self.scope = scope
        self.status = TaskStatus.BLOCKED
        self.missing = 0
        self.dependents: list[Task] = []
        self.done = False
        self.attempt = 0
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


@dataclass(slots=True, eq=False)
class Scope:
    """One graph at work. `remaining` counts its tasks that are not done; `stopped`: none of them counts any more."""

    owner: Task | None
    tasks: dict[str, Task] = field(default_factory=dict)
    remaining: int = 0
    stopped: bool = False
    output: str = ""

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


class Graph:
    """The tasks of a run, by id, in the order in which they became known."""

    def __init__(self, spec: Spec) -> None:
        self.tasks: dict[str, Task] = {}
        self._suffixes: defaultdict[str, int] = defaultdict(int)
        self.root = self.add_scope(spec, owner=None)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks.values())

    def add_scope(self, spec: Spec, owner: Task | None) -> Scope:
        """Give every node of a graph a task with an id that the run never had."""
        scope = Scope(owner, output=spec.output, remaining=len(spec.nodes))
        for node in spec.nodes:
            task = Task(self._fresh_id(node.options.task_id or node.id), node, scope)
            self.tasks[task.id] = scope.tasks[node.id] = task
        for task in scope.tasks.values():
            needs = task.node.needs()
            task.missing = len(needs)
            for need in needs:
                scope.tasks[need].dependents.append(task)
        return scope

    def _fresh_id(self, wanted: str) -> str:
        task_id = wanted
        while task_id in self.tasks:
            self._suffixes[wanted] += 1
            task_id = f"{wanted}_{self._suffixes[wanted]}"
        return task_id
