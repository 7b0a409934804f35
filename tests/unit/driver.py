"""A run without anything around it, and a scribe of what it commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from perdure.engine.graph_run.run import Run
from perdure.engine.machine import Before
from perdure.engine.messages import (
    CancelAttempt,
    Command,
    ConsumeEvent,
    DropOutput,
    Event,
    EventArrived,
    KeepOutput,
    RecordRun,
    RecordTask,
    SetTimer,
    Source,
    StartAttempt,
    TaskContinued,
    TaskFailed,
    TaskSucceeded,
)
from perdure.model import (
    NULL,
    Call,
    Failure,
    FailureKind,
    Function,
    NodeRef,
    Payload,
    RetryRule,
    RunStatus,
    Spec,
    SpecNode,
    TaskOptions,
    TaskStatus,
)

FUNCTION = Function("key", "module:function")
VALUE = Payload("json/plain", b"1")
ONCE = TaskOptions(retry=RetryRule(max_attempts=1))
CATCH = TaskOptions(retry=RetryRule(max_attempts=1), catch_exceptions=True)
ERROR = Failure(FailureKind.APPLICATION, "builtins.ValueError", "no", base_types=())
COUNTED_MAX = 1_000
"""Larger graphs are not counted after every event."""


def call(node_id: str, *needs: str, options: TaskOptions = ONCE) -> SpecNode:
    return SpecNode(node_id, Call(FUNCTION, NULL, tuple(NodeRef(need) for need in needs)), options=options)


def graph(*nodes: SpecNode) -> Spec:
    return Spec(nodes, nodes[-1].id)


class Driver:
    """A run, its commands by kind, and the records that a store would have."""

    def __init__(self, spec: Spec, run: Run | None = None) -> None:
        self.spec = spec
        self.run = run or Run(spec)
        self.specs = {"root": spec}
        self.records: dict[str, RecordTask] = {}
        self.status = RunStatus.RUNNING
        self.consumed: list[tuple[int, str]] = []
        self.dispatched: list[tuple[str, int]] = []
        self.inputs: dict[str, tuple[Source, ...]] = {}
        self.limited: set[str] = set()
        self.callers: set[tuple[str, ...]] = set()  # of all attempts
        self.cancelled: list[tuple[str, int]] = []
        self.timers: list[SetTimer] = []
        self.ends: list[RecordRun] = []
        self.mail: list[EventArrived] = []
        self.kept: list[str] = []
        if run is None:
            self.take(self.run.start(at_ms=0))

    def take(self, commands: Iterable[Command]) -> list[Command]:
        commands = list(commands)
        for command in commands:
            match command:
                case RecordTask():
                    self.records[command.task_id] = command
                case ConsumeEvent():
                    self.consumed.append((command.sequence, command.task_id))
                case RecordRun():
                    self.status = command.status
                    self.ends.append(command)
                case StartAttempt():
                    self.dispatched.append((command.task_id, command.attempt))
                    self.inputs[command.task_id] = command.inputs
                    self.callers.add(command.callers)
                    if command.is_limited:
                        self.limited.add(command.task_id)
                case CancelAttempt():
                    self.cancelled.append((command.task_id, command.attempt))
                case SetTimer():
                    self.timers.append(command)
                case KeepOutput():
                    self.kept.append(command.task_id)
                case DropOutput():
                    self.kept.remove(command.task_id)
        self.check_counts()
        for record in commands:
            if isinstance(record, RecordTask):
                self.check_failure(self.records[record.task_id])
        return commands

    def check_failure(self, record: RecordTask) -> None:
        """What is told of a task's failure is what a restart would tell."""
        assert self.run.graph.tasks[record.task_id].failure == record.failure

    def check_counts(self) -> None:
        """The counts of the graph are those of its tasks."""
        if len(self.run.graph.tasks) <= COUNTED_MAX:
            counted = Counter(task.status for task in self.run.graph)
            assert self.run.graph.counts == {status: counted[status] for status in TaskStatus}

    def apply(self, event: Event) -> list[Command]:
        if isinstance(event, EventArrived):
            self.mail.append(event)
        return self.take(self.run.apply(event))

    def succeed(self, task_id: str, attempt: int = 1) -> list[Command]:
        return self.apply(TaskSucceeded(task_id, attempt, VALUE, at_ms=10))

    def fail(self, task_id: str, attempt: int = 1, failure: Failure = ERROR, at_ms: int = 10) -> list[Command]:
        return self.apply(TaskFailed(task_id, attempt, failure, at_ms))

    def go_on(self, task_id: str, spec: Spec, attempt: int = 1) -> list[Command]:
        key = f"{task_id}'s graph"
        self.specs[key] = spec
        return self.apply(TaskContinued(task_id, attempt, spec, key, at_ms=10))

    def restarted(self, at_ms: int | None = 1_000, *, before: Before = "nothing") -> Driver:
        """The same run in a new process: rebuilt from its records alone. None: not recovered yet."""
        consumed = {sequence for sequence, _ in self.consumed}
        run = Run.restore(
            self.spec,
            self.status,
            sorted(self.records.values(), key=lambda record: record.seq),
            self.specs,
            [mail for mail in self.mail if mail.sequence not in consumed],
            max((mail.sequence for mail in self.mail), default=0),
            ended_ms=self.ends[-1].at_ms if self.ends else None,
        )
        again = Driver(self.spec, run)
        again.specs, again.records, again.status = self.specs, dict(self.records), self.status
        again.mail, again.consumed = self.mail, list(self.consumed)
        again.check_counts()
        if run.status is RunStatus.RUNNING and at_ms is not None:
            again.take(run.recover(at_ms, before))
        return again

    def resumed(self, at_ms: int) -> Driver:
        """The same run after it was made RUNNING again in the store, as `Resume` does."""
        again = self.restarted()
        again.status = RunStatus.RUNNING
        return again.restarted(at_ms, before="told")

    def state(self) -> dict[str, tuple[TaskStatus, str, int, bool]]:
        return {task.id: (task.status, task.source, task.wraps, task.done) for task in self.run.graph}
