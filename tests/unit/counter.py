"""A second kind of runs: a counter, which is no graph. It takes so many events "add" and then calls a function."""

from __future__ import annotations

import hashlib
from collections import Counter as Counted
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from perdure.engine.failures import run_canceled
from perdure.engine.machine import Before, Saved
from perdure.engine.messages import (
    AttemptLost,
    AttemptStarted,
    CancelAttempt,
    CancelRequested,
    Command,
    ConsumeEvent,
    Event,
    EventArrived,
    RecordRun,
    RecordTask,
    Source,
    StartAttempt,
    TaskFailed,
    TaskSucceeded,
)
from perdure.model import NULL, Call, Failure, FailureKind, Payload, RunStatus, Shape, TaskOptions, TaskStatus
from perdure.service.executors.port import ContinuationReturned
from perdure.service.machines import source
from perdure.service.machines.kinds import Returned
from unit.driver import FUNCTION

END = "end"


@dataclass(eq=False)
class Count:
    """One task: an event that was counted, or the call at the end. Implements TaskState."""

    id: str
    status: TaskStatus
    attempt: int = 1
    started_ms: int | None = None
    ended_ms: int | None = None
    failure: Failure | None = None
    output_bytes: int = 0
    wake_ms = None
    wraps = 0
    is_volatile = False
    options = TaskOptions()
    node_id = parent_id = ""
    upstream: tuple[str, ...] = ()
    awaited = None
    function_name = "count"

    @property
    def done(self) -> bool:
        return self.status is TaskStatus.SUCCESSFUL

    @property
    def source(self) -> str:
        return self.id

    @property
    def attempts_begun(self) -> int:
        return self.attempt - (self.status is TaskStatus.READY)


