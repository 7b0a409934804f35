"""How long functions take, as far as it is known, and what follows for how many of their attempts a lease may have."""

from __future__ import annotations

from math import inf
from typing import Final

BATCH_MS: Final = 8.0
BATCH_MAX: Final = 64
AHEAD_MS: Final = 40.0
"""What takes longer is not sent ahead to a lease that is still busy: a lease counts as stuck a little later."""
SMOOTHING: Final = 0.3


class Durations:
    """A moving average of each function."""

    def __init__(self) -> None:
        self._known_ms: dict[str, float] = {}

    def learn(self, function: str, took_ms: float) -> None:
        known = self._known_ms.get(function)
        self._known_ms[function] = took_ms if known is None else known + SMOOTHING * (took_ms - known)

    def room(self, function: str) -> int:
        """How many attempts of a function a lease may have at a time."""
        took_ms = self._known_ms.get(function)
        if took_ms is None or took_ms >= BATCH_MS:
            return 1
        return min(int(BATCH_MS / max(took_ms, 0.05)), BATCH_MAX)

    def is_brief(self, function: str) -> bool:
        """Whether an attempt may be sent ahead behind one of these."""
        return self._known_ms.get(function, inf) <= AHEAD_MS
