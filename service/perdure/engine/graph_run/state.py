"""The graph of a run in memory: all its tasks, those of returned graphs included, and who needs whom."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from perdure.engine.graph_run.tasks import Scope, Task
from perdure.engine.messages import Source
from perdure.model import Call, InputRef, InvalidSpec, NodeRef, Spec, TaskRef, TaskStatus, Wait, Waited

_BLOCKED: Final = TaskStatus.BLOCKED
_NONE: Final = dict.fromkeys(TaskStatus, 0)


class Graph:
    """The tasks of a run by id, in the order in which they became known. `counts` is the number of tasks in each
    state. Ids of tasks in returned graphs begin with `prefix`."""

    def __init__(self, spec: Spec, prefix: str = "") -> None:
        self._prefix = prefix
        self.tasks: dict[str, Task] = {}
        self.counts = _NONE.copy()
        self.has_volatile = False
        self._suffixes: dict[str, int] = {}
        self.root = self.add_scope(spec, owner=None)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks.values())

    def __del__(self) -> None:
        """Tasks and scopes refer to each other. Without that they are freed with the graph, at once, and not by a
        garbage collection, which takes long while large runs are in memory."""
        for task in self.tasks.values():
            task.scope.tasks.clear()
            task.inner = None

    # -------------------------------------------------------------------------- growing

    def check(self, spec: Spec, owner: Task | None) -> None:
        """Raises InvalidSpec if the graph needs a task that the run does not have, or one that waits for this graph."""
        self.check_named(tasks_named(spec), owner)

    def check_named(self, named: Collection[tuple[str, str]], owner: Task | None) -> None:
        """The same for the `tasks_named` in a graph."""
        around = {task.id for task in _owners(owner)} if named else set()
        for node_id, task_id in named:
            if task_id not in self.tasks:
                raise InvalidSpec(f"node {node_id!r} needs the task {task_id!r:.80}, which is not there", node_id)
            if task_id in around:
                raise InvalidSpec(f"node {node_id!r} needs the task {task_id!r:.80}, which waits for it", node_id)

    def add_scope(self, spec: Spec, owner: Task | None) -> Scope:
        """Add a task with a new id for every node of a graph. Raises InvalidSpec like `check`, with nothing changed."""
        if named := tasks_named(spec):
            self.check_named(named, owner)
        scope = Scope(owner, spec.output)
        if owner is not None:
            owner.inner = scope
        inherited = owner.checkpoint if owner is not None else True
        prefix = self._prefix if owner is not None else ""
        for node in spec.nodes:
            task = Task(self._fresh_id(prefix + (node.options.task_id or node.id)), node, scope)
            self.tasks[task.id] = scope.tasks[node.id] = task
            task.checkpoint = inherited if node.options.checkpoint is None else node.options.checkpoint
            task.must_keep = task.is_method  # what it made of the state is recorded, so it must not run again
            self.has_volatile |= not task.checkpoint
        self.counts[_BLOCKED] += len(scope.tasks)
        scope.tasks[spec.output].must_keep |= owner is None or owner.must_keep
        has_wait = False
        for task in scope.tasks.values():
            self._connect(task)
            has_wait |= isinstance(task.node.action, Wait)
        if has_wait:
            _find_optional(scope)
        scope.remaining = sum(not task.is_optional for task in scope.tasks.values()) if has_wait else len(scope.tasks)
        return scope

    def _fresh_id(self, wanted: str) -> str:
        task_id = wanted
        while task_id in self.tasks:
            number = self._suffixes[wanted] = self._suffixes.get(wanted, 0) + 1
            task_id = f"{wanted}_{number}"
        return task_id

    def _connect(self, task: Task) -> None:
        action = task.node.action
        is_wait = isinstance(action, Wait)
        missing = 0
        there = 0
        for need in self.needs_of(task):
            need.consumers += 1
            if is_wait:
                need.must_keep = True  # a Wait's value names it, for as long as the run lives
            if need.done:
                there += 1
            else:
                need.dependents.append(task)
                missing += 1
        task.missing = action.num_returns - there if isinstance(action, Wait) else missing

    def needs_of(self, task: Task) -> Iterable[Task]:
        """The tasks that it waits for, each once."""
        siblings = task.scope.tasks
        needs = [siblings[need] for need in task.node.needs]
        if outer := task.node.task_needs:
            needs += [self.tasks[need] for need in outer]
        return needs

    def sources(self, task: Task) -> tuple[Source, ...]:
        """The places of the values that a call refers to."""
        call = task.node.action
        if not isinstance(call, Call) or not call.refs:
            return ()
        sources = []
        for ref in call.refs:
            if isinstance(ref, InputRef):
                sources.append(Source(input=ref.name, path=ref.path))
            else:
                need = self.named(task.scope, ref)
                sources.append(Source(task_id=need.source, wraps=need.wraps, path=ref.path))
        return tuple(sources)

    def named(self, scope: Scope, ref: NodeRef | TaskRef) -> Task:
        """The task that a reference in this scope names."""
        return scope.tasks[ref.node_id] if isinstance(ref, NodeRef) else self.tasks[ref.task_id]

    def waited(self, task: Task, wait: Wait) -> Waited:
        """The outcome of a Wait: the first done tasks, as many as it asks for, and the remaining tasks."""
        needs = [self.named(task.scope, ref) for ref in wait.refs]
        ready = [need for need in needs if need.done][: wait.num_returns]
        chosen = set(ready)
        return Waited(
            tuple((need.id, need.source, need.wraps) for need in ready),
            tuple(need.id for need in needs if need not in chosen),
        )

    def turn(self, task: Task, status: TaskStatus) -> None:
        """Put a task into another state. Nothing else assigns `Task.status`, because this keeps `counts`."""
        counts = self.counts
        counts[task.status] -= 1
        counts[status] += 1
        task.status = status

    # -------------------------------------------------------------------------- being done

    def ready_ms(self, task: Task, began_ms: int) -> int:
        """The latest known end of the needs of a task. `began_ms` is the start of the run."""
        known = [began_ms, task.scope.owner.ended_ms if task.scope.owner is not None else None]
        if not isinstance(task.node.action, Wait):  # which starts with its graph
            for node_id in task.node.needs:
                need = task.scope.tasks[node_id]
                known += (need.ended_ms, self.tasks[need.source].ended_ms)
        return max(moment for moment in known if moment is not None)

    def mark_done(self, task: Task) -> list[Task]:
        """Mark a task as done. Returns the dependents whose needs are now all done."""
        task.done = True
        if not task.is_optional:
            task.scope.remaining -= 1
        ready = []
        for dependent in task.dependents:
            dependent.missing -= 1
            if dependent.missing or dependent.done or dependent.spec_key:
                continue
            if dependent.scope is task.scope or dependent.scope.is_live():
                ready.append(dependent)
        task.dependents = []
        return ready

    def ended_with(self, task: Task) -> Task | None:
        """The owner whose scope ends because this task is done, or None. The owner inherits the value of the scope."""
        scope = task.scope
        owner = scope.owner
        if owner is None or owner.done or scope.remaining or scope.stopped or task.is_optional:
            return None
        output = scope.tasks[scope.output]
        owner.source = output.source
        owner.wraps = output.wraps + int(owner.node.options.catch_exceptions)
        return owner

    def consumed_by(self, task: Task) -> list[Task]:
        """Volatile tasks whose values are not needed any more, now that this task is done."""
        if not self.has_volatile:
            return []
        freed = []
        for need in self.needs_of(task):
            need.consumers -= 1
            if not need.consumers and need.is_volatile and need is not need.scope.tasks[need.scope.output]:
                freed.append(need)
        return freed

    def begun_before(self) -> list[Task]:
        """Calls that may have begun before the run was restored, without a record of it. Each of their needs is done,
        or is a volatile task that may have been done."""
        begun = [task for task in self if task.is_startable and task.scope.is_live()]
        begun = [task for task in begun if isinstance(task.node.action, Call)]
        done = [task for task in begun if task.is_volatile]
        missing: dict[int, int] = {}  # by id()
        remaining: dict[int, int] = {}
        while done:
            task = done.pop()
            for other in task.dependents:
                left = missing[id(other)] = missing.get(id(other), other.missing) - 1
                if left or other.done or other.spec_key or not other.scope.is_live():
                    continue
                if isinstance(other.node.action, Call):
                    begun.append(other)
                    if other.is_volatile:
                        done.append(other)
            scope, owner = task.scope, task.scope.owner
            if owner is not None and not owner.done and not task.is_optional:
                left = remaining[id(scope)] = remaining.get(id(scope), scope.remaining) - 1
                if not left:
                    done.append(owner)
        return begun

    def unneeded(self) -> list[Task]:
        """After a restart: volatile tasks whose values are not needed any more, so they are taken as done.

        Every other task that is not done is needed, and so are its needs.
        """
        if not self.has_volatile:
            return []
        wanted: set[Task] = set()
        stack = [task for task in self if not task.done and not task.is_volatile and task.inner is None]
        stack += _ends(self.root)
        while stack:
            task = stack.pop()
            if task.done or task in wanted:
                continue
            wanted.add(task)
            stack.extend(self.needs_of(task) if task.inner is None else _ends(task.inner))
        return [task for task in self if not task.done and task not in wanted]


def tasks_named(spec: Spec) -> list[tuple[str, str]]:
    """The tasks of the run that a graph names, each with the node that does."""
    return [(node.id, task_id) for node in spec.nodes for task_id in node.task_needs]


def _owners(task: Task | None) -> Iterator[Task]:
    while task is not None:
        yield task
        task = task.scope.owner


def _ends(scope: Scope) -> list[Task]:
    """The tasks at the end of a scope: its output, and those without dependents."""
    output = scope.tasks[scope.output]
    return [task for task in scope.tasks.values() if task is output or not (task.done or task.dependents)]


def _find_optional(scope: Scope) -> None:
    """Mark the optional tasks: those from which every path to an end of the graph leads through a Wait."""
    required: set[Task] = set()
    stack = _ends(scope)
    while stack:
        task = stack.pop()
        if task in required:
            continue
        required.add(task)
        if not isinstance(task.node.action, Wait):
            stack.extend(scope.tasks[need] for need in task.node.needs)
    for task in scope.tasks.values():
        task.is_optional = task not in required
