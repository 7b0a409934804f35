"""The journal's view of the other engines that write to the same store.

Memory is ahead of the store only while the engine is certainly a member. After that, other engines may have gone on
with its runs: see `fleet.membership`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from perdure.storage.ports import Entry, RunStore
from perdure.storage.writes import AddRun


class Membership(Protocol):
    """This engine among those that write to the store."""

    @property
    def holds(self) -> bool:
        """Whether this engine's lease certainly holds, so that no other engine can have taken over its runs."""
        ...

    async def renew(self) -> None:
        """Renew the lease. Raises StorageError, and Fenced if it is too late."""
        ...

    async def happened(self, entries: Sequence[Entry]) -> Mapping[int, int]:
        """The positions of the entries that certainly took effect, each with the number of a commit not before it.
        `entries` were sent before, in this order, and their answer was lost. Raises StorageError."""
        ...

    def fence(self) -> None:
        """The store says that this engine is no longer a member."""
        ...


class SoleMember:
    """Implements Membership for the only engine over a store. No other engine can take over its runs. But a run that an
    entry adds may exist already; with a `store`, the journal looks for it before it repeats the entry."""

    holds = True

    def __init__(self, store: RunStore | None = None) -> None:
        self._store = store

    async def renew(self) -> None:
        """Do nothing: the membership has no lease."""

    async def happened(self, entries: Sequence[Entry]) -> Mapping[int, int]:
        return await added(self._store, entries) if self._store is not None else {}

    def fence(self) -> None:
        """Do nothing: the journal stops by itself."""


async def added(store: RunStore, entries: Sequence[Entry]) -> dict[int, int]:
    """The entries whose new run exists already: see `Membership.happened`."""
    run_ids = [added_by(entry) for entry in entries]
    wanted = {run_id for run_id in run_ids if run_id}
    rows = {row.run_id: row for row in await store.get_runs(wanted)} if wanted else {}
    return {place: rows[run_id].change for place, run_id in enumerate(run_ids) if run_id in rows}


def added_by(entry: Entry) -> str:
    """The run that the entry makes, "" if it makes none. No two requests make the same one."""
    return next((write.row.run_id for write in entry if isinstance(write, AddRun)), "")
