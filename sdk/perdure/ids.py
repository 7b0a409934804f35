"""Ids that sort by the time they were made: UUIDv7 (RFC 9562, section 5.7)."""

from __future__ import annotations

import os
import time
from typing import Final

DRAWN_AT_ONCE: Final = 256


class TimeOrderedIds:
    """Makes UUIDv7, each above the one before: sorted by time, and within a millisecond in the order of their making.
    Not thread-safe, and not for use across a fork, which would repeat ids."""

    def __init__(self) -> None:
        self._last = 0  # 48 bits of time, 74 random bits
        self._random: list[int] = []

    def __call__(self, now_ms: int) -> str:
        """`now_ms`: milliseconds since 1970, below 2^48."""
        value = (now_ms & (1 << 48) - 1) << 74 | self._draw() >> 6
        if value <= self._last:
            value = self._last + 1 + (self._draw() >> 48)
        self._last = value
        return _uuid7(value >> 74, value >> 62 & 0xFFF, value & (1 << 62) - 1)

    def _draw(self) -> int:
        """80 random bits. Many are drawn per system call, which releases the GIL: getting it back from a busy loop
        costs more than the rest."""
        if not self._random:
            some = os.urandom(10 * DRAWN_AT_ONCE)
            self._random = [int.from_bytes(some[at : at + 10], "big") for at in range(0, len(some), 10)]
        return self._random.pop()


def time_ordered_id() -> str:
    """A UUIDv7 of this moment. Thread-safe and fork-safe; ids of one millisecond are not ordered."""
    random = int.from_bytes(os.urandom(10), "big") >> 6
    return _uuid7(time.time_ns() // 1_000_000 & (1 << 48) - 1, random >> 62, random & (1 << 62) - 1)


def _uuid7(time_ms: int, high: int, low: int) -> str:
    fields = (time_ms >> 16, time_ms & 0xFFFF, 0x7000 | high, 0x8000 | low >> 48, low & (1 << 48) - 1)
    return "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}".format(*fields)
