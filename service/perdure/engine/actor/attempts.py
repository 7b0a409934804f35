"""Attempts of methods of one actor, which take turns."""

from __future__ import annotations

from collections import deque
from typing import Final

from perdure.engine.actor.calls import ActorCall
from perdure.engine.actor.state import ActorState
from perdure.engine.messages import StartAttempt
from perdure.model import Shape

TURN: Final = ".state"
"""The turn of all methods. The executor begins none of them before a cancelled one has really ended."""

_PLAIN: Final = Shape()


class MethodAttempts:
    """At most one is with the executor; the others wait here. The first one begins with the state that the one before
    has left. A node of a returned graph that names no shape has that of the actor: it needs the same resources."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._at_work: tuple[str, int] | None = None
        self._waiting: deque[StartAttempt] = deque()

    def add(self, start: StartAttempt) -> None:
        """Take one that is to be started."""
        self._waiting.append(start)

    def holds(self, task_id: str, attempt: int) -> bool:
        """Whether it waits here, so that the executor does not know it."""
        return any(start.task_id == task_id and start.attempt == attempt for start in self._waiting)

    def cancel(self, task_id: str, attempt: int) -> None:
        """It is not to begin, or its result is to be ignored."""
        self.ended(task_id, attempt)
        if self._waiting:
            key = task_id, attempt
            self._waiting = deque(start for start in self._waiting if (start.task_id, start.attempt) != key)

    def ended(self, task_id: str, attempt: int) -> None:
        """It is not at work any more, if it was."""
        if self._at_work == (task_id, attempt):
            self._at_work = None

    def clear(self) -> None:
        """None is needed any more."""
        self._at_work = None
        self._waiting.clear()

    def next(self, state: ActorState, call: ActorCall | None) -> StartAttempt | None:
        """The one that begins now, with this state, for the call that has its turn; None: the one before has not ended,
        or none waits."""
        if self._at_work is not None or not self._waiting:
            return None
        start = self._waiting.popleft()
        self._at_work = start.task_id, start.attempt
        # Where leases are kept warm, that of the last method has the object, and what `activate` has built.
        beside = TURN if start.shape.keep_warm_ms else start.beside
        reminder = call.reminder if call is not None and call.id == start.task_id else None
        given = () if reminder is None else (reminder.source,)
        return StartAttempt(
            start.task_id,
            start.attempt,
            start.call,
            self.shape if start.shape == _PLAIN else start.shape,
            (*given, *start.inputs, *state.sources()),
            beside,
            start.is_limited,
            TURN,
            start.callers,
        )
