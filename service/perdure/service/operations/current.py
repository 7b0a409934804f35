"""The run that a request names: the current one of its workflow id or, for a repeat, one that was deleted since."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from perdure import errors
from perdure.service.common.repeat import Repeat, aged
from perdure.service.common.trouble import refusal
from perdure.service.housekeeping.tombstones import DeletedRun, Tombstones
from perdure.service.journal.journal import Journal
from perdure.service.runs.moments import Moments, not_found
from perdure.storage.rows import ACTOR, RunRow


class Current:
    """Finds runs by their workflow ids."""

    def __init__(self, journal: Journal, moments: Moments, tombstones: Tombstones, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._journal = journal
        self._moments = moments
        self._tombstones = tombstones

    def refuse_while_failing(self) -> None:
        """Refuse a request while the store fails, before anything depends on the answer."""
        if self._journal.error is not None:
            raise refusal(self._journal.error) from self._journal.error

    async def row(self, namespace: str, workflow_id: str) -> RunRow:
        """The current run. Raises WorkflowNotFoundError."""
        row = await self._moments.find_current(namespace, workflow_id)
        if row is None:
            raise not_found(namespace, workflow_id)
        return row

    async def named(self, namespace: str, workflow_id: str, repeat: Repeat | None) -> RunRow | DeletedRun:
        """The run that a request is about: the current one, unless the request is a repeat and a run of the id was
        deleted since it was made first. Raises WorkflowNotFoundError."""
        find = partial(self._tombstones.of_workflow, namespace, workflow_id)
        return await self._deleted_or_current(namespace, workflow_id, find, repeat)

    async def of_event(
        self, namespace: str, workflow_id: str, key: str, event_id: str, repeat: Repeat | None
    ) -> RunRow | DeletedRun:
        """As `named`, for a request to send an event: only a deleted run that has had the event counts."""
        find = partial(self._tombstones.of_event, namespace, workflow_id, key, event_id)
        return await self._deleted_or_current(namespace, workflow_id, find, repeat)

    async def _deleted_or_current(
        self,
        namespace: str,
        workflow_id: str,
        find_deleted: Callable[[Repeat | None], Awaitable[DeletedRun | None]],
        repeat: Repeat | None,
    ) -> RunRow | DeletedRun:
        came_ms = self._clock()
        row = await self._moments.find_current(namespace, workflow_id)
        # Looked for after the current run: if that is a later one of the id, the deletion was before it. The look may
        # have taken long.
        if repeat is not None:
            repeat = aged(repeat, self._clock() - came_ms)
        if (deleted := await find_deleted(repeat)) is not None:
            return deleted
        if row is None:
            raise not_found(namespace, workflow_id)
        return row


def check_etag(row: RunRow, expected: str) -> None:
    """Raise EtagMismatchError if the run has changed since its etag was the expected one."""
    if expected and expected != str(row.change):
        raise errors.EtagMismatchError(f"workflow {row.workflow_id!r} has changed", etag=str(row.change))


def check_kind(row: RunRow, kind: str) -> None:
    """Raise WrongKindError unless the run is of this kind, or with "" of any kind but that of actors."""
    if row.kind == kind or (not kind and row.kind != ACTOR):
        return
    what, other = ("an actor", "a workflow") if row.kind == ACTOR else ("a workflow", "an actor")
    raise errors.WrongKindError(
        f"the id {row.workflow_id!r} names {what}, and not {other}", workflow_id=row.workflow_id, kind=row.kind
    )
