"""Answers to repeats of requests whose run was deleted."""

from __future__ import annotations

from typing import Protocol

from perdure.storage.rows import EventName, Tombstone


class TombstoneStore(Protocol):
    """Tombstones by key. Writing and removing them are writes of commits."""

    async def read_tombstone(self, key: str) -> Tombstone | None:
        """A tombstone, expired or not. A damaged one is none."""
        ...

    async def latest_events(self, run_id: str, *, limit: int) -> list[EventName]:
        """The names of the run's events, consumed or not, from the last one on. Raises CorruptData."""
        ...
