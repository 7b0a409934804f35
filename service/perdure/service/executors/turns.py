"""A queue of attempts in which runs take turns, so that a run with very many does not hold up the others.

The attempts of one run keep their order. Every operation takes the same time however many wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")

Key: TypeAlias = tuple[str, str, int]
"""The key of an attempt: run, task, number."""


class Turns(Generic[T]):
    """Waiting items by the key of their attempt; runs take turns. Not thread-safe."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, OrderedDict[Key, T]] = OrderedDict()  # the next one to have a turn first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        """Everything that waits, run by run."""
        for attempts in self._runs.values():
            yield from attempts.values()

    def add(self, key: Key, item: T, *, first: bool = False) -> None:
        """At the end of what waits of its run, or before everything else. A key waits once."""
        attempts = self._runs.get(key[0])
        if attempts is None:
            attempts = self._runs[key[0]] = OrderedDict()
        self._count += key not in attempts
        attempts[key] = item
        if first:
            attempts.move_to_end(key, last=False)
            self._runs.move_to_end(key[0], last=False)

    def drop(self, key: Key) -> T | None:
        """Take one out; None if it does not wait."""
        attempts = self._runs.get(key[0])
        if attempts is None or key not in attempts:
            return None
        item = attempts.pop(key)
        self._count -= 1
        if not attempts:
            del self._runs[key[0]]
        return item

    def head(self) -> T:
        """The item that `take` would return."""
        return next(iter(next(iter(self._runs.values())).values()))

    def take(self) -> T:
        """Remove and return the first item of the run whose turn it is. Raises KeyError if there is none."""
        run_id, attempts = self._runs.popitem(last=False)
        _, item = attempts.popitem(last=False)
        self._count -= 1
        if attempts:
            self._runs[run_id] = attempts
        return item
