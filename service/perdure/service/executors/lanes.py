"""Which attempts wait until older ones have really ended: those of the same task, and those with the same turn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from perdure.service.executors.port import Attempt
from perdure.service.executors.turns import Key

Lane: TypeAlias = tuple[str, ...]

_NOBODY: Final[tuple[Attempt, ...]] = ()


class Lanes:
    """Every attempt is in the lane of its task; one with a turn is in that of its turn, too. A lane takes one attempt
    at a time, and later ones wait here until they may enter."""

    def __init__(self) -> None:
        self._busy: set[Lane] = set()
        self._waiting: dict[Lane, dict[Key, Attempt]] = {}
        self._before: dict[Key, Lane] = {}  # of the waiting ones

    def __len__(self) -> int:
        """The number of attempts that are in lanes or wait. One with a turn counts twice."""
        return len(self._busy) + len(self._before)

    def waits(self, attempt: Attempt) -> bool:
        """Whether the attempt cannot enter yet. Then it is kept here."""
        for lane in lanes_of(attempt):
            if lane in self._busy:
                self._waiting.setdefault(lane, {})[attempt.key] = attempt
                self._before[attempt.key] = lane
                return True
        return False

    def enter(self, attempt: Attempt) -> None:
        self._busy.update(lanes_of(attempt))

    def leave(self, attempt: Attempt) -> Iterable[Attempt]:
        """The attempt has ended, or goes elsewhere. Returns those that waited for it, to be asked again whether they
        wait."""
        if not attempt.turn:  # nearly always
            return self.clear((attempt.run_id, attempt.task_id))
        return [freed for lane in lanes_of(attempt) for freed in self.clear(lane)]

    def clear(self, lane: Lane) -> Iterable[Attempt]:
        """The same for one of the lanes of an attempt."""
        self._busy.discard(lane)
        if lane not in self._waiting:
            return _NOBODY
        freed = self._waiting.pop(lane)
        for key in freed:
            del self._before[key]
        return freed.values()

    def drop(self, key: Key) -> None:
        """An attempt is not to begin."""
        if (lane := self._before.pop(key, None)) is not None:
            waiting = self._waiting[lane]
            del waiting[key]
            if not waiting:
                del self._waiting[lane]

    def drop_all(self) -> None:
        """No waiting attempt is to begin."""
        self._waiting.clear()
        self._before.clear()


def lanes_of(attempt: Attempt) -> tuple[Lane, ...]:
    task = attempt.run_id, attempt.task_id
    return (task, turn_of(attempt)) if attempt.turn else (task,)


def turn_of(attempt: Attempt) -> Lane:
    """The lane of its turn."""
    return attempt.run_id, "", attempt.turn