class Counter:
    """Implements Machine."""

    next_wake_ms = None
    keeps_values = False
    lingers = False

    def __init__(self, target: int) -> None:
        self.status = RunStatus.RUNNING
        self.last_event = 0
        self._target = target
        self._tasks: dict[str, Count] = {}
        self._mail: list[EventArrived] = []
        self._changed: dict[Count, None] = {}
        self._commands: list[Command] = []

    # -------------------------------------------------------------------------- what happens

    def start(self, at_ms: int) -> list[Command]:
        return []

    def recover(self, at_ms: int, before: Before) -> list[Command]:
        if (end := self._tasks.get(END)) is not None and not end.done:
            if before != "nothing":
                self._record(end, attempt=end.attempt + 1)
                end.attempt += 1
            self._dispatch(end)
        for event in self._mail:
            self._count(event)
        self._mail.clear()
        return self._take()

    def apply(self, event: Event) -> list[Command]:
        if self.status is not RunStatus.RUNNING:
            return []
        match event:
            case EventArrived() if event.sequence > self.last_event:
                self.last_event = event.sequence
                self._count(event)
            case CancelRequested():
                self._commands += self.cancellation(event)
                self.status = RunStatus.CANCELED
            case AttemptStarted() | AttemptLost() | TaskSucceeded() | TaskFailed():
                end = self._tasks.get(END)
                if end is not None and not self.is_dormant and (event.task_id, event.attempt) == (END, end.attempt):
                    self._report(end, event)
            case _:
                pass
        return self._take()

    def _report(self, end: Count, event: AttemptStarted | AttemptLost | TaskSucceeded | TaskFailed) -> None:
        match event:
            case AttemptStarted():
                self._turn(end, TaskStatus.RUNNING)
            case AttemptLost():
                end.attempt += 1
                self._dispatch(end)
            case TaskSucceeded():
                self._turn(end, TaskStatus.SUCCESSFUL, event.at_ms)
                self._record(end, output=event.output)
                self._end(RunStatus.SUCCESSFUL, event.at_ms, output=Source(END))
            case TaskFailed():
                end.failure = event.failure
                self._turn(end, TaskStatus.FAILED, event.at_ms)
                self._record(end)
                self._end(RunStatus.FAILED, event.at_ms, failure=event.failure)

    def cancellation(self, event: CancelRequested) -> list[Command]:
        end = self._tasks.get(END)
        attempts = [CancelAttempt(END, end.attempt)] if end is not None and not self.is_dormant else []
        return [*attempts, RecordRun(RunStatus.CANCELED, event.at_ms, failure=run_canceled(event.reason))]

    def reach(self, event: Event) -> int:
        return 1

    def _count(self, event: EventArrived) -> None:
        if len(self._tasks) >= self._target:
            return
        task = Count(f"add-{len(self._tasks)}", TaskStatus.SUCCESSFUL, 1, event.at_ms, event.at_ms)
        self._add(task)
        self._commands.append(ConsumeEvent(event.sequence, task.id))
        self._record(task, output=event.payload)
        if len(self._tasks) == self._target:
            end = Count(END, TaskStatus.READY)
            self._add(end)
            self._record(end)
            self._dispatch(end)

    def _add(self, task: Count) -> None:
        self._tasks[task.id] = task
        self._changed[task] = None

    def _dispatch(self, end: Count) -> None:
        self._turn(end, TaskStatus.READY)
        inputs = tuple(Source(name) for name in self._tasks if name != END)
        self._commands.append(StartAttempt(END, end.attempt, Call(FUNCTION, NULL), Shape(), inputs))

    def _turn(self, task: Count, status: TaskStatus, ended_ms: int | None = None) -> None:
        task.status, task.ended_ms = status, ended_ms
        self._changed[task] = None

    def _record(self, task: Count, *, attempt: int | None = None, output: Payload | None = None) -> None:
        seq = list(self._tasks).index(task.id)
        self._commands.append(
            RecordTask(
                seq, task.id, task.status, attempt or task.attempt, output=output, failure=task.failure,
                started_ms=task.started_ms, ended_ms=task.ended_ms,
            )
        )  # fmt: skip

    def _end(self, status: RunStatus, at_ms: int, output: Source | None = None, failure: Failure | None = None) -> None:
        self.status = status
        self._commands.append(RecordRun(status, at_ms, output, failure))

    def _take(self) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands

    # -------------------------------------------------------------------------- staying in memory, attempts, tasks

    @property
    def is_dormant(self) -> bool:
        end = self._tasks.get(END)
        return self.status.is_final or end is None or end.status not in (TaskStatus.READY, TaskStatus.RUNNING)

    def in_flight(self) -> list[tuple[str, int]]:
        return [] if self.is_dormant else [(END, self._tasks[END].attempt)]

    def begun(self) -> dict[str, int]:
        return {END: self._tasks[END].attempt} if END in self._tasks else {}

    def number_from(self, begun: Mapping[str, int]) -> None:
        if (end := self._tasks.get(END)) is not None:
            end.attempt = max(end.attempt, begun.get(END, 0))

    @property
    def size(self) -> int:
        return len(self._tasks)

    @property
    def counts(self) -> Mapping[TaskStatus, int]:
        return Counted(task.status for task in self._tasks.values())

    def tasks(self, start: int = 0) -> Iterator[Count]:
        return islice(self._tasks.values(), start, None)

    def find_task(self, task_id: str) -> Count | None:
        return self._tasks.get(task_id)

    def pop_changed(self) -> list[Count]:
        changed, self._changed = self._changed, {}
        return list(changed)

    @classmethod
    def restore(cls, target: int, saved: Saved) -> Counter:
        counter = cls(target)
        for record in saved.records:
            counter._tasks[record.task_id] = Count(
                record.task_id, record.status, record.attempt, record.started_ms, record.ended_ms, record.failure
            )
        counter.status = saved.status
        counter.last_event = saved.last_event
        counter._mail = list(saved.mail)
        return counter


class Counters:
    """Implements Kind. A definition is the number of events to count."""

    name = "counter"

    def decode(self, data: bytes) -> int:
        return int(data)

    def size(self, definition: int) -> int:
        return definition + 1

    def begin(self, definition: int) -> Counter:
        return Counter(definition)

    def restore(self, key: str, definitions: Mapping[str, int], saved: Saved) -> Counter:
        return Counter.restore(definitions[key], saved)

    def read_returned(self, run_id: str, report: ContinuationReturned) -> Returned:
        failure = Failure(FailureKind.SERIALIZATION, "perdure.InvalidSpec", "a counter takes no graph")
        failed = TaskFailed(report.task_id, report.attempt, failure, report.at_ms)
        return lambda _machine: (failed, ())


def counter_of(target: int) -> source.RunSource:
    """What a client would submit."""
    data = str(target).encode()
    digest = hashlib.sha256(data)
    key = digest.hexdigest()
    return source.RunSource(Counters(), target, data, digest, key, "counter", frozenset(), frozenset(), ())
