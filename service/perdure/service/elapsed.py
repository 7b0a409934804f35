"""A clock for how long something lasts, which goes on while the process is stopped and while the machine sleeps."""

from __future__ import annotations

import time
from typing import Final

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed_s() -> float:
    """Seconds since some moment."""
    return time.clock_gettime(_CLOCK)
