"""Resumes, cancels and deletes runs.

Each method returns once the change is durable. A refused request raises an error of `perdure.errors` and has changed
nothing. Every request may be repeated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from perdure import errors, snapshots, wire
from perdure.engine.failures import run_canceled
from perdure.model import RunStatus
from perdure.service.common.repeat import Repeat, aged
from perdure.service.common.trouble import refusing
from perdure.service.housekeeping.deletion import Deletions
from perdure.service.housekeeping.tombstones import DeletedRun
from perdure.service.journal.journal import Journal
from perdure.service.operations.current import Current, check_etag, check_kind
from perdure.service.queue.moves import Moves
from perdure.service.queue.slots import Slots, ways_of
from perdure.service.runs.moments import Moments, not_found
from perdure.service.runs.ownership import Ownership
from perdure.service.runs.scheduler import Scheduler
from perdure.service.runs.views import RunView, count_tasks
from perdure.storage.ports import CorruptData, RunStore, StorageError, StorageFull
from perdure.storage.rows import RunRow
from perdure.storage.writes import SetRun, UseBlobs


class Lifecycle:
    """Changes the state of runs that exist."""

    def __init__(
        self,
        store: RunStore,
        journal: Journal,
        scheduler: Scheduler,
        moments: Moments,
        slots: Slots,
        moves: Moves,
        deletions: Deletions,
        current: Current,
        ownership: Ownership,
    ) -> None:
        self._store = store
        self._journal = journal
        self._scheduler = scheduler
        self._moments = moments
        self._slots = slots
        self._moves = moves
        self._deletions = deletions
        self._current = current
        self._ownership = ownership

    @refusing
    async def resume(
        self,
        namespace: str,
        workflow_id: str,
        etag: str = "",
        modules: str = "",
        *,
        repeat: Repeat | None = None,
    ) -> tuple[RunView, bool]:
        """Let a failed or resumable run go on, with other `modules` if they are given. False: it is at work already.
        A canceled one stays canceled.

        The caller of a repeat may have resumed it before: then a run that was resumed and has ended since is an
        answer, and its etag may have changed. So is one that was resumed and was deleted since. The next run of the id
        is not resumed."""
        self._current.refuse_while_failing()
        while True:
            async with self._alone(namespace, workflow_id, repeat) as row:
                if isinstance(row, DeletedRun):
                    return _resumed_before(row.row), False
                if repeat is None or not row.resume_count:
                    check_etag(row, etag)
                if row.status in (RunStatus.RUNNING, RunStatus.PENDING):
                    if modules and row.code_version != modules:
                        raise errors.WorkflowStillActiveError(
                            f"workflow {workflow_id!r} is {row.status}, and a run that is at work keeps its modules; "
                            "cancel it, or wait",
                            status=str(row.status),
                        )
                    return RunView(row), False
                if row.damage:
                    raise CorruptData(row.damage, subject=row.run_id)
                if row.status in (RunStatus.SUCCESSFUL, RunStatus.CANCELED):
                    if repeat is not None and row.resume_count:
                        return RunView(row), False
                    raise errors.WorkflowAlreadyFinalError(
                        f"workflow {workflow_id!r} is {row.status} and cannot be resumed", status=str(row.status)
                    )
                moved = await self._go_on(row, modules)
            if moved is not None:
                break  # otherwise another request has changed the run
        if moved.status is RunStatus.RUNNING:
            with suppress(
                StorageError, errors.WorkflowNotFoundError
            ):  # it is resumed, whether its tasks can be counted now or not
                await self._scheduler.when_live(moved.run_id, lambda _live: None)
                now = await self._moments.look(moved, count_tasks)
                return RunView(now.row, now.taken), True
        return RunView(moved), True

    async def _go_on(self, row: RunRow, modules: str) -> RunRow | None:
        """Make a run that is not at work RUNNING or PENDING again, owned here. None: the run has changed since
        `row` was read."""
        now_ms = self._scheduler.clock()
        for way in ways_of(self._slots, row):
            write = SetRun.of(row, way.status, now_ms, owner=self._ownership.owner, code=modules)
            uses = (UseBlobs(row.run_id, (snapshots.package_of(modules).sha256,)),) if modules else ()
            moved = await self._moves.move(row, write, way.guards, uses)
            if moved is not None or not way.guards:
                return moved
        now = await self._store.get_run(row.run_id)
        if now is not None and now.change == row.change:
            raise self._slots.capacity.exceeded(row.namespace)
        return None

    @refusing
    async def cancel(
        self,
        namespace: str,
        workflow_id: str,
        reason: str = "",
        etag: str = "",
        *,
        repeat: Repeat | None = None,
        kind: str = "",
    ) -> RunView:
        """End a run of this kind, "" for all but actors. One that is final stays as it is. The caller of a repeat may
        have canceled it before, and that changed its etag. If it was deleted since, the next run of the id goes on."""
        self._current.refuse_while_failing()
        while True:
            async with self._alone(namespace, workflow_id, repeat) as row:
                if isinstance(row, DeletedRun):
                    return RunView(row.row)
                check_kind(row, kind)
                if repeat is None or row.status is not RunStatus.CANCELED:
                    check_etag(row, etag)
                if row.status.is_final:
                    return RunView(row)
                now_ms = self._scheduler.clock()
                if row.status is RunStatus.RUNNING:
                    owner = self._ownership.elsewhere(row)
                    if owner is None:
                        view = await self._scheduler.cancel(row.run_id, reason)
                        return view if view is not None else RunView(await self._current.row(namespace, workflow_id))
                    await owner.ask_to_cancel(reason)
                else:
                    failure = wire.encode_failure(run_canceled(reason))
                    end = SetRun.of(row, RunStatus.CANCELED, now_ms, failure=failure)
                    moved = await self._moves.move(row, end)
                    if moved is not None:
                        return RunView(moved)
                    continue  # another request has changed the run
            return RunView(await owner.ended())

    @refusing
    async def delete(
        self,
        namespace: str,
        workflow_id: str,
        *,
        allow_missing: bool = False,
        etag: str = "",
        repeat: Repeat | None = None,
        kind: str = "",
    ) -> None:
        """Remove a run of this kind, "" for all but actors, that is final or resumable, with everything that is its
        own. It makes room, so it is tried while the store has none. A repeat may find it missing, and does not remove
        the next run of the id."""
        if not isinstance(self._journal.error, StorageFull):
            self._current.refuse_while_failing()
        try:
            async with self._alone(namespace, workflow_id, repeat) as row:
                if isinstance(row, DeletedRun):
                    return
                check_kind(row, kind)
                check_etag(row, etag)
                if not row.status.is_final and row.status is not RunStatus.RESUMABLE:
                    raise errors.WorkflowStillActiveError(
                        f"workflow {workflow_id!r} is {row.status}; cancel it before you delete it",
                        status=str(row.status),
                    )
                is_removed = await self._deletions.remove(row)
                if not is_removed and await self._store.get_run(row.run_id) is not None:  # else it was repeated
                    raise errors.EtagMismatchError(f"workflow {workflow_id!r} has changed", etag=str(row.change))
        except errors.WorkflowNotFoundError:
            if allow_missing or repeat is not None:
                return
            raise
        self._deletions.tell(row)

    @asynccontextmanager
    async def _alone(
        self, namespace: str, workflow_id: str, repeat: Repeat | None
    ) -> AsyncIterator[RunRow | DeletedRun]:
        """The run that a request names. One that exists is locked against state changes by other requests to this
        engine."""
        came_ms = self._scheduler.clock()
        while True:
            before = await self._current.named(namespace, workflow_id, repeat)
            if isinstance(before, DeletedRun):
                yield before
                return
            async with self._moves.alone(before.run_id):
                await self._ownership.catch_up()
                if repeat is not None:
                    repeat, came_ms = aged(repeat, self._scheduler.clock() - came_ms), self._scheduler.clock()
                row = await self._current.named(namespace, workflow_id, repeat)
                if isinstance(row, DeletedRun) or row.run_id == before.run_id:
                    yield row
                    return


def _resumed_before(deleted: RunRow) -> RunView:
    """The answer of a repeated resumption about a deleted run. Raises WorkflowNotFoundError if it was never resumed."""
    if not deleted.resume_count:
        raise not_found(deleted.namespace, deleted.workflow_id)
    return RunView(deleted)
