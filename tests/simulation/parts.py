"""The parts of a world: engines, clients and their actions, faults. Each part has a name and can be left out.

In a world whose parts are `apart`, each part has dice of its own, so that the others stay what they are when it is
left out. In other worlds all parts share one dice, so leaving one out changes the rest. Seeds that found bugs are such
worlds.
"""

from __future__ import annotations

import random
from collections.abc import Collection


class Parts:
    """`only`: those that there are; None: all. `seen`: those that came up, each with what it is."""

    def __init__(self, only: Collection[str] | None = None, *, apart: bool = True) -> None:
        self._only = None if only is None else frozenset(only)
        self._apart = apart
        self.seen: dict[str, str] = {}

    def has(self, name: str, what: str = "") -> bool:
        """Whether there is this part."""
        if self._only is not None and name not in self._only:
            return False
        self.seen[name] = what
        return True

    def dice(self, seed: int, name: str, shared: random.Random) -> random.Random:
        """Those that a part throws."""
        return random.Random(f"{name} of {seed}") if self._apart else shared
