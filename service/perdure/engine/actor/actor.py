"""One virtual actor: takes events, returns commands.

Theory of operation:

- A call is an event, whose id is the call's. It is durable before the actor knows it, and it is consumed in the commit
  that has its result. So the calls that run or wait are exactly the events that are not consumed, in the order of their
  commits. The store takes no second event with the same id.
- One call has its turn at a time. It runs as a graph of one node (`graph_run`), which gives it retries, time limits and
  returned graphs; the next call waits until that run has ended.
- What a method made of the state is recorded in the commit that has its result. A method that fails changes nothing.
- Attempts of methods never run beside each other: if a returned graph calls methods of the actor, those take turns.
- The last KEPT_MAX ended calls are kept for the time that the class says, so that a repeated call gets the result of
  the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Protocol

from perdure.engine.actor.attempts import MethodAttempts
from perdure.engine.actor.calls import ARGUMENTS, CLASS, ActorCall
from perdure.engine.actor.idle import IDLE, IdleTime
from perdure.engine.actor.mailbox import MAIL, Mailbox
from perdure.engine.actor.reminders import CALL, TIMER, Reminders
from perdure.engine.actor.state import PREFIX, ActorState
from perdure.engine.failures import call_dropped, call_refused, revision_mismatch, run_canceled
from perdure.engine.graph_run.run import Run
from perdure.engine.machine import Before, Saved, TaskState
from perdure.engine.messages import (
    AttemptLost,
    AttemptStarted,
    CancelAttempt,
    CancelRequested,
    Command,
    ConsumeEvent,
    DeleteUnused,
    DropOutput,
    Event,
    EventArrived,
    ForgetTasks,
    RecordDefinition,
    RecordRun,
    RecordTask,
    StartAttempt,
    TaskContinued,
    TaskFailed,
    TaskSucceeded,
    TimerFired,
)
from perdure.model import (
    ACTOR_CALL,
    ACTOR_CLASS,
    ACTOR_DROP,
    CONSTRUCTOR,
    CREATION,
    NULL,
    ActorSpec,
    ClassChange,
    Failure,
    InvalidSpec,
    MethodCall,
    MethodOutcome,
    Payload,
    RunStatus,
    Spec,
    TaskStatus,
    frozen,
)


@frozen
class MethodContinued:
    """The continuation of TaskContinued for a method: the graph that it returned, and what it made of the state."""

    spec: Spec
    outcome: MethodOutcome


class Codec(Protocol):
    """Reads what is serialized. Each method raises ValueError for malformed bytes."""

    def call(self, payload: Payload) -> MethodCall: ...
    def dropped(self, payload: Payload) -> str: ...
    def outcome(self, payload: Payload) -> MethodOutcome: ...
    def changed_class(self, payload: Payload) -> ClassChange: ...
    def stored_class(self, spec: ActorSpec) -> tuple[str, bytes]:
        """The key and the stored form of a class."""
        ...


class Actor:
    """Implements Machine for a virtual actor."""

    def __init__(self, spec: ActorSpec, codec: Codec) -> None:
        self.spec = spec
        self.status = RunStatus.RUNNING
        self.state = ActorState()
        self.last_event = 0
        self._codec = codec
        self._mailbox = Mailbox()
        self._attempts = MethodAttempts(spec.options.shape)
        self._reminders = Reminders()
        self._idle = IdleTime(spec.ttl_ms)
        self._events: dict[int, EventArrived] = {}  # for returned graphs
        self._unread: list[EventArrived] = []  # by the process before this one
        self._class_id = ""  # the record of the class, if it was replaced
        self._next_seq = 0
        self._commands: list[Command] = []
        self._changed: dict[TaskState, None] = {}

    @property
    def is_created(self) -> bool:
        """Whether the constructor has ended well."""
        return self.state.revision > 0

    @property
    def pending(self) -> int:
        """The number of calls that run or wait, without the constructor."""
        return self._mailbox.pending

    @property
    def events(self) -> int:
        """The number of events for returned graphs that no graph has taken."""
        return len(self._events)

    def calls(self) -> Iterator[ActorCall]:
        """The calls without the constructor: ended ones, then in the order of their turns."""
        return iter(self._mailbox)

    def find_call(self, call_id: str) -> ActorCall | None:
        return self._mailbox.by_id.get(call_id)

    # -------------------------------------------------------------------------- what happens

    def start(self, at_ms: int) -> list[Command]:
        self._add(ActorCall(CREATION, method=CONSTRUCTOR))
        return self._collected(at_ms)

    def recover(self, at_ms: int, before: Before = "nothing") -> list[Command]:
        self._commands += self._reminders.timers()
        self._commands += self._idle.timers()
        unread, self._unread = self._unread, []
        for event in unread:
            self._read(event)
        call = self._mailbox.current
        if call is not None and call.run is not None:
            if self._is_outdated(call):
                self._refuse(call, at_ms)
            else:
                call.run.next_seq = self._next_seq
                self._follow(call, call.run.recover(at_ms, before), at_ms)
                self._bring(call, self._events.values(), at_ms)
        return self._collected(at_ms)

    def apply(self, event: Event) -> list[Command]:
        if self.status is not RunStatus.RUNNING:
            return []
        match event:
            case EventArrived():
                if event.sequence > self.last_event:
                    self.last_event = event.sequence
                    self._read(event)
            case CancelRequested():
                self._commands += self.cancellation(event)
                if (call := self._mailbox.current) is not None and call.run is not None:
                    call.run.apply(event)
                    self._note_changes(call)
                self.status = RunStatus.CANCELED
            case _:
                self._report(event)
        return self._collected(event.at_ms)

    def cancellation(self, event: CancelRequested) -> list[Command]:
        if self.status is not RunStatus.RUNNING:
            return []
        commands: list[Command] = []
        if (run := self._run) is not None:
            run.next_seq = self._next_seq
            commands = [command for command in run.cancellation(event) if self._is_passed_on(command)]
        return [*commands, RecordRun(RunStatus.CANCELED, event.at_ms, failure=run_canceled(event.reason))]

    def _is_passed_on(self, command: Command) -> bool:
        """Whether a cancellation of the current call's run is one of the actor."""
        if isinstance(command, CancelAttempt):
            return not self._attempts.holds(command.task_id, command.attempt)
        return not isinstance(command, RecordRun)

    def reach(self, event: Event) -> int:
        if isinstance(event, TaskContinued):
            return len(_graph_of(event.continuation).nodes)
        return 0 if (run := self._run) is None else run.reach(event)

    # -------------------------------------------------------------------------- reports

    def _report(
        self, event: AttemptStarted | TaskSucceeded | TaskContinued | TaskFailed | AttemptLost | TimerFired
    ) -> None:
        if isinstance(event, TimerFired) and event.task_id.startswith(TIMER):
            self._ring(event)
            return
        if isinstance(event, TimerFired) and event.task_id == IDLE:
            self._look_whether_idle(event)
            return
        call, run = self._mailbox.current, self._run
        task = run.find_task(event.task_id) if run is not None else None
        if call is None or run is None or task is None:
            return
        if not isinstance(event, AttemptStarted | TimerFired):
            if not run.holds(event.task_id, event.attempt):
                return
            self._attempts.ended(event.task_id, event.attempt)
            if task.is_method and isinstance(event, TaskSucceeded | TaskContinued):
                event = self._take_state(event)
        run.next_seq = self._next_seq
        self._follow(call, run.apply(event), event.at_ms)
        if isinstance(event, TaskContinued):
            self._bring(call, self._events.values(), event.at_ms)

    def _take_state(self, event: TaskSucceeded | TaskContinued) -> TaskSucceeded | TaskContinued | TaskFailed:
        """Take the state that a method made. Returns what is left of the event. A malformed outcome is a failure."""
        times = event.at_ms, event.started_ms, event.ended_ms
        try:
            if isinstance(event, TaskContinued):
                assert isinstance(event.continuation, MethodContinued)
                outcome = event.continuation.outcome
            else:
                outcome = self._codec.outcome(event.output)
            if why := self.state.refusal(outcome) or self._reminders.refusal(outcome):
                raise ValueError(why)
        except ValueError as error:
            failure = call_refused(f"the outcome of the method cannot be used: {error}")
            return TaskFailed(event.task_id, event.attempt, failure, *times)
        self._record(self.state.apply(outcome, self._next_seq, event.at_ms))
        if outcome.reminders:
            self._record(self._reminders.apply(outcome, self._next_seq, event.at_ms))
        if isinstance(event, TaskSucceeded):
            return TaskSucceeded(event.task_id, event.attempt, outcome.output or NULL, *times)
        return TaskContinued(event.task_id, event.attempt, _graph_of(event.continuation), event.spec_key, *times)

    def _record(self, commands: Sequence[Command]) -> None:
        """Pass commands on, whose records are numbered from the next number on."""
        self._next_seq += len(commands)
        self._commands += commands

    def _ring(self, event: TimerFired) -> None:
        """The time of a reminder has come: its call waits for its turn."""
        reminder = self._reminders.rings(event.task_id, event.attempt, event.at_ms)
        if reminder is not None:
            self._add(ActorCall(reminder.ring_id, method=reminder.method, reminder=reminder))

    def _look_whether_idle(self, event: TimerFired) -> None:
        """The time may have come for which the actor may be idle. It is deleted, or the timer is set anew."""
        idle, at_ms = self._idle, event.at_ms
        if not idle.is_due(event.attempt, at_ms):
            return
        if not idle.ttl_ms:
            self._commands += idle.forget()
            return
        until_ms = idle.used_ms + idle.ttl_ms
        if self._mailbox.is_busy or self._unread:
            until_ms = at_ms + idle.ttl_ms
        elif self._reminders:
            until_ms = max(at_ms, self._reminders.next_ms or 0) + idle.ttl_ms
        if until_ms > at_ms:
            self._record(idle.set(until_ms, self._next_seq))
        else:
            self._commands.append(DeleteUnused(IDLE, idle.number, self.last_event))

    def check_returned(self, named: Collection[tuple[str, str]], task_id: str, *, is_method: bool) -> None:
        """Raises InvalidSpec unless the task may return a graph that names these tasks. `is_method`: the graph came
        with a state."""
        task = self._run.find_task(task_id) if self._run is not None else None
        if self._run is None or task is None:
            return  # the report is late
        if task_id == CREATION:
            raise InvalidSpec("a constructor returns no graph")
        if task.is_method is not is_method:
            raise InvalidSpec("a graph of a method, and no other one, comes with a state")
        self._run.graph.check_named(named, task)

    # -------------------------------------------------------------------------- mail

    def _read(self, event: EventArrived) -> None:
        """Take a call, a request to drop one, another class, or an event for returned graphs."""
        if event.key != MAIL:
            self._events[event.sequence] = event
            if (call := self._mailbox.current) is not None:
                self._bring(call, (event,), event.at_ms)
            return
        try:
            if event.payload.encoding == ACTOR_DROP:
                call = self._mailbox.by_id.get(self._codec.dropped(event.payload))
                self._commands.append(ConsumeEvent(event.sequence, MAIL if call is None else call.id))
                self._drop(call, event.at_ms)
            elif event.payload.encoding == ACTOR_CLASS:
                self._replace_class(self._codec.changed_class(event.payload), event.at_ms)
                self._commands.append(ConsumeEvent(event.sequence, MAIL))
            elif (call := self._call_of(event)).id in self._mailbox.by_id:
                self._commands.append(ConsumeEvent(event.sequence, call.id))
            else:
                self._add(call)
        except ValueError:  # not from a service: nobody waits for an answer
            self._commands.append(ConsumeEvent(event.sequence, MAIL))

    def _call_of(self, event: EventArrived) -> ActorCall:
        """The call that an event records. Raises ValueError."""
        if event.payload.encoding != ACTOR_CALL:
            raise ValueError("not a call")
        what = self._codec.call(event.payload)
        if not what.call_id or what.call_id.startswith(".") or "/" in what.call_id:
            raise ValueError(f"not the id of a call: {what.call_id!r:.80}")
        return ActorCall(
            what.call_id,
            event.sequence,
            method=what.method,
            arguments=event.payload,
            expected_revision=what.expected_revision,
            callers=what.chain,
        )

    def _replace_class(self, change: ClassChange, at_ms: int) -> None:
        """Calls that begin from now on have another class. The call that has its turn goes on with the one that it
        began with, unless it is begun again after a restart."""
        if not change.change_id.startswith(CLASS):
            raise ValueError(f"not the id of a class: {change.change_id!r:.80}")
        old, self._class_id = self._class_id, change.change_id
        key, data = self._codec.stored_class(change.spec)
        record = RecordTask(self._next_seq, change.change_id, TaskStatus.SUCCESSFUL, 1, spec_key=key, ended_ms=at_ms)
        self._record([RecordDefinition(key, data), record])
        if old and old != change.change_id:
            self._commands.append(ForgetTasks((old,), and_graphs=True))
        self._set_class(change.spec)
        if not self.is_created:
            return
        if not self._idle.ttl_ms:
            self._commands += self._idle.forget()
        else:
            self._record(self._idle.set(at_ms + self._idle.ttl_ms, self._next_seq))

    def _set_class(self, spec: ActorSpec) -> None:
        self.spec = spec
        self._attempts.shape = spec.options.shape
        self._idle.ttl_ms = spec.ttl_ms

    def _bring(self, call: ActorCall, events: Iterable[EventArrived], at_ms: int) -> None:
        """Hand events to the graph that a method returned, if it did."""
        run = call.run
        if run is None or run.size == 1:
            return
        for event in list(events):
            if call.run is run and event.sequence > run.last_event:
                run.next_seq = self._next_seq
                event = EventArrived(event.sequence, event.key, event.payload, at_ms)
                self._follow(call, run.apply(event), at_ms)

    def _drop(self, call: ActorCall | None, at_ms: int) -> None:
        if call is None or call.has_ended or call.id == CREATION:
            return
        if call.run is not None:
            self._stop(call, call_dropped(call.id), at_ms)
        else:
            self._close(call, call_dropped(call.id), at_ms)

    # -------------------------------------------------------------------------- turns

    def _add(self, call: ActorCall) -> None:
        self._mailbox.add(call)
        self._changed[call] = None

    def _advance(self, at_ms: int) -> None:
        """Give the next call its turn, if no other one has it."""
        while (call := self._mailbox.advance()) is not None:
            if self._is_outdated(call):
                self._refuse(call, at_ms)
            else:
                if call.reminder is not None:  # no event says that it has its turn
                    self._record([RecordTask(self._next_seq, call.id, TaskStatus.BLOCKED, 0)])
                call.run = Run(call.graph(self.spec), call.prefix)
                call.run.next_seq = self._next_seq
                self._follow(call, call.run.start(at_ms), at_ms)

    def _is_outdated(self, call: ActorCall) -> bool:
        """Whether a call expects another revision. A call that has records is past this check: it may have changed the
        state itself."""
        is_new = call.run is None or call.run.graph.tasks[call.id].seq < 0
        return is_new and call.expected_revision not in (None, self.state.revision)

    def _refuse(self, call: ActorCall, at_ms: int) -> None:
        assert call.expected_revision is not None
        self._close(call, revision_mismatch(call.expected_revision, self.state.revision), at_ms)

    def _follow(self, call: ActorCall, commands: Iterable[Command], at_ms: int) -> None:
        """Pass the commands of the current call's run on, and end the call with it."""
        assert call.run is not None
        self._next_seq = call.run.next_seq
        end: RecordRun | None = None
        for command in commands:
            match command:
                case RecordRun():
                    end = command
                case StartAttempt() if command.call.arguments.encoding == ACTOR_CALL:
                    self._attempts.add(command)
                case CancelAttempt():
                    if not self._attempts.holds(command.task_id, command.attempt):
                        self._commands.append(command)
                    self._attempts.cancel(command.task_id, command.attempt)
                case ConsumeEvent():
                    self._events.pop(command.sequence, None)
                    self._commands.append(command)
                case _:
                    self._commands.append(command)
        self._note_changes(call)
        if end is not None:
            self._run_ended(call, end, at_ms)

    # -------------------------------------------------------------------------- results

    def _run_ended(self, call: ActorCall, end: RecordRun, at_ms: int) -> None:
        """The run of the current call has ended."""
        if end.status is RunStatus.SUCCESSFUL or call.status is TaskStatus.FAILED:
            self._settle(call, at_ms)
        else:  # the graph that it returned failed
            assert end.failure is not None
            self._stop(call, end.failure, at_ms)
        if call.id == CREATION and call.status is TaskStatus.FAILED:
            self.status = RunStatus.FAILED
            self._commands.append(RecordRun(RunStatus.FAILED, at_ms, failure=end.failure))

    def _stop(self, call: ActorCall, failure: Failure, at_ms: int) -> None:
        """End the current call without a value. What is recorded of the graph that it returned is forgotten."""
        assert call.run is not None
        for task_id, attempt in call.run.in_flight():
            if not self._attempts.holds(task_id, attempt):
                self._commands.append(CancelAttempt(task_id, attempt))
        if children := dict.fromkeys(task.id for task in call.run.tasks(1)):
            self._commands = [
                command
                for command in self._commands
                if not (isinstance(command, RecordTask) and command.task_id in children)
            ]
            self._commands.append(ForgetTasks((call.id, *children), and_graphs=True))
        self._close(call, failure, at_ms)

    def _close(self, call: ActorCall, failure: Failure, at_ms: int) -> None:
        """Record the failure of a call whose run left no record of it."""
        call.fail(failure, at_ms)
        self._changed[call] = None
        self._commands.append(
            RecordTask(
                self._next_seq,
                call.id,
                TaskStatus.FAILED,
                call.attempt,
                failure=failure,
                started_ms=call.started_ms,
                ended_ms=at_ms,
            )
        )
        self._next_seq += 1
        self._settle(call, at_ms)

    def _settle(self, call: ActorCall, at_ms: int) -> None:
        """A call has ended, and its result is recorded."""
        if call.run is not None:
            self._attempts.clear()
            self._commands += map(DropOutput, call.run.kept)
        if call.reminder is not None:
            self._record(self._reminders.rung(call.reminder, self._next_seq, at_ms))
        call.end()
        self._idle.used(at_ms)
        call.revision = self.state.revision
        self._mailbox.end(call)
        if call.sequence:
            self._commands.append(ConsumeEvent(call.sequence, call.id))
        if call.id != CREATION:
            if forgotten := self._mailbox.forget(at_ms, self.spec.call_retention_ms):
                has_graphs = any("/" in task_id for task_id in forgotten)
                self._commands.append(ForgetTasks(forgotten, and_events=True, and_graphs=has_graphs))
        elif call.status is TaskStatus.SUCCESSFUL:
            self._commands.append(ForgetTasks((), inputs=(ARGUMENTS,)))
            if self._idle.ttl_ms:
                self._record(self._idle.set(at_ms + self._idle.ttl_ms, self._next_seq))

    # -------------------------------------------------------------------------- commands and changes

    @property
    def _run(self) -> Run | None:
        return self._mailbox.current.run if self._mailbox.current is not None else None

    def _note_changes(self, call: ActorCall) -> None:
        """Take the changes of the current call's run."""
        assert call.run is not None
        call.follow()
        for task in call.run.pop_changed():
            self._changed[call if task.id == call.id else task] = None

    def _collected(self, at_ms: int) -> list[Command]:
        """The commands of a step. It ends with the turn of the next call, and of the next method."""
        if self.status is RunStatus.RUNNING:
            self._advance(at_ms)
            if (start := self._attempts.next(self.state, self._mailbox.current)) is not None:
                self._commands.append(start)
        commands, self._commands = self._commands, []
        return commands

    def pop_changed(self) -> list[TaskState]:
        changed, self._changed = self._changed, {}
        return list(changed)

    # -------------------------------------------------------------------------- staying in memory, attempts, tasks

    @property
    def is_dormant(self) -> bool:
        return self.status.is_final or (run := self._run) is None or run.is_dormant

    @property
    def lingers(self) -> bool:
        return not self.status.is_final

    @property
    def next_wake_ms(self) -> int | None:
        own = None if self._run is None else self._run.next_wake_ms
        times = (self._reminders.next_ms, self._idle.due_ms, own)
        return min((time for time in times if time is not None), default=None)

    @property
    def keeps_values(self) -> bool:
        return self._run is not None and self._run.keeps_values

    def in_flight(self) -> list[tuple[str, int]]:
        return [] if self._run is None else self._run.in_flight()

    def begun(self) -> dict[str, int]:
        return {} if self._run is None else self._run.begun()

    def number_from(self, begun: Mapping[str, int]) -> None:
        if self._run is not None:
            self._run.number_from(begun)

    @property
    def size(self) -> int:
        return len(self._mailbox.by_id) + (run.size - 1 if (run := self._run) is not None else 0)

    @property
    def counts(self) -> Mapping[TaskStatus, int]:
        counts = Counter(self._run.counts) if self._run is not None else Counter[TaskStatus]()
        counts[TaskStatus.BLOCKED] += len(self._mailbox.waiting)
        counts.update(self._mailbox.ended)
        return counts

    def tasks(self, start: int = 0) -> Iterator[TaskState]:
        children = self._run.tasks(1) if self._run is not None else ()
        return islice(chain(self._mailbox.by_id.values(), children), start, None)

    def find_task(self, task_id: str) -> TaskState | None:
        if "/" in task_id:
            return self._run.find_task(task_id) if self._run is not None else None
        return self._mailbox.by_id.get(task_id)

    # -------------------------------------------------------------------------- restoring

    @classmethod
    def restore(
        cls,
        spec: ActorSpec,
        codec: Codec,
        saved: Saved,
        specs: Mapping[str, Spec],
        classes: Mapping[str, ActorSpec],
    ) -> Actor:
        """Rebuild an actor from its records, and from the events that it has not consumed. `specs` are the graphs that
        its methods returned, `classes` those that it was given, by key."""
        actor = cls(spec, codec)
        actor.status = saved.status
        actor.last_event = saved.last_event
        records: dict[str, list[RecordTask]] = {}  # by call
        for record in saved.records:
            actor._next_seq = max(actor._next_seq, record.seq + 1)
            if record.task_id.startswith(PREFIX):
                actor.state.restore(record.task_id)
                actor._idle.used(record.ended_ms)
            elif record.task_id.startswith((TIMER, CALL)):
                actor._reminders.restore(record)
            elif record.task_id.startswith(CLASS):
                actor._class_id = record.task_id
                actor._set_class(classes[record.spec_key])
            elif record.task_id == IDLE:
                actor._idle.restore(record)
            else:
                actor._idle.used(record.ended_ms)
                records.setdefault(record.task_id.partition("/")[0], []).append(record)
        if not (actor.is_created or (saved.status.is_final and CREATION in records)):
            actor._mailbox.add(ActorCall(CREATION, method=CONSTRUCTOR))
        for reminder in actor._reminders.ringing(records.keys()):
            actor._mailbox.add(ActorCall(reminder.ring_id, method=reminder.method, reminder=reminder))
        for event in saved.mail:
            actor._restore_mail(event)
        for call_id, recorded in records.items():
            if call_id not in actor._mailbox.by_id:
                actor._mailbox.keep(actor._with_result(call_id, recorded, specs))
        if not saved.status.is_final and (call := actor._mailbox.advance()) is not None:
            run = actor._restored_run(call, RunStatus.RUNNING, records.get(call.id, ()), specs)
            if saved.began_ms is not None:
                run.settle(saved.began_ms)
            call.follow()
        return actor

    def _restore_mail(self, event: EventArrived) -> None:
        """Take an event that was not consumed: a call that has no result, or what was not read yet."""
        if event.key != MAIL:
            self._events[event.sequence] = event
            return
        try:
            if event.payload.encoding == ACTOR_CLASS:  # the call whose turn it is begins with this class
                self._set_class(self._codec.changed_class(event.payload).spec)
            call = self._call_of(event)
        except ValueError:
            self._unread.append(event)
            return
        if call.id in self._mailbox.by_id:
            self._unread.append(event)
        else:
            self._mailbox.add(call)

    def _with_result(self, call_id: str, records: list[RecordTask], specs: Mapping[str, Spec]) -> ActorCall:
        """A call that has ended. Raises KeyError if its own record is missing."""
        root = {record.task_id: record for record in records}[call_id]
        call = ActorCall(call_id)
        if root.spec_key and root.failure is None:
            self._restored_run(call, RunStatus.SUCCESSFUL, records, specs)
            call.follow()
        else:
            call.status, call.attempt, call.failure = root.status, root.attempt, root.failure
            call.started_ms, call.ended_ms = root.started_ms, root.ended_ms
            call.output_bytes = root.output_bytes or 0
        call.end()
        return call

    def _restored_run(
        self, call: ActorCall, status: RunStatus, records: Iterable[RecordTask], specs: Mapping[str, Spec]
    ) -> Run:
        call.run = Run.restore(call.graph(self.spec), status, records, specs, prefix=call.prefix)
        return call.run


def _graph_of(continuation: object) -> Spec:
    graph = continuation.spec if isinstance(continuation, MethodContinued) else continuation
    assert isinstance(graph, Spec), "the continuation of a method is a graph"
    return graph
