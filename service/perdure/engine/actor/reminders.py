"""The reminders of an actor: calls of itself at a later time, once or again and again.

A reminder has two records: its next time, which the timers find (`.reminder/KEY@PERIOD`), and its call
(`.reminder-call/KEY@NUMBER`). When the time has come, the call takes its turn like any other. Its result and the
reminder's next time, or its end, are recorded in one commit. So a crash in between lets it ring again, and a call that
is recorded never runs again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from perdure.engine.messages import Command, ForgetTasks, RecordTask, SetTimer, Source
from perdure.model import REMINDER_KEY_CHARS_MAX as KEY_CHARS_MAX
from perdure.model import MethodOutcome, TaskStatus

TIMER: Final = ".reminder/"
CALL: Final = ".reminder-call/"
RINGS: Final = ".remind-"
"""The beginning of the ids of the calls."""
REMINDERS_MAX: Final = 1_000


@dataclass(slots=True)
class Reminder:
    """`number` is the place of the record of its setting or last ring, so it is never given again. It fences timers and
    names the call. `call_number` is that of the setting. `every_ms` 0: it rings once. `is_ringing`: its call runs or
    waits for its turn."""

    key: str
    number: int
    call_number: int
    due_ms: int
    every_ms: int
    method: str
    is_ringing: bool = False

    @property
    def timer_id(self) -> str:
        return f"{TIMER}{self.key}@{self.every_ms}"

    @property
    def call_id(self) -> str:
        return f"{CALL}{self.key}@{self.call_number}"

    @property
    def ring_id(self) -> str:
        """The id of the call that runs when it rings next."""
        return f"{RINGS}{self.key}-{self.number}"

    @property
    def source(self) -> Source:
        """The place of its call."""
        return Source(self.call_id)

    def timer(self) -> SetTimer:
        return SetTimer(self.timer_id, self.number, self.due_ms)

    def record(self, seq: int) -> RecordTask:
        return RecordTask(seq, self.timer_id, TaskStatus.RUNNING, self.number, wake_ms=self.due_ms)


class Reminders:
    """By key."""

    def __init__(self) -> None:
        self._by_key: dict[str, Reminder] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def refusal(self, outcome: MethodOutcome) -> str:
        """Why reminders that a method has set cannot be kept; "" if they can."""
        for setting in outcome.reminders:
            if not (1 <= len(setting.key) <= KEY_CHARS_MAX and setting.key.isprintable()) or set("@/") & {*setting.key}:
                return f'the key of a reminder has 1 to {KEY_CHARS_MAX} printable characters without "@" and "/"'
            if setting.every_ms < 0 or (setting.call is not None and not setting.method):
                return f"the reminder {setting.key!r} has a negative period or no method"
        if len(self._by_key.keys() | {setting.key for setting in outcome.reminders}) > REMINDERS_MAX:
            return f"an actor has at most {REMINDERS_MAX} reminders"
        return ""

    def apply(self, outcome: MethodOutcome, seq: int, at_ms: int) -> list[Command]:
        """Take what a method has set. Returns records, numbered from `seq` on, and timers."""
        commands: list[Command] = []
        for setting in outcome.reminders:
            if (old := self._by_key.pop(setting.key, None)) is not None:
                commands.append(ForgetTasks((old.timer_id, old.call_id)))
            if setting.call is None:
                continue
            due_ms = at_ms + (setting.after_ms or 0) if setting.at_ms is None else setting.at_ms
            made = Reminder(setting.key, seq, seq, due_ms, setting.every_ms, setting.method)
            self._by_key[setting.key] = made
            call = RecordTask(seq, made.call_id, TaskStatus.SUCCESSFUL, 1, output=setting.call, ended_ms=at_ms)
            commands += (call, made.record(seq + 1), made.timer())
            seq += 2
        return commands

    def rings(self, task_id: str, number: int, at_ms: int) -> Reminder | None:
        """The reminder of a timer that is due; None if it was set anew, has rung, or rings already."""
        found = self._by_key.get(task_id.removeprefix(TIMER).rpartition("@")[0])
        if found is None or found.timer_id != task_id or found.number != number or found.is_ringing:
            return None
        if found.due_ms > at_ms:
            return None
        found.is_ringing = True
        return found

    def rung(self, reminder: Reminder, seq: int, at_ms: int) -> list[Command]:
        """Its call has ended. Returns the record of its next time, or of its end. A call may have set it anew."""
        if self._by_key.get(reminder.key) is not reminder:
            return []
        if not reminder.every_ms:
            del self._by_key[reminder.key]
            return [ForgetTasks((reminder.timer_id, reminder.call_id))]
        missed = max(at_ms - reminder.due_ms, 0) // reminder.every_ms
        reminder.due_ms += (missed + 1) * reminder.every_ms  # periods that passed meanwhile are left out
        reminder.number = seq
        reminder.is_ringing = False
        return [reminder.record(seq), reminder.timer()]

    def ringing(self, call_ids: Collection[str]) -> list[Reminder]:
        """The reminder whose call had its turn when the records were written, and so has a record, if there is one."""
        found = [reminder for reminder in self._by_key.values() if reminder.ring_id in call_ids]
        for reminder in found:
            reminder.is_ringing = True
        return found

    def timers(self) -> list[SetTimer]:
        """All that do not ring."""
        return [reminder.timer() for reminder in self._by_key.values() if not reminder.is_ringing]

    @property
    def next_ms(self) -> int | None:
        return min((one.due_ms for one in self._by_key.values() if not one.is_ringing), default=None)

    def restore(self, record: RecordTask) -> None:
        """Take a record of `apply` or `rung`. Raises ValueError for another one."""
        is_timer = record.task_id.startswith(TIMER)
        key, _, number = record.task_id.removeprefix(TIMER if is_timer else CALL).rpartition("@")
        known = self._by_key.setdefault(key, Reminder(key, 0, 0, 0, 0, ""))
        if is_timer:
            known.number, known.due_ms, known.every_ms = record.attempt, record.wake_ms or 0, int(number)
        else:
            known.call_number = int(number)
