"""Ownership of runs where several engines share a store."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from perdure import errors
from perdure.model import RunStatus
from perdure.service.fleet.letters import cancel_letter
from perdure.service.fleet.membership import Membership
from perdure.service.journal.journal import Journal
from perdure.service.runs.changes import Changes
from perdure.service.runs.ownership import Owner
from perdure.storage.ports import RunStore
from perdure.storage.rows import RunRow

ANSWER_S: Final = 20.0
"""An owner that has not ended a run within this time is probably dying: the caller is told to ask again."""


class AmongSeveral:
    """Implements Ownership for one engine among several."""

    def __init__(self, owner: str, store: RunStore, journal: Journal, changes: Changes, membership: Membership) -> None:
        self.owner = owner
        self._store = store
        self._journal = journal
        self._changes = changes
        self._membership = membership

    def is_ours(self, row: RunRow) -> bool:
        return row.owner == self.owner

    def elsewhere(self, row: RunRow) -> Owner | None:
        if row.status is not RunStatus.RUNNING or row.owner == self.owner:
            return None
        return _Owner(row, self._store, self._journal, self._changes)

    def others_may_start(self) -> bool:
        return True

    def others_may_resume(self) -> bool:
        return True

    async def catch_up(self) -> None:
        """Other engines see a commit in the store before its answer arrives here."""
        await self._journal.barrier()

    def holds_for_s(self) -> float:
        return self._membership.holds_for_s


class _Owner:
    """Implements Owner by letters."""

    def __init__(self, row: RunRow, store: RunStore, journal: Journal, changes: Changes) -> None:
        self._row = row
        self._store = store
        self._journal = journal
        self._changes = changes

    async def ask_to_cancel(self, reason: str) -> None:
        await self._journal.commit((cancel_letter(self._row.run_id, reason),), droppable=True)

    async def ended(self) -> RunRow:
        row = self._row
        async with aclosing(self._changes.stirs(row.run_id, ANSWER_S)) as stirs:
            async for _ in stirs:
                now = await self._store.get_run(row.run_id)
                if now is None or now.status.is_final:
                    return now or row
        raise errors.DatabaseUnavailableError(
            f"the engine that owns workflow {row.workflow_id!r} does not answer; its heir will: ask again"
        )
