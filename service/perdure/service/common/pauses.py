"""Pauses in long work on the event loop, so that other tasks get turns."""

from __future__ import annotations

import asyncio
import time
from typing import Final

TURN_S: Final = 0.01
"""The longest time without a pause."""


class Pauses:
    """The pauses of one piece of work. They depend on the time that the work takes and not on its size, because each
    pause makes the work slower, and some of its parts may take a thousand times as long as others."""

    def __init__(self) -> None:
        self._until_s = time.monotonic() + TURN_S  # the time of uvloop stands still during a turn

    async def pause(self) -> None:
        """Let other tasks run, if it is time."""
        if time.monotonic() >= self._until_s:
            await asyncio.sleep(0)
            self._until_s = time.monotonic() + TURN_S
