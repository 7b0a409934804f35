"""A cache bounded by weight, which evicts the least recently used entries first (LRU)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def _one(_value: object) -> int:
    return 1


class Bounded(Generic[K, V]):
    """An LRU cache with a total weight of at most `most`. Without `weigh` every entry weighs 1.

    The newest entry always stays, however heavy it is, because its owner is about to use it. Not thread-safe.
    """

    def __init__(self, most: int, weigh: Callable[[V], int] = _one) -> None:
        self._most = most
        self._weigh = weigh
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._weight = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        """Whether the entry exists. This does not make it recently used."""
        return key in self._entries

    def get(self, key: K) -> V | None:
        """The value, or None. It becomes the most recently used one."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def keep(self, key: K, value: V) -> list[K]:
        """Add or replace an entry, and evict others if the weight is too large. Returns the evicted keys."""
        if (replaced := self._entries.pop(key, None)) is not None:
            self._weight -= self._weigh(replaced)
        self._entries[key] = value
        self._weight += self._weigh(value)
        gone: list[K] = []
        while self._weight > self._most and len(self._entries) > 1:
            evicted, its = self._entries.popitem(last=False)
            self._weight -= self._weigh(its)
            gone.append(evicted)
        return gone

    def pop(self, key: K) -> V | None:
        """Remove an entry, and return its value, or None."""
        value = self._entries.pop(key, None)
        if value is not None:
            self._weight -= self._weigh(value)
        return value

    def drop(self, key: K) -> None:
        """Remove an entry, if it exists."""
        self.pop(key)

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self._weight = 0


class SharedBounded(Bounded[K, V]):
    """A thread-safe Bounded."""

    def __init__(self, most: int, weigh: Callable[[V], int] = _one) -> None:
        super().__init__(most, weigh)
        self._lock = threading.RLock()  # destructors of values run inside

    def get(self, key: K) -> V | None:
        with self._lock:
            return super().get(key)

    def keep(self, key: K, value: V) -> list[K]:
        with self._lock:
            return super().keep(key, value)

    def pop(self, key: K) -> V | None:
        with self._lock:
            return super().pop(key)

    def clear(self) -> None:
        with self._lock:
            super().clear()
