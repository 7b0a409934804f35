"""The calls of an actor: the one that has its turn, those that wait, and those that ended last."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from itertools import chain, islice, takewhile
from typing import Final

from perdure.engine.actor.calls import ActorCall
from perdure.model import CREATION, TaskStatus

KEPT_MAX: Final = 1_000
"""Ended calls whose results are kept."""
FORGOTTEN_AT_ONCE: Final = 100
OLD_SHARE: Final = 16
"""Old results are forgotten once the oldest has been kept longer than it should by this part of its time."""
MAIL: Final = ".call"
"""The key of the events that record calls, and requests to drop them. Keys of users' events do not begin with a dot."""


class Mailbox:
    """Calls by id, in the order of their turns. `ended` is the number of ended calls in each state."""

    def __init__(self) -> None:
        self.by_id: dict[str, ActorCall] = {}
        self.current: ActorCall | None = None
        self.waiting: deque[ActorCall] = deque()
        self.ended: Counter[TaskStatus] = Counter()
        self._kept: deque[ActorCall] = deque()

    def __iter__(self) -> Iterator[ActorCall]:
        """The calls without the constructor: ended ones, then in the order of their turns."""
        current = () if self.current is None or self.current.id == CREATION else (self.current,)
        return chain(self._kept, current, self.waiting)

    @property
    def pending(self) -> int:
        """The number of calls that run or wait, without the constructor."""
        return len(self.waiting) + (self.current is not None and self.current.id != CREATION)

    @property
    def is_busy(self) -> bool:
        """Whether a call runs or waits, the constructor's included."""
        return self.current is not None or bool(self.waiting)

    def add(self, call: ActorCall) -> None:
        """It waits for its turn."""
        self.by_id[call.id] = call
        self.waiting.append(call)

    def advance(self) -> ActorCall | None:
        """Give the next call its turn, if no other one has it. None: nothing changes."""
        if self.current is not None or not self.waiting:
            return None
        self.current = self.waiting.popleft()
        return self.current

    def end(self, call: ActorCall) -> None:
        """The call has a result, which is kept."""
        if call is self.current:
            self.current = None
        elif call.id in self.by_id:
            self.waiting.remove(call)
        self.keep(call)

    def keep(self, call: ActorCall) -> None:
        """Take a call that has ended."""
        self.by_id[call.id] = call
        self.ended[call.status] += 1
        if call.id != CREATION:
            self._kept.append(call)

    def forget(self, at_ms: int, retention_ms: int) -> tuple[str, ...]:
        """Forget the oldest results, if there are too many or they are too old. Returns what consumed the events to be
        forgotten: calls, tasks of the graphs that they returned, and the actor itself."""
        count = FORGOTTEN_AT_ONCE if len(self._kept) >= KEPT_MAX + FORGOTTEN_AT_ONCE else 0
        if not count:
            before_ms = at_ms - retention_ms
            # Several at once: an actor that is called now and then shall not forget one with each call.
            if not self._kept or (self._kept[0].ended_ms or 0) >= before_ms - retention_ms // OLD_SHARE:
                return ()
            old = takewhile(lambda call: (call.ended_ms or 0) < before_ms, islice(self._kept, FORGOTTEN_AT_ONCE))
            count = sum(1 for _ in old)
        forgotten = [MAIL]
        for _ in range(count):
            call = self._kept.popleft()
            forgotten += (call.id, *call.children)
            self.ended[call.status] -= 1
            del self.by_id[call.id]
        return tuple(forgotten)
