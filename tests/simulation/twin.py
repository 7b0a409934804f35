"""A real store and the reference in memory, which are told and asked the same. The world looks at the reference, whose
rows are at hand. The engine works with the answers of the real store.

An answer of the real store that is another one than that of the reference ends the world. That needs calls that happen
in one step, so the stores under test make their blocking calls inline.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import Entry, Fenced, MetadataStore
from perdure.storage.writes import Committed
from simulation.clock import fail

UNORDERED: Final = frozenset({"get_runs", "running_runs", "read_specs", "count_pending", "unused_blobs"})
"""Reads whose answers have no order that is promised."""


class Asked(Protocol):
    """Makes the calls of the real store."""

    def __call__(self, call: Callable[[], Awaitable[Any]], name: str) -> Awaitable[Any]: ...


async def at_once(call: Callable[[], Awaitable[Any]], _name: str) -> Any:
    return await call()


class Twin:
    """Implements MetadataStore. `model` outlives this store object, as the data of the real one do."""

    def __init__(self, real: MetadataStore, model: MemoryMetadataStore, asked: Asked = at_once) -> None:
        self._real = real
        self._model = model
        self._asked = asked
        self.is_shared = real.is_shared

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        committed: Committed = await self._asked(lambda: self._real.commit(entries), "commit")
        await self.follow(entries, committed)
        return committed

    async def follow(self, entries: Sequence[Entry], committed: Committed) -> None:
        """Do in the reference what has happened in the real store, under the numbers that it gave."""
        all_ = self._model._all
        if committed.change <= all_.change:
            fail(AssertionError(f"commit {committed.change} came after commit {all_.change}"))
        all_.change = committed.change - 1
        new = [result.sequence for result in committed.results if result.sequence and not result.is_duplicate]
        if new:
            all_.sequence = min(new) - 1
        told = await self._model.commit(entries)
        self._compare("commit", (entries,), committed, told)

    def __getattr__(self, name: str) -> Any:
        real, model = getattr(self._real, name), getattr(self._model, name)

        async def ask(*args: Any, **how: Any) -> Any:
            try:
                found = await self._asked(lambda: real(*args, **how), name)
            except Fenced:
                await self._is_fenced(name, model(*args, **how))
                raise
            self._compare(name, (*args, *how.values()), found, await model(*args, **how))
            return found

        return ask

    async def _is_fenced(self, name: str, asked: Awaitable[object]) -> None:
        try:
            await asked
        except Fenced:
            return
        fail(AssertionError(f"{name} says that a living member is dead"))

    def _compare(self, name: str, args: tuple[Any, ...], found: object, expected: object) -> None:
        if name == "last_change" and self.is_shared:
            return  # other commits have numbers of their own, and may be under way
        if _comparable(name, found) != _comparable(name, expected):
            asked = ", ".join(map(str, args))
            fail(AssertionError(f"{name}({asked}) gave {found} and not {expected}"))


def _comparable(name: str, answer: Any) -> object:
    if isinstance(answer, Mapping):
        return {key: value for key, value in answer.items() if value}
    return sorted(map(repr, answer)) if name in UNORDERED else answer
