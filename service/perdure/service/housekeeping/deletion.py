"""The deletion of one run, for clients and for the retention."""

from __future__ import annotations

from collections.abc import Callable

from perdure.service.housekeeping.tombstones import Tombstones
from perdure.service.journal.journal import Journal
from perdure.service.runs.changes import Change, Changes
from perdure.storage.rows import ACTOR, RunRow
from perdure.storage.writes import DeleteRun, SetRun


class Deletions:
    """Deletes runs. `on_delete` is called after each deletion, because blobs may be unused now."""

    def __init__(
        self,
        journal: Journal,
        changes: Changes,
        clock: Callable[[], int],
        tombstones: Tombstones,
        *,
        on_delete: Callable[[], None],
    ) -> None:
        self._tombstones = tombstones
        self._journal = journal
        self._changes = changes
        self._clock = clock
        self._on_delete = on_delete

    async def remove(self, row: RunRow) -> bool:
        """Delete a run with everything that belongs to it. False: it has changed since `row` was read, or is gone.
        Raises StorageError. Deletions make room, so they are tried even while the store is full."""
        # A damaged run cannot change, and its stored row differs from `row`.
        unchanged = () if row.damage else (SetRun.unchanged(row),)
        tombstones = await self._tombstones.of_deletion(row)
        result = await self._journal.commit(
            (*unchanged, DeleteRun(row.run_id), *tombstones), droppable=True, frees=True
        )
        self._on_delete()
        return not result.is_refused

    async def remove_unused(self, row: RunRow, last_event: int) -> bool:
        """Delete an active run that does nothing, unless it has an event above this one. False: it has one. Waits until
        that is decided. Raises StorageError if the run was certainly not deleted."""
        tombstones = await self._tombstones.of_deletion(row)
        entry = (DeleteRun(row.run_id, last_event), *tombstones)
        result = await self._journal.commit(entry, patient=True, droppable=True, frees=True)
        if not result.is_refused:
            self._on_delete()
            self.tell(row)
        return not result.is_refused

    def tell(self, row: RunRow) -> None:
        """Tell watchers and waiting calls that the current run of a workflow id is deleted."""
        told = Change(0, self._clock(), row.namespace, deleted=row.workflow_id, of_actor=row.kind == ACTOR)
        self._changes.publish(row.run_id, told)
        self._changes.stir(row.run_id)
