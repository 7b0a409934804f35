"""One run: takes events, returns commands.

Rules of this file: no clock, no randomness, no I/O, no await, no log, no recursion over the graph.
An event is applied wholly. A late, repeated or unknown event is ignored.

Theory of operation:

- A task starts when its last need is done. A task that is done releases its dependents. A scope whose last required
  task is done makes its owner done. The run ends with its root scope.
- A failure goes to the nearest enclosing task that catches exceptions, and stops all tasks below that one. If no task
  catches it, the run fails.
- State that must survive a crash is a record in the list of commands, before the acts that depend on it.
- The end of the run is the record of the end of most tasks, too: a call that could run then is CANCELED. Only tasks of
  which more is to be known (when they began, their failures, the time they waited for) have records of their own, so
  that the end of a run of very many tasks is cheap.
- `restore` rebuilds a run from its graph and its records alone. `recover` then returns the commands that the state
  implies.

The states of a task are in `transitions`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import assert_never, cast

from perdure.engine.failures import attempt_timed_out, event_timed_out, leaving, run_canceled, worker_lost
from perdure.engine.graph_run.state import Graph
from perdure.engine.graph_run.tasks import Scope, Task
from perdure.engine.machine import Before
from perdure.engine.messages import (
    AttemptLost,
    AttemptStarted,
    CancelAttempt,
    CancelRequested,
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
    TimerFired,
)
from perdure.engine.retry import next_attempt_ms
from perdure.model import (
    NULL,
    Call,
    Failure,
    Payload,
    RunStatus,
    Sleep,
    Spec,
    TaskStatus,
    Wait,
    WaitEvent,
)

DEFERRED_MAX = 500
"""Records of volatile tasks wait for another record of the run. This many get a commit of their own."""


class Run:
    """Implements Machine for a graph. Ids of tasks in returned graphs begin with `prefix`."""

    lingers = False

    def __init__(self, spec: Spec, prefix: str = "") -> None:
        self.graph = Graph(spec, prefix)
        self._callers = spec.callers
        self.status = RunStatus.RUNNING
        self.output: Source | None = None
        self.failure: Failure | None = None
        self._in_flight: dict[str, Task] = {}  # an attempt is with the executor
        self._waiting: dict[str, deque[Task]] = {}  # by event key
        self._mailbox: dict[str, deque[EventArrived]] = {}  # no task waits for them yet
        self._timed: dict[str, Task] = {}  # wait for a recorded moment
        self._untimed: dict[str, Task] = {}  # wait without a worker, however long it takes
        self._ready: deque[Task] = deque()  # to be started before apply returns
        self._kept: set[str] = set()  # volatile tasks whose outputs are at hand
        self.last_event = 0
        self._next_seq = 0
        self._commands: list[Command] = []
        self._changed: dict[Task, None] = {}  # since the last `pop_changed`, in order
        self._deferred: list[RecordTask] = []  # of volatile tasks: they travel with the next record

    @property
    def is_dormant(self) -> bool:
        """Whether only time or an event moves it on, so that it need not be in memory."""
        return not self._in_flight

    def in_flight(self) -> list[tuple[str, int]]:
        """The attempts that are with the executor, or will be."""
        return [(task.id, task.attempt) for task in self._in_flight.values()]

    def begun(self) -> dict[str, int]:
        """The number of the last attempt of each task that had one."""
        return {task.id: task.attempt for task in self.graph if task.attempt and isinstance(task.node.action, Call)}

    def number_from(self, begun: Mapping[str, int]) -> None:
        """Number the next attempts above these, which may have begun without a record, so that late reports of those
        are recognised."""
        for task_id, attempt in begun.items():
            if (task := self.graph.tasks.get(task_id)) is not None:
                task.attempt = max(task.attempt, attempt)

    @property
    def keeps_values(self) -> bool:
        """Whether it has values in memory that are not in the store. Such a run should not leave memory without
        need."""
        return bool(self._kept)

    @property
    def kept(self) -> Collection[str]:
        """The tasks whose values are in memory and not in the store."""
        return self._kept

    @property
    def next_wake_ms(self) -> int | None:
        """The earliest recorded time that a task waits for."""
        return min((task.wake_ms for task in self._timed.values() if task.wake_ms is not None), default=None)

    @property
    def size(self) -> int:
        return len(self.graph.tasks)

    @property
    def counts(self) -> Mapping[TaskStatus, int]:
        """The number of tasks in each state."""
        return self.graph.counts

    def tasks(self, start: int = 0) -> Iterator[Task]:
        """The tasks in the order in which they became known, from this place on."""
        return islice(self.graph, start, None)

    def find_task(self, task_id: str) -> Task | None:
        return self.graph.tasks.get(task_id)

    # -------------------------------------------------------------------------- events

    def start(self, at_ms: int) -> list[Command]:
        """The first commands of a new run."""
        self._start_all(at_ms)
        return self._collected()

    def recover(self, at_ms: int, before: Before = "nothing") -> list[Command]:
        """The commands that a restored state implies: tasks that were in flight run again, waiting tasks go on waiting,
        and failed or canceled tasks of a run that is RUNNING again start anew.

        Attempts in flight were never recorded, so they cost no retry. Each attempt that may have begun `before` gets a
        record now, so that its number is not given again, even if the engine dies once more. That includes those that
        ended with the run before it was resumed.
        """
        self._try_anew()
        for task in self.graph.unneeded():
            if task.scope.is_live():
                self._set(task, TaskStatus.SUCCESSFUL)
                self._restore_done(task)
        lost = {  # a dict for its order
            task: None
            for task in self.graph
            if task.status is TaskStatus.SUCCESSFUL and not (task.done or task.spec_key) and task.scope.is_live()
        }
        for task in lost:  # its value is needed
            self._set(task, TaskStatus.BLOCKED)
            task.started_ms = task.ended_ms = None
        if before != "nothing":
            self._count_begun(at_ms, lost, all_of_them=before == "unknown")
        self._start_all(at_ms)
        return self._collected()

    def _count_begun(self, at_ms: int, lost: Collection[Task], *, all_of_them: bool) -> None:
        for task in self.graph.begun_before():
            if not all_of_them and not task.is_volatile and task.counted < 0:
                continue
            if all_of_them or task.is_volatile:
                task.attempt += task not in lost  # the record of its end has counted it
            else:  # its last attempt ended with the run
                task.attempt = max(task.attempt, task.counted + 1)
            if task.wake_ms is not None and task.wake_ms > at_ms:
                # It waits for its next attempt. Another engine may have begun that already, by its own clock.
                status = TaskStatus.BACKING_OFF
            else:
                task.wake_ms = None
                status = TaskStatus.READY if task.is_startable else TaskStatus.BLOCKED
            self._record(task, failure=task.failure if task.failures else None, status=status)

    def settle(self, began_ms: int) -> None:
        """Put the waits of a restored active run into state RUNNING. A wait without a time-out has no record of its
        start. It began when its needs were done, or with the run, at `began_ms`."""
        for task in self.graph:
            if task.status is TaskStatus.CANCELED and task.scope.is_live():
                self._try_again(task)  # the end of the run was not recorded, or it was resumed
            if task.status is not TaskStatus.BLOCKED or isinstance(task.node.action, Call):
                continue
            if task.is_startable and task.scope.is_live():
                self.graph.turn(task, TaskStatus.RUNNING)
                task.attempt = 1
                task.started_ms = self.graph.ready_ms(task, began_ms)

    def apply(self, event: Event) -> list[Command]:
        """Change the state by one event. Late, repeated and unknown events change nothing."""
        if self.status is not RunStatus.RUNNING:
            return []
        match event:
            case AttemptStarted():
                if task := self._current(event.task_id, event.attempt):
                    self._began(task, event.at_ms if event.started_ms is None else event.started_ms)
                    self._limit(task, event.at_ms)
            case TaskSucceeded():
                if task := self._current(event.task_id, event.attempt):
                    self._began(task, event.started_ms)
                    self._succeed(task, event.output, event.at_ms, self._ended_ms(task, event))
            case TaskContinued():
                if task := self._current(event.task_id, event.attempt):
                    self._began(task, event.started_ms)
                    self._continue(task, event)
            case TaskFailed():
                if task := self._current(event.task_id, event.attempt):
                    if event.started_ms is not None:
                        self._began(task, event.started_ms)
                    self._attempt_failed(task, event.failure, event.at_ms, self._ended_ms(task, event))
            case AttemptLost():
                if task := self._current(event.task_id, event.attempt):
                    if _is_free(event, task):
                        self._number_anew(task)
                    else:
                        self._attempt_failed(task, worker_lost(event.reason), event.at_ms)
            case EventArrived():
                self._event_arrived(event)
            case TimerFired():
                self._timer_fired(event)
            case CancelRequested():
                self._end(RunStatus.CANCELED, event.at_ms, failure=run_canceled(event.reason))
            case _:
                assert_never(event)
        self._start_ready(event.at_ms)
        return self._collected()

    def reach(self, event: Event) -> int:
        """About how many tasks `apply` will look at, so that the caller can choose where to wait for it."""
        match event:
            case TaskContinued():
                return len(_graph_of(event).nodes)
            case CancelRequested():
                return self._count_open()
            case TaskSucceeded():
                task = self._current(event.task_id, event.attempt)
                return 0 if task is None else self._reach_of_end(task)
            case TaskFailed():
                task = self._current(event.task_id, event.attempt)
                return 0 if task is None else self._reach_of_failure(task, event.failure, event.at_ms)
            case AttemptLost():
                task = self._current(event.task_id, event.attempt)
                if task is None or _is_free(event, task):
                    return 0
                return self._reach_of_failure(task, worker_lost(event.reason), event.at_ms)
            case EventArrived():
                waiting = self._waiting.get(event.key)
                return self._reach_of_end(waiting[0]) if waiting else 0
            case TimerFired():
                if task := self._current(event.task_id, event.attempt):
                    failure = attempt_timed_out(task.node.options.attempt_timeout_ms, event.loading)
                    return self._reach_of_failure(task, failure, event.at_ms)
                timed = self._timed.get(event.task_id)
                if timed is None or isinstance(timed.node.action, Call):
                    return 0
                return self._count_open() if isinstance(timed.node.action, WaitEvent) else self._reach_of_end(timed)
            case AttemptStarted():
                return 0
            case _:
                assert_never(event)

    def _count_open(self) -> int:
        return len(self._in_flight) + len(self._timed) + len(self._untimed)

    def _reach_of_failure(self, task: Task, failure: Failure, at_ms: int) -> int:
        options = task.node.options
        if next_attempt_ms(options.retry, failure, task.failures + 1, at_ms, salt=task.id) is not None:
            return 0
        return self._reach_of_end(task) if options.catch_exceptions else self._count_open()

    def _reach_of_end(self, task: Task) -> int:
        """Its dependents and what they refer to, and those of the tasks that end with it."""
        reach = 0
        ended: Task | None = task
        while ended is not None:
            reach += len(ended.dependents)
            if len(ended.dependents) == 1:
                (dependent,) = ended.dependents
                if dependent.missing == 1 and isinstance(dependent.node.action, Call):
                    reach += len(dependent.node.action.refs)
            scope = ended.scope
            if scope.remaining > 1:
                break
            if scope.owner is None:
                reach += self._count_open()
            ended = scope.owner
        return reach

    def cancellation(self, event: CancelRequested) -> list[Command]:
        """The commands that `apply` would return now. Changes nothing, so that the end of the run can be recorded
        first."""
        if self.status is not RunStatus.RUNNING:
            return []
        commands: list[Command] = [*self._deferred]
        seq = self._next_seq
        for task in self._open():
            if task.id in self._in_flight:
                commands.append(CancelAttempt(task.id, task.attempt))
            if not task.ends_with_run:
                ended_ms = _end_of(task, event.at_ms)
                commands.append(_record_of(task, seq=seq, status=TaskStatus.CANCELED, ended_ms=ended_ms))
                seq += 1
        commands.append(RecordRun(RunStatus.CANCELED, event.at_ms, failure=run_canceled(event.reason)))
        return commands

    def pop_changed(self) -> list[Task]:
        """Tasks that changed their state or became known since the last call."""
        changed = list(self._changed)
        self._changed.clear()
        return changed

    def _collected(self) -> list[Command]:
        commands, self._commands = self._commands, []
        if self._deferred and (len(self._deferred) >= DEFERRED_MAX or any(map(_is_record, commands))):
            commands, self._deferred = [*self._deferred, *commands], []
        return commands

    @property
    def next_seq(self) -> int:
        """The place of its next record. A machine that contains this one continues its own numbers with it."""
        return self._next_seq

    @next_seq.setter
    def next_seq(self, seq: int) -> None:
        self._next_seq = seq

    def holds(self, task_id: str, attempt: int) -> bool:
        """Whether this is the current attempt of a task, whose report is not fenced off."""
        return self._current(task_id, attempt) is not None

    def _current(self, task_id: str, attempt: int) -> Task | None:
        """The task, if this is its current attempt. None: the attempt is fenced off."""
        task = self._in_flight.get(task_id)
        return task if task is not None and task.attempt == attempt else None

    def _began(self, task: Task, at_ms: int | None) -> None:
        self._set(task, TaskStatus.RUNNING)
        task.started_ms = task.started_ms or at_ms

    def _set(self, task: Task, status: TaskStatus) -> None:
        if task.status is not status:
            self.graph.turn(task, status)
            self._changed[task] = None

    def _ended_ms(self, task: Task, event: TaskSucceeded | TaskContinued | TaskFailed) -> int:
        """The end of an attempt. Clocks of workers differ, so it is at least the task's start plus the attempt's
        duration."""
        if event.started_ms is None or event.ended_ms is None:
            return event.at_ms
        return max(event.ended_ms, (task.started_ms or 0) + event.ended_ms - event.started_ms)

    # -------------------------------------------------------------------------- starting

    def _start_all(self, at_ms: int) -> None:
        self._ready.extend(task for task in self.graph if task.is_startable and task.scope.is_live())
        self._start_ready(at_ms)

    def _start_ready(self, at_ms: int) -> None:
        while self._ready:
            self._start(self._ready.popleft(), at_ms)

    def _start(self, task: Task, at_ms: int) -> None:
        """Start a task whose needs are done, or let it go on waiting for its recorded time."""
        match task.node.action:
            case Call() as call:
                if task.wake_ms is None:
                    self._dispatch(task, call)
                else:
                    self._wait(task, TaskStatus.BACKING_OFF)
            case WaitEvent(key=key, timeout_ms=timeout_ms):
                task.attempt = 1
                if mail := self._mailbox.get(key):
                    self._deliver(mail.popleft(), task, at_ms)
                    return
                self._waiting.setdefault(key, deque()).append(task)
                self._wait_until(task, None if timeout_ms is None else at_ms + timeout_ms, at_ms)
            case Sleep(delay_ms=delay_ms, until_ms=until_ms):
                task.attempt = 1
                self._wait_until(task, until_ms if delay_ms is None else at_ms + delay_ms, at_ms)
            case Wait(timeout_ms=timeout_ms):
                task.attempt = 1
                if task.missing <= 0:
                    self._wait_ended(task, task.node.action, at_ms)
                else:
                    self._wait_until(task, None if timeout_ms is None else at_ms + timeout_ms, at_ms)
            case _:
                assert_never(task.node.action)

    def _dispatch(self, task: Task, call: Call) -> None:
        task.attempt += 1
        self._set(task, TaskStatus.READY)
        task.wake_ms = task.deadline_ms = None
        self._in_flight[task.id] = task
        owner, options = task.scope.owner, task.node.options
        beside = owner.id if owner is not None and options.allow_inplace else ""
        inputs = self.graph.sources(task)
        is_limited = options.attempt_timeout_ms is not None
        what = task.id, task.attempt, call, options.shape, inputs, beside, is_limited
        self._commands.append(StartAttempt(*what, callers=self._callers))

    def _number_anew(self, task: Task) -> None:
        """Start the next attempt of a task after one that may have begun without a report. The used number is recorded,
        so that it is not given again, even if the engine dies."""
        self._record(task, failure=task.failure if task.failures else None)
        self._dispatch(task, cast(Call, task.node.action))

    def _wait_until(self, task: Task, wake_ms: int | None, at_ms: int) -> None:
        """Wait without a worker. The due time is recorded once, so that a restart does not move it."""
        is_new = task.wake_ms is None and wake_ms is not None
        if is_new:
            task.wake_ms = wake_ms
        task.started_ms = task.started_ms or at_ms
        self._wait(task, TaskStatus.RUNNING)
        if is_new:
            self._record(task)

    def _wait(self, task: Task, status: TaskStatus) -> None:
        self._set(task, status)
        if task.wake_ms is not None:
            self._timed[task.id] = task
            self._commands.append(SetTimer(task.id, task.attempt, task.wake_ms))
        else:
            self._untimed[task.id] = task

    def _limit(self, task: Task, at_ms: int) -> None:
        """Start the time limit of an attempt that began. It is not recorded, because no attempt survives a restart."""
        if timeout_ms := task.node.options.attempt_timeout_ms:
            task.deadline_ms = at_ms + timeout_ms
            self._commands.append(SetTimer(task.id, task.attempt, task.deadline_ms, is_recorded=False))

    # -------------------------------------------------------------------------- ending well

    def _succeed(self, task: Task, output: Payload, at_ms: int, ended_ms: int | None = None) -> None:
        self._close(task, TaskStatus.SUCCESSFUL, at_ms if ended_ms is None else ended_ms)
        task.output_bytes = output.size
        task.wraps = int(task.node.options.catch_exceptions)
        if task.is_volatile:
            self._kept.add(task.id)
            self._commands.append(KeepOutput(task.id, output))
            is_first = task.seq < 0
            # READY, because it runs again if its value is needed. Its end is recorded to say that it ran.
            self._record(task, status=TaskStatus.READY)
            if is_first:  # a record of earlier attempts must be replaced at once: its timer would wake the run
                self._deferred.append(cast(RecordTask, self._commands.pop()))
        else:
            self._record(task, output=output)
        self._release(task, at_ms)

    def _continue(self, task: Task, event: TaskContinued) -> None:
        scope = self.graph.add_scope(_graph_of(event), task)
        self._close(task, TaskStatus.SUCCESSFUL, self._ended_ms(task, event))
        task.spec_key = event.spec_key
        self._record(task)
        self._changed.update(dict.fromkeys(scope.tasks.values()))
        self._ready.extend(child for child in scope.tasks.values() if child.is_startable)

    def _release(self, task: Task, at_ms: int) -> None:
        """The value of a task is known: make its dependents ready, and end the scopes that end with it."""
        ended: Task | None = task
        while ended is not None:
            task = ended
            self._ready.extend(self.graph.mark_done(task))
            for freed in self.graph.consumed_by(task):
                if freed.id in self._kept:
                    self._kept.discard(freed.id)
                    self._commands.append(DropOutput(freed.id))
            ended = self.graph.ended_with(task)
        root = self.graph.root
        if task.scope is root and not root.remaining and self.status is RunStatus.RUNNING:
            output = root.tasks[root.output]
            self.output = Source(task_id=output.source, wraps=output.wraps)
            self._end(RunStatus.SUCCESSFUL, at_ms, output=self.output)

    def _wait_ended(self, task: Task, wait: Wait, at_ms: int) -> None:
        """Enough of its needs are done, or its time is over."""
        self._succeed(task, self.graph.waited(task, wait).to_payload(), at_ms)

    # -------------------------------------------------------------------------- ending badly

    def _attempt_failed(self, task: Task, failure: Failure, at_ms: int, ended_ms: int | None = None) -> None:
        task.failures += 1
        task.failure = failure
        policy = task.node.options.retry
        again_ms = next_attempt_ms(policy, failure, task.failures, at_ms, salt=task.id)
        if again_ms is None:
            self._fail(task, failure, at_ms, ended_ms)
            return
        del self._in_flight[task.id]
        task.wake_ms = again_ms
        self._wait(task, TaskStatus.BACKING_OFF)
        self._record(task, failure=failure)

    def _fail(self, task: Task, failure: Failure, at_ms: int, ended_ms: int | None = None) -> None:
        """No attempt is left: the nearest enclosing task that catches gets the failure, or else the run."""
        failure = leaving(task.id, failure, task.failures)
        self._close(task, TaskStatus.FAILED, at_ms if ended_ms is None else ended_ms)
        catcher: Task | None = task
        stopped = task.scope
        while catcher is not None and not catcher.node.options.catch_exceptions:
            stopped = catcher.scope
            catcher = stopped.owner
        if catcher is not task:
            self._record(task, failure=failure)
        if catcher is None:
            self._end(RunStatus.FAILED, at_ms, failure=failure)
            return
        if catcher.done:  # it did not wait for this one
            return
        if catcher is not task:
            self._stop(stopped, at_ms)
        catcher.failure = failure
        catcher.source, catcher.wraps = catcher.id, 0
        self._set(catcher, TaskStatus.SUCCESSFUL)
        self._record(catcher, failure=failure)
        self._release(catcher, at_ms)

    def _stop(self, scope: Scope, at_ms: int) -> None:
        """Stop a scope: its tasks are canceled and have no effect any more."""
        scope.stopped = True
        self._cancel([task for task in self._open() if task.scope.is_within(scope)], at_ms)
        for key, waiting in self._waiting.items():
            self._waiting[key] = deque(task for task in waiting if not task.scope.is_within(scope))
        self._ready = deque(task for task in self._ready if not task.scope.is_within(scope))

    def _open(self) -> list[Task]:
        """Tasks that are with the executor or that wait."""
        return [*self._in_flight.values(), *self._timed.values(), *self._untimed.values()]

    def _cancel(self, tasks: list[Task], at_ms: int, *, with_run: bool = False) -> None:
        """Cancel tasks. A record keeps the time that its task waited for, so that a resumed run does not sleep
        twice."""
        for task in tasks:
            if task.id in self._in_flight:
                self._commands.append(CancelAttempt(task.id, task.attempt))
            needs_record = not (with_run and task.ends_with_run)
            wake_ms = task.wake_ms
            self._close(task, TaskStatus.CANCELED, at_ms)
            task.wake_ms = wake_ms
            if needs_record:
                self._record(task)

    def _close(self, task: Task, status: TaskStatus, at_ms: int) -> None:
        self._in_flight.pop(task.id, None)
        self._timed.pop(task.id, None)
        self._untimed.pop(task.id, None)
        self._set(task, status)
        task.wake_ms = None
        task.ended_ms = _end_of(task, at_ms)

    def _end(
        self, status: RunStatus, at_ms: int, *, output: Source | None = None, failure: Failure | None = None
    ) -> None:
        self.status = status
        self.failure = failure
        self._cancel(self._open(), at_ms, with_run=True)
        for task in self._ready:  # they became ready in this step, and do not start any more
            if task.may_be_submitted:
                self._set(task, TaskStatus.READY)
                self._end_with_run(task, at_ms)
        self._waiting.clear()
        self._ready.clear()
        self._commands.append(RecordRun(status, at_ms, output, failure))

    def _end_with_run(self, task: Task, at_ms: int) -> None:
        """Cancel a call that could start when the run ended, and whose record does not say more."""
        task.attempt = task.counted + 1
        task.ended_ms = at_ms
        self.graph.turn(task, TaskStatus.CANCELED)

    def _try_anew(self) -> None:
        """Give the failed and canceled tasks of a resumed run all their attempts again. Their times begin anew, also
        those of waits: no event could come while the run was over."""
        for task in self.graph:
            if task.status in (TaskStatus.FAILED, TaskStatus.CANCELED) and task.scope.is_live():
                self._try_again(task)

    def _try_again(self, task: Task) -> None:
        self._set(task, TaskStatus.BLOCKED)
        task.failures, task.ended_ms = 0, None
        if not isinstance(task.node.action, Sleep):  # a sleep is not slept twice
            task.wake_ms = task.started_ms = None

    # -------------------------------------------------------------------------- events and timers

    def _event_arrived(self, event: EventArrived) -> None:
        if event.sequence <= self.last_event:
            return
        self.last_event = event.sequence
        if waiting := self._waiting.get(event.key):
            self._deliver(event, waiting.popleft(), event.at_ms)
        else:
            self._mailbox.setdefault(event.key, deque()).append(event)

    def _deliver(self, event: EventArrived, task: Task, at_ms: int) -> None:
        self._commands.append(ConsumeEvent(event.sequence, task.id))
        task.started_ms = task.started_ms or at_ms
        self._succeed(task, event.payload, at_ms)

    def _timer_fired(self, event: TimerFired) -> None:
        if task := self._current(event.task_id, event.attempt):
            if task.deadline_ms is not None and task.deadline_ms <= event.at_ms:
                self._commands.append(CancelAttempt(task.id, task.attempt))
                self._attempt_failed(
                    task, attempt_timed_out(task.node.options.attempt_timeout_ms, event.loading), event.at_ms
                )
            return
        waiting = self._timed.get(event.task_id)
        if waiting is None or waiting.attempt != event.attempt or (waiting.wake_ms or 0) > event.at_ms:
            return
        del self._timed[waiting.id]
        match waiting.node.action:
            case Call() as call:
                self._dispatch(waiting, call)
            case Sleep():
                self._succeed(waiting, NULL, event.at_ms)
            case WaitEvent(key=key):
                self._waiting[key].remove(waiting)
                self._fail(waiting, event_timed_out(key), event.at_ms)
            case Wait():
                self._wait_ended(waiting, waiting.node.action, event.at_ms)
            case _:
                assert_never(waiting.node.action)

    # -------------------------------------------------------------------------- records

    def _record(
        self,
        task: Task,
        *,
        output: Payload | None = None,
        failure: Failure | None = None,
        status: TaskStatus | None = None,
    ) -> None:
        task.failure = failure
        if not task.spec_key or task.seq < 0:  # a graph it returned keeps its place in the order
            task.seq, self._next_seq = self._next_seq, self._next_seq + 1
        record = _record_of(
            task, seq=task.seq, status=status or task.status, ended_ms=task.ended_ms, output=output, failure=failure
        )
        task.counted = _counted(record)
        self._commands.append(record)

    @classmethod
    def restore(
        cls,
        spec: Spec,
        status: RunStatus,
        records: Iterable[RecordTask],
        specs: Mapping[str, Spec],
        mail: Iterable[EventArrived] = (),
        last_event: int = 0,
        ended_ms: int | None = None,
        prefix: str = "",
    ) -> Run:
        """Rebuild a run from its records, in the order of `seq`.

        `specs` are the graphs that its tasks returned, `mail` the events that no task has consumed, in the order of
        their sequence. Events up to `last_event` are ignored if they arrive again. `ended_ms`: the end of a run that
        has begun and ended.
        """
        run = cls(spec, prefix)
        for record in records:
            run._restore_task(record, specs)
        run.status = status
        if status.is_final:
            run._settle_volatile()
            run._close_open(ended_ms)
        for event in mail:
            run._mailbox.setdefault(event.key, deque()).append(event)
        run.last_event = last_event
        return run

    def _close_open(self, ended_ms: int | None) -> None:
        """Close the open tasks of an ended run: those that ended with it, and others if their last records could not be
        stored or read."""
        for task in self.graph:
            if ended_ms is not None and task.may_be_submitted and task.is_startable and task.scope.is_live():
                self._end_with_run(task, ended_ms)
            elif task.status in (TaskStatus.READY, TaskStatus.RUNNING, TaskStatus.BACKING_OFF):
                self.graph.turn(task, TaskStatus.CANCELED)

    def _restore_task(self, record: RecordTask, specs: Mapping[str, Spec]) -> None:
        task = self.graph.tasks[record.task_id]
        task.seq = record.seq
        self._next_seq = max(self._next_seq, record.seq + 1)
        self.graph.turn(task, record.status)
        task.attempt = record.attempt
        task.failures = record.failures
        task.failure = record.failure
        task.wake_ms = record.wake_ms
        task.started_ms = record.started_ms
        task.ended_ms = record.ended_ms
        task.counted = _counted(record)
        if record.spec_key:
            task.spec_key = record.spec_key
            scope = self.graph.add_scope(specs[record.spec_key], task)
            if record.failure is None:
                return  # its value comes from its scope
            scope.stopped = True
        elif record.output_bytes is not None:
            task.output_bytes = record.output_bytes
            task.wraps = int(task.node.options.catch_exceptions)
        if record.status is TaskStatus.SUCCESSFUL:
            self._restore_done(task)
        elif record.status is TaskStatus.READY and record.ended_ms is not None:
            self.graph.turn(task, TaskStatus.SUCCESSFUL)  # it has run; its value is not available

    def _settle_volatile(self) -> None:
        """In an ended run a volatile task is done if it has run. It must have run if the run succeeded and needed
        it."""
        for task in self.graph:
            if task.done or task.spec_key or not task.is_volatile:
                continue
            is_needed = not task.is_optional and task.scope.is_live()
            if self.status is RunStatus.SUCCESSFUL and task.status is TaskStatus.BLOCKED and is_needed:
                self.graph.turn(task, TaskStatus.SUCCESSFUL)
            if task.status is TaskStatus.SUCCESSFUL:
                self._restore_done(task)

    def _restore_done(self, task: Task) -> None:
        ended: Task | None = task
        while ended is not None:
            self.graph.mark_done(ended)
            self.graph.consumed_by(ended)
            ended = self.graph.ended_with(ended)


def _graph_of(event: TaskContinued) -> Spec:
    assert isinstance(event.continuation, Spec), "the continuation of a graph is a graph"
    return event.continuation


def _is_free(event: AttemptLost, task: Task) -> bool:
    """Whether a loss costs no retry. The loss of an attempt that is known to have begun always costs one."""
    return event.is_free and task.status is TaskStatus.READY


def _is_record(command: Command) -> bool:
    return isinstance(command, (RecordTask, ConsumeEvent, RecordRun))


def _counted(record: RecordTask) -> int:
    """The attempt that may have begun according to a record that says nothing more, otherwise -1."""
    is_count = record.status in (TaskStatus.READY, TaskStatus.BLOCKED) and record.ended_ms is None
    return record.attempt if is_count and record.failure is None and record.started_ms is None else -1


def _end_of(task: Task, at_ms: int) -> int:
    return max(at_ms, task.started_ms or at_ms)  # the start may be by another clock


def _record_of(
    task: Task,
    *,
    seq: int,
    status: TaskStatus,
    ended_ms: int | None,
    output: Payload | None = None,
    failure: Failure | None = None,
) -> RecordTask:
    return RecordTask(
        seq=seq,
        task_id=task.id,
        status=status,
        attempt=task.attempt,
        failures=task.failures,
        output=output,
        output_bytes=task.output_bytes if output is not None or status is TaskStatus.READY else None,
        failure=failure,
        spec_key=task.spec_key,
        wake_ms=task.wake_ms,
        started_ms=task.started_ms,
        ended_ms=ended_ms,
    )
