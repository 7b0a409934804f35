"""A mapping that forgets: a cache bounded by weight, which evicts the least recently used entries first (LRU)."""

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
    """At most `most` of weight in all; without `weigh`, that is the number of entries.

    The entry that was kept last always stays, however heavy it is: who kept it is about to use it. Not for several
    threads without a lock.
    """

    def __init__(self, most: int, weigh: Callable[[V], int] = _one) -> None:
        self._most = most
        self._weigh = weigh
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._weight = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        """Looking whether an entry is there is no use of it."""
        return key in self._entries

    def get(self, key: K) -> V | None:
        """The value, None if there is none (any more). It is now the most recently used one."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def keep(self, key: K, value: V) -> None:
        """Add or replace an entry, and evict others if that is too much."""
        self.drop(key)
        self._entries[key] = value
        self._weight += self._weigh(value)
        while self._weight > self._most and len(self._entries) > 1:
            _, evicted = self._entries.popitem(last=False)
            self._weight -= self._weigh(evicted)

    def drop(self, key: K) -> None:
        """Forget an entry, if it is there."""
        value = self._entries.pop(key, None)
        if value is not None:
            self._weight -= self._weigh(value)

    def clear(self) -> None:
        """Forget all entries."""
        self._entries.clear()
        self._weight = 0


class SharedBounded(Bounded[K, V]):
    """The same for several threads at once."""

    def __init__(self, most: int, weigh: Callable[[V], int] = _one) -> None:
        super().__init__(most, weigh)
        self._lock = threading.RLock()  # `keep` calls `drop`

    def get(self, key: K) -> V | None:
        with self._lock:
            return super().get(key)

    def keep(self, key: K, value: V) -> None:
        with self._lock:
            super().keep(key, value)

    def drop(self, key: K) -> None:
        with self._lock:
            super().drop(key)

    def clear(self) -> None:
        with self._lock:
            super().clear()
