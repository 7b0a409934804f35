"""The two clocks of an engine: one for times of day, one for durations."""

from __future__ import annotations

import time
from typing import Final

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed_s() -> float:
    """Seconds since an arbitrary moment. The clock goes on while the process is stopped and while the machine
    sleeps."""
    return time.clock_gettime(_CLOCK)


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
