"""Durations of functions, and the number of their attempts that a lease may therefore have at a time."""

from __future__ import annotations

from typing import Final

from perdure.bounded import Bounded

BATCH_MS: Final = 8.0
BATCH_MAX: Final = 64
TINY_MS: Final = 0.5
SHARED_MS: Final = 16.0
"""Attempts of up to TINY_MS go to a busy lease before an idle one, up to so much work. One lease runs them as fast as
the engine sends them, and a second one would only cost it more messages."""
AHEAD_MS: Final = 40.0
"""Attempts of longer functions are not sent ahead to a busy lease. (A lease is stuck after a little more, STUCK_S.)"""
LEAST_MS: Final = 0.05
"""What an attempt of any function costs at least."""
SMOOTHING: Final = 0.3
OUTLIER: Final = 10
"""An attempt counts as at most this many times as long as the average: now and then one waits for a busy machine."""
FUNCTIONS_REMEMBERED_MAX: Final = 10_000
"""Each new closure is a new function. A forgotten function is unknown again, so its next attempt runs alone."""


class Durations:
    """A moving average for each of the most recently used functions."""

    def __init__(self) -> None:
        self._known_ms: Bounded[str, float] = Bounded(FUNCTIONS_REMEMBERED_MAX)

    def learn(self, function: str, took_ms: float) -> None:
        known = self._known_ms.get(function)
        if known is not None:
            took_ms = known + SMOOTHING * (min(took_ms, known * OUTLIER) - known)
        self._known_ms.keep(function, max(took_ms, LEAST_MS))

    def room(self, function: str) -> int:
        """How many attempts of a function a lease may have at a time."""
        took_ms = self._known_ms.get(function)
        if took_ms is None or took_ms >= BATCH_MS:
            return 1
        return min(int(BATCH_MS / took_ms), BATCH_MAX)

    def sharing(self, function: str) -> int:
        """How many attempts of a function share a lease although another one is idle. 0: none does."""
        took_ms = self._known_ms.get(function)
        if took_ms is None or took_ms > TINY_MS:
            return 0
        return min(int(SHARED_MS / took_ms), BATCH_MAX)

    def is_brief(self, function: str) -> bool:
        """Whether attempts of the function are short enough for another one to wait behind them."""
        known = self._known_ms.get(function)
        return known is not None and known <= AHEAD_MS
