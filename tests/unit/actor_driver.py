"""An actor without anything around it, a scribe of what it commands, and a worker whose methods are done at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from perdure import actorwire
from perdure.engine.actor.actor import MAIL, Actor, MethodContinued
from perdure.engine.machine import Before, Saved
from perdure.engine.messages import (
    AttemptLost,
    AttemptStarted,
    CancelAttempt,
    Command,
    ConsumeEvent,
    DropOutput,
    Event,
    EventArrived,
    ForgetTasks,
    KeepOutput,
    RecordDefinition,
    RecordRun,
    RecordTask,
    SetTimer,
    StartAttempt,
    TaskContinued,
    TaskFailed,
    TaskSucceeded,
    TimerFired,
)
from perdure.model import (
    ACTOR_CALL,
    NULL,
    ActorSpec,
    Call,
    ClassChange,
    Failure,
    MethodCall,
    MethodOutcome,
    NodeRef,
    Payload,
    RetryRule,
    RunStatus,
    Spec,
    SpecNode,
    TaskOptions,
    TaskStatus,
)
from perdure.service.machines.actors import CODEC, MARK
from unit.driver import ERROR, FUNCTION, ONCE

CLASS = ActorSpec(FUNCTION, TaskOptions(retry=RetryRule(max_attempts=1)))
RETRIED = ActorSpec(
    FUNCTION,
    TaskOptions(retry=RetryRule(max_attempts=3, initial_interval_ms=100, jitter=0, application_errors=True)),
)
CREATED = "made"


def text(value: str) -> Payload:
    return Payload("text/plain", value.encode())


def method(node_id: str, name: str = "add", *needs: str, options: TaskOptions = ONCE) -> SpecNode:
    """A node of a returned graph that calls a method of the same actor."""
    arguments = actorwire.encode_call(MethodCall(name, NULL, refs=len(needs)))
    return SpecNode(node_id, Call(FUNCTION, arguments, tuple(NodeRef(need) for need in needs)), options=options)


class ActorDriver:
    """An actor, its commands by kind, and the rows that a store would have."""

    def __init__(self, spec: ActorSpec = CLASS, actor: Actor | None = None) -> None:
        self.spec = spec
        self.actor = actor or Actor(spec, CODEC)
        self.status = RunStatus.RUNNING
        self.inputs = {"call"}
        self.records: dict[str, RecordTask] = {}
        self.specs: dict[str, Spec] = {}
        self.classes: dict[str, ActorSpec] = {}
        self.events: dict[int, EventArrived] = {}
        self.consumed: dict[int, str] = {}
        self.sequence = 0
        self.started: list[StartAttempt] = []
        self.at_work: dict[tuple[str, int], StartAttempt] = {}
        self.cancelled: list[tuple[str, int]] = []
        self.timers: list[SetTimer] = []
        self.ends: list[RecordRun] = []
        self.kept: set[str] = set()
        if actor is None:
            self.take(self.actor.start(at_ms=0))

    # -------------------------------------------------------------------------- the store and the executor

    def take(self, commands: Iterable[Command]) -> list[Command]:
        commands = list(commands)
        for command in commands:
            match command:
                case RecordTask():
                    assert all(command.seq != other.seq for other in self.records.values() if other is not command) or (
                        self.records[command.task_id].seq == command.seq
                    ), "each record has a place of its own"
                    self.records[command.task_id] = command
                case ConsumeEvent():
                    assert command.sequence not in self.consumed, "an event is consumed once"
                    self.consumed[command.sequence] = command.task_id
                case ForgetTasks():
                    self._forget(command)
                case RecordDefinition():
                    self.classes[command.key] = actorwire.decode_class(command.data.removeprefix(MARK))
                case RecordRun():
                    self.status = command.status
                    self.ends.append(command)
                case StartAttempt():
                    self._start(command)
                case CancelAttempt():
                    self.cancelled.append((command.task_id, command.attempt))
                    self.at_work.pop((command.task_id, command.attempt), None)
                case SetTimer():
                    self.timers.append(command)
                case KeepOutput():
                    self.kept.add(command.task_id)
                case DropOutput():
                    self.kept.remove(command.task_id)
        self.check()
        return commands

    def _forget(self, command: ForgetTasks) -> None:
        self.inputs -= set(command.inputs)
        for task_id in command.task_ids:
            self.records.pop(task_id, None)
        if command.and_events:
            gone = [sequence for sequence, task_id in self.consumed.items() if task_id in command.task_ids]
            for sequence in gone:
                del self.events[sequence], self.consumed[sequence]

    def _start(self, start: StartAttempt) -> None:
        if start.call.arguments.encoding == ACTOR_CALL:
            assert not self.methods_at_work, "one method at a time"
            where = [source.task_id for source in start.inputs if source.task_id.startswith(".state")]
            assert where == [source.task_id for source in self.actor.state.sources()]
            assert all(self.records[task_id].output is not None for task_id in where), "it sees the stored state"
        self.started.append(start)
        self.at_work[start.task_id, start.attempt] = start

    @property
    def methods_at_work(self) -> list[tuple[str, int]]:
        return [key for key, start in self.at_work.items() if start.call.arguments.encoding == ACTOR_CALL]

    def check(self) -> None:
        """A restart at this moment gives the same actor; the counts are those of its tasks."""
        counted = dict.fromkeys(TaskStatus, 0)
        for task in self.actor.tasks():
            counted[task.status] += 1
        assert {status: self.actor.counts.get(status, 0) for status in TaskStatus} == counted
        assert self.actor.size == sum(counted.values())
        again = self.restored()
        assert again.state.revision == self.actor.state.revision
        assert again.state.sources() == self.actor.state.sources()
        assert again.is_created == self.actor.is_created
        # The call of a reminder has no event: after a restart it rings again.
        mine = {call.id: call for call in self.actor.calls() if call.has_ended or not call.id.startswith(".remind-")}
        others = {call.id: call for call in again.calls()}
        assert mine.keys() <= others.keys()
        for call_id, call in mine.items():
            other = others[call_id]
            assert (call.done, call.has_ended, call.source) == (other.done, other.has_ended, other.source)
            if call.has_ended:
                assert (call.status, call.attempt, call.failure) == (other.status, other.attempt, other.failure)
                assert (call.started_ms, call.ended_ms) == (other.started_ms, other.ended_ms)
            assert call.expected_revision is None or call.has_ended or other.expected_revision == call.expected_revision

    def restored(self) -> Actor:
        return Actor.restore(self.spec, CODEC, self.saved(), self.specs, self.classes)

    def saved(self) -> Saved:
        return Saved(
            status=self.status,
            records=iter(sorted(self.records.values(), key=lambda record: record.seq)),
            mail=[event for sequence, event in self.events.items() if sequence not in self.consumed],
            last_event=self.sequence,
            began_ms=None if self.status.is_final else 0,
            ended_ms=self.ends[-1].at_ms if self.status.is_final else None,
        )

    def restarted(self, at_ms: int = 1_000, *, before: Before = "unknown") -> ActorDriver:
        """The same actor in a new process."""
        again = ActorDriver(self.spec, self.restored())
        for name in ("status", "records", "specs", "classes", "events", "consumed", "sequence", "ends"):
            setattr(again, name, getattr(self, name))
        again.records, again.consumed, again.events = dict(self.records), dict(self.consumed), dict(self.events)
        if not again.status.is_final:
            again.take(again.actor.recover(at_ms, before))
        return again

    def resumed(self, at_ms: int = 1_000) -> ActorDriver:
        """The same actor after it was made RUNNING again in the store."""
        again = self.restarted()
        again.status = RunStatus.RUNNING
        return again.restarted(at_ms, before="told")

    # -------------------------------------------------------------------------- its callers

    def send(self, payload: Payload, key: str = MAIL, at_ms: int = 5) -> EventArrived:
        """Record an event, and no more."""
        self.sequence += 1
        event = self.events[self.sequence] = EventArrived(self.sequence, key, payload, at_ms)
        return event

    def sent_call(self, call_id: str, expected_revision: int | None = None) -> EventArrived:
        what = MethodCall("add", NULL, call_id=call_id, expected_revision=expected_revision)
        return self.send(actorwire.encode_call(what))

    def call(self, call_id: str, expected_revision: int | None = None) -> list[Command]:
        return self.apply(self.sent_call(call_id, expected_revision))

    def call_by(self, call_id: str, callers: tuple[str, ...]) -> list[Command]:
        return self.apply(self.send(actorwire.encode_call(MethodCall("add", NULL, call_id=call_id, chain=callers))))

    def sent_class(self, change_id: str, spec: ActorSpec) -> EventArrived:
        return self.send(actorwire.encode_change(ClassChange(f".class/{change_id}", spec)))

    def drop(self, call_id: str) -> list[Command]:
        return self.apply(self.send(actorwire.encode_drop(call_id)))

    # -------------------------------------------------------------------------- its worker

    def apply(self, event: Event) -> list[Command]:
        if isinstance(event, TaskSucceeded | TaskContinued | TaskFailed | AttemptLost):
            self.at_work.pop((event.task_id, event.attempt), None)
        return self.take(self.actor.apply(event))

    def created(self) -> ActorDriver:
        self.succeed(".create", state=CREATED)
        return self

    def begin(self, task_id: str, attempt: int = 1) -> list[Command]:
        return self.apply(AttemptStarted(task_id, attempt, at_ms=8, started_ms=8))

    def succeed(
        self, task_id: str, attempt: int = 1, *, state: str | None = None, parts: Mapping[str, str] | None = None,
        dropped: tuple[str, ...] = (), output: str = "done", at_ms: int = 10,
    ) -> list[Command]:  # fmt: skip
        """A method returned a value. `state` None: it changed nothing."""
        outcome = MethodOutcome(
            text(output),
            text(state) if state is not None else None,
            tuple((name, text(part)) for name, part in (parts or {}).items()),
            dropped,
        )
        return self.give(task_id, actorwire.outcome_payload(outcome), attempt, at_ms)

    def give(self, task_id: str, output: Payload, attempt: int = 1, at_ms: int = 10) -> list[Command]:
        return self.apply(TaskSucceeded(task_id, attempt, output, at_ms))

    def fail(self, task_id: str, attempt: int = 1, failure: Failure = ERROR, at_ms: int = 10) -> list[Command]:
        return self.apply(TaskFailed(task_id, attempt, failure, at_ms))

    def lose(self, task_id: str, attempt: int = 1, *, is_free: bool = False, at_ms: int = 10) -> list[Command]:
        return self.apply(AttemptLost(task_id, attempt, "the node is gone", at_ms, is_free))

    def go_on(self, task_id: str, spec: Spec, attempt: int = 1, *, state: str | None = None) -> list[Command]:
        """A method returned a graph."""
        key = f"the graph of {task_id}"
        self.specs[key] = spec
        outcome = MethodOutcome(state=text(state) if state is not None else None)
        return self.apply(TaskContinued(task_id, attempt, MethodContinued(spec, outcome), key, at_ms=10))

    def go_on_plainly(self, task_id: str, spec: Spec, attempt: int = 1) -> list[Command]:
        """A function in a returned graph returned one itself."""
        key = f"the graph of {task_id}"
        self.specs[key] = spec
        return self.apply(TaskContinued(task_id, attempt, spec, key, at_ms=10))

    def pass_time(self) -> list[Command]:
        """The timer that was set last is due."""
        timer = self.timers.pop()
        return self.apply(TimerFired(timer.task_id, timer.attempt, timer.due_ms))

    # -------------------------------------------------------------------------- what there is

    @property
    def running(self) -> list[str]:
        """The tasks with an attempt at work, in the order of their start."""
        return [task_id for task_id, _ in self.at_work]

    @property
    def state(self) -> list[str]:
        """The stored state: small fields, then the parts."""
        return [self.output(source.task_id) for source in self.actor.state.sources()]

    def output(self, task_id: str) -> str:
        output = self.records[task_id].output
        assert output is not None
        return output.data.decode()

    def result(self, call_id: str) -> str:
        """What a caller is told: the value, the type of the failure, or "" for not yet."""
        call = self.actor.find_task(call_id)
        assert call is not None
        if call.status is TaskStatus.FAILED:
            assert call.failure is not None
            assert self.records[call_id].failure == call.failure
            return call.failure.type
        return self.output(call.source) if call.done else ""
