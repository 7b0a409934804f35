"""The port for timers of tasks."""

from __future__ import annotations

from typing import Protocol

from perdure.storage.rows import Timer


class TimerStore(Protocol):
    """Timers by the time at which they are due."""

    async def next_timers(self, *, until_ms: int, limit: int) -> list[Timer]:
        """Timers of this member's RUNNING runs due at `until_ms` or before, the earliest first.

        A task has one while its row has a `wake_ms` and the status RUNNING or BACKING_OFF.
        """
        ...
