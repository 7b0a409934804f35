"""Events that were sent to runs."""

from __future__ import annotations

from typing import Protocol

from perdure.storage.rows import EventRow


class EventStore(Protocol):
    """Events of one run. Recording and consuming them are writes of commits."""

    async def find_event(self, run_id: str, key: str, event_id: str) -> int | None:
        """The sequence of a recorded event, consumed or not."""
        ...

    async def count_calls(self, run_id: str) -> int:
        """The number of the actor's recorded calls, and of other events with CALL_KEY, that no task has consumed."""
        ...

    async def read_events(self, run_id: str, *, after: int) -> list[EventRow]:
        """Events of the run with a sequence above `after` that no task has consumed, by sequence."""
        ...
