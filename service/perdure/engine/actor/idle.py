"""The end of an actor that nobody calls: when it has been idle for the `ttl` of its class, it is deleted.

One timer is recorded per actor, and not one per call. When the timer fires, it is set anew if the actor was used since
it was set. So a call costs nothing, and an idle actor costs a row.
"""

from __future__ import annotations

from typing import Final

from perdure.engine.messages import Command, ForgetTasks, RecordTask, SetTimer
from perdure.model import TaskStatus

IDLE: Final = ".idle"
"""The id of the timer. Stores know it, too (`rows.IDLE_TASK`)."""


class IdleTime:
    """`number` is the place of the timer's last record, so it is never given again and fences the timer. `used_ms` is
    the last time at which a call ended. `due_ms` None: no timer is set."""

    def __init__(self, ttl_ms: int) -> None:
        self.ttl_ms = ttl_ms
        self.used_ms = 0
        self.number = 0
        self.due_ms: int | None = None

    def used(self, at_ms: int | None) -> None:
        """A call ended at this time."""
        self.used_ms = max(self.used_ms, at_ms or 0)

    def is_due(self, number: int, at_ms: int) -> bool:
        """Whether the timer of this number is the current one, and due."""
        return self.due_ms is not None and number == self.number and at_ms >= self.due_ms

    def set(self, due_ms: int, seq: int) -> list[Command]:
        """Set the timer. The first command is a record, numbered `seq`."""
        self.number, self.due_ms = seq, due_ms
        return [RecordTask(seq, IDLE, TaskStatus.RUNNING, seq, wake_ms=due_ms), *self.timers()]

    def forget(self) -> list[Command]:
        """Remove the timer, if it is set."""
        if self.due_ms is None:
            return []
        self.due_ms = None
        return [ForgetTasks((IDLE,))]

    def timers(self) -> list[SetTimer]:
        return [] if self.due_ms is None else [SetTimer(IDLE, self.number, self.due_ms)]

    def restore(self, record: RecordTask) -> None:
        """Take a record of `set`."""
        self.number, self.due_ms = record.attempt, record.wake_ms
