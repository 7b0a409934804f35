"""How long functions take, and how many of their attempts a lease may therefore have at a time."""

from __future__ import annotations

from typing import Final

from perdure.bounded import Bounded

BATCH_MS: Final = 8.0
BATCH_MAX: Final = 64
AHEAD_MS: Final = 40.0
"""What takes longer is not sent ahead to a lease that is still busy: a lease counts as stuck a little later."""
SMOOTHING: Final = 0.3
FUNCTIONS_REMEMBERED_MAX: Final = 10_000
"""Each new closure is a function of its own. One that is forgotten is unknown again: it runs alone once."""


class Durations:
    """A moving average for each of the functions that were used last."""

    def __init__(self) -> None:
        self._known_ms: Bounded[str, float] = Bounded(FUNCTIONS_REMEMBERED_MAX)

    def learn(self, function: str, took_ms: float) -> None:
        known = self._known_ms.get(function)
        self._known_ms.keep(function, took_ms if known is None else known + SMOOTHING * (took_ms - known))

    def room(self, function: str) -> int:
        """How many attempts of a function a lease may have at a time."""
        took_ms = self._known_ms.get(function)
        if took_ms is None or took_ms >= BATCH_MS:
            return 1
        return min(int(BATCH_MS / max(took_ms, 0.05)), BATCH_MAX)

    def is_brief(self, function: str) -> bool:
        """Whether an attempt may be sent ahead behind one of these."""
        known = self._known_ms.get(function)
        return known is not None and known <= AHEAD_MS
