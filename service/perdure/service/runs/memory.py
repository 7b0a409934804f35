"""The runs in memory.

A run leaves memory once it has ended. A run that only a later time or an event moves on leaves it as well, and is
loaded again for its next event. An actor stays while there is room, because its next call may come soon.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from perdure.bounded import Bounded
from perdure.service.runs.live import Live
from perdure.service.runs.values import Values

STAY_MS: Final = 30_000
"""A dormant run that wakes within this time stays in memory."""
LINGERING_MAX: Final = 100_000
"""Tasks of the dormant runs that stay in memory because they will probably be needed again soon."""
REFUSED_MAX: Final = 1_000
"""Runs whose records the store rejected, and whose attempt numbers are remembered."""


class Memory:
    """Finds the runs in memory."""

    def __init__(self, values: Values, clock: Callable[[], int]) -> None:
        self._values = values
        self._clock = clock
        self._live: dict[str, Live] = {}
        self._current: dict[tuple[str, str], Live] = {}  # the same by namespace and workflow id
        self.find: Callable[[str], Live | None] = self._live.get
        """The run, if it is in memory. Its state may not be durable yet: see `moments`. This is the method of the
        dictionary itself, because it is called for every event."""
        self._lingering: Bounded[str, int] = Bounded(LINGERING_MAX, int)
        """The number of tasks of each, when it became dormant last."""
        self.begun: Bounded[str, dict[str, int]] = Bounded(REFUSED_MAX)
        """Attempts that may have begun and were never recorded, by run. These runs have left memory."""

    def find_current(self, namespace: str, workflow_id: str) -> Live | None:
        """The current run of a workflow id, if it is in memory."""
        return self._current.get((namespace, workflow_id))

    def admit(self, live: Live) -> None:
        """Add a run."""
        self._live[live.row.run_id] = live
        self._current[live.row.namespace, live.row.workflow_id] = live

    def dismiss(self, live: Live) -> None:
        """Remove a run. It may have left already, and another one may have its names."""
        if self._live.get(live.row.run_id) is live:
            del self._live[live.row.run_id]
            self._lingering.drop(live.row.run_id)
        if self._current.get((live.row.namespace, live.row.workflow_id)) is live:
            del self._current[live.row.namespace, live.row.workflow_id]

    def evict_if_idle(self, live: Live) -> None:
        """Remove a run if it has ended, or if only a later time or an event moves it on."""
        if live.pending or live.is_refused or not live.run.is_dormant:
            return
        if live.run.status.is_final:
            self._values.unpin_run(live.row.run_id)
            self.dismiss(live)
        elif live.run.lingers:
            self._linger(live)
        elif not live.run.keeps_values:
            wake_ms = live.run.next_wake_ms
            if wake_ms is None or wake_ms > self._clock() + STAY_MS:
                self.dismiss(live)

    def _linger(self, live: Live) -> None:
        """Keep a dormant run while there is room. Those that have been dormant for the longest time leave."""
        for run_id in self._lingering.keep(live.row.run_id, live.run.size + 1):
            other = self._live.get(run_id)
            if other is not None and other.held is None and not other.pending and other.run.is_dormant:
                self.dismiss(other)
