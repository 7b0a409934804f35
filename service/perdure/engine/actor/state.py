"""The stored state of an actor: its small fields together, and each large field as a part of its own.

Each version of a part is a record of its own, whose id has the revision that made it. So a value never changes under
its id: caches may keep it, and a reader that has the ids of one revision reads that revision.
"""

from __future__ import annotations

from typing import Final

from perdure.engine.messages import ForgetTasks, RecordTask, Source
from perdure.model import PART_NAME_CHARS_MAX, MethodOutcome, Payload, TaskStatus

PREFIX: Final = ".state"
PARTS_MAX: Final = 1_000


class ActorState:
    """Which versions of which parts make the state. `revision` is that of the small fields, which are stored with every
    change; 0: there is no state yet."""

    def __init__(self) -> None:
        self.revision = 0
        self._parts: dict[str, int] = {}  # the revisions of large fields
        self._sources: tuple[Source, ...] | None = ()

    def sources(self) -> tuple[Source, ...]:
        """The places of the small fields and of the parts, by name."""
        if self._sources is None:
            parts = [Source(_part_id(name, self._parts[name])) for name in sorted(self._parts)]
            self._sources = (Source(_small_id(self.revision)), *parts)
        return self._sources

    def refusal(self, outcome: MethodOutcome) -> str:
        """Why the outcome of a method is not a next state; "" if it is one."""
        if outcome.state is None:
            is_odd = bool(outcome.parts or outcome.dropped)
            return "it has parts without a state" if is_odd else "" if self.revision else "there is no state"
        if not outcome.parts:
            return ""
        names = {name for name, _ in outcome.parts}
        if any(not (name.isascii() and name.isprintable() and 1 <= len(name) <= PART_NAME_CHARS_MAX) for name in names):
            return f"the name of a part has 1 to {PART_NAME_CHARS_MAX} printable ASCII characters"
        if len(names.union(self._parts.keys() - set(outcome.dropped))) > PARTS_MAX:
            return f"the state has more than {PARTS_MAX} parts"
        return ""

    def apply(self, outcome: MethodOutcome, seq: int, at_ms: int) -> list[RecordTask | ForgetTasks]:
        """Take the state that a method made. Returns its records, numbered from `seq` on."""
        if outcome.state is None:
            return []
        old = [_small_id(self.revision)] if self.revision else []
        self.revision += 1
        self._sources = None
        records: list[RecordTask | ForgetTasks] = [_record(_small_id(self.revision), outcome.state, seq, at_ms)]
        for name in (*outcome.dropped, *(name for name, _ in outcome.parts)):
            if (revision := self._parts.pop(name, None)) is not None:
                old.append(_part_id(name, revision))
        for place, (name, part) in enumerate(outcome.parts, seq + 1):
            self._parts[name] = self.revision
            records.append(_record(_part_id(name, self.revision), part, place, at_ms))
        if old:
            records.append(ForgetTasks(tuple(old)))
        return records

    def restore(self, record_id: str) -> None:
        """Take a record of `apply`."""
        what, _, number = record_id.rpartition("@")
        revision = int(number)
        if what != PREFIX:
            self._parts[what.removeprefix(f"{PREFIX}/")] = revision
        self.revision = max(self.revision, revision)
        self._sources = None


def _small_id(revision: int) -> str:
    return f"{PREFIX}@{revision}"


def _part_id(name: str, revision: int) -> str:
    return f"{PREFIX}/{name}@{revision}"


def _record(record_id: str, value: Payload, seq: int, at_ms: int) -> RecordTask:
    return RecordTask(seq, record_id, TaskStatus.SUCCESSFUL, 1, output=value, ended_ms=at_ms)
