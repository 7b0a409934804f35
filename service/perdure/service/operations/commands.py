"""What clients ask to be changed: run, resume, cancel, send an event, delete.

Each method returns once the change is durable, and raises an error of `perdure.errors` if it is
refused, in which case nothing was changed. All may be repeated: ids make the repetition harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Final

from perdure import errors, graphwire, wire
from perdure.engine.failures import run_canceled
from perdure.engine.messages import EventArrived
from perdure.ids import TimeOrderedIds
from perdure.model import Payload, RunStatus
from perdure.service.common.trouble import refusal, refusing
from perdure.service.common.uses import use
from perdure.service.executors.port import Executor
from perdure.service.journal.journal import Journal
from perdure.service.operations.asked import Conflict, NewRun, Reuse, SentEvent
from perdure.service.queue.admission import Admission, Way
from perdure.service.runs.changes import Change, Changes
from perdure.service.runs.letters import cancel_letter, event_letter
from perdure.service.runs.moments import Moments
from perdure.service.runs.scheduler import Scheduler
from perdure.service.runs.values import Values
from perdure.service.runs.views import RunView, count_tasks
from perdure.storage.ports import CorruptData, MetadataStore, StorageError, StorageFull
from perdure.storage.rows import (
    AddEvent,
    AddRun,
    DeleteRun,
    EntryResult,
    RunRow,
    SetDormant,
    SetRun,
    UseBlobs,
    ValueKey,
    Write,
)

ANSWER_S: Final = 20.0
"""An owner that has not ended a run by then is probably dying: the caller is told to ask again."""
TRIES_MAX: Final = 8
"""Races for one workflow id that a request may lose before it is told to try again itself."""


class Commands:
    """Changes runs."""

    def __init__(
        self,
        store: MetadataStore,
        journal: Journal,
        scheduler: Scheduler,
        moments: Moments,
        values: Values,
        changes: Changes,
        executor: Executor,
        admission: Admission,
        *,
        owner: str,
        new_id: Callable[[int], str] | None = None,
        on_delete: Callable[[], None] = lambda: None,
        deliver: Callable[[str, EventArrived], None] | None = None,
    ) -> None:
        self._store = store
        self._journal = journal
        self._scheduler = scheduler
        self._moments = moments
        self._values = values
        self._changes = changes
        self._executor = executor
        self._admission = admission
        self._owner = owner
        self._on_delete = on_delete
        self._deliver = deliver or scheduler.deliver
        self._new_id = new_id or TimeOrderedIds()

    # -------------------------------------------------------------------------- run

    @refusing
    async def submit(self, new: NewRun) -> tuple[RunView, bool]:
        """Record a run and start it. False: it was there, made by this request before or by agreement.

        The insertion itself finds out whether the ids are free, so the common case reads nothing.
        """
        self.refuse_while_failing()
        self._check(new)
        digest = _digest(new)
        replaces = ""
        for _ in range(TRIES_MAX):
            row = self._row(new, digest)
            for way in self._admission.ways(new.namespace, row.run_id):
                if (view := await self._insert(new, row, way, replaces)) is not None:
                    return view, True
                decided = await self._decide(new, row, digest)
                if not way.guards or decided != replaces:
                    break
            else:  # no way; but who asks again for what is there has his answer all the same
                decided = await self._decide(new, row, digest)
                if decided == replaces:
                    raise self._admission.full(new.namespace)
            if isinstance(decided, RunView):
                return decided, False
            replaces = decided
        raise errors.DatabaseUnavailableError("the workflow id changed hands too often while this request tried it")

    def offer(self, new: NewRun) -> asyncio.Future[RunView | None] | None:
        """Append a run to the journal before this returns. None, now or later: nothing was changed, for its ids are
        taken or there is no place for it, and `submit` knows what to do. Raises InvalidSpecError and
        PythonVersionUnsupportedError."""
        self._check(new)
        row = self._row(new, _digest(new))
        for way in self._admission.ways(new.namespace, row.run_id):
            return self._insert(new, row, way, "")
        return None

    def _insert(self, new: NewRun, row: RunRow, way: Way, replaces: str) -> asyncio.Future[RunView | None]:
        """Store a run for which there is a slot or a place. None: its ids are taken, or there is none."""
        if way.status is RunStatus.PENDING:
            row = row.but(status=way.status, start_ms=None)
        inputs = {name: wire.encode_payload(payload) for name, payload in new.inputs.items()}
        row, writes, begun = self._begin(new, row)
        entry = (*way.guards, AddRun(row, new.source.data, inputs, replaces), *use(row.run_id, new.blobs()), *writes)
        inserted: asyncio.Future[RunView | None] = asyncio.get_running_loop().create_future()

        def done(result: EntryResult, change: int) -> None:
            view = None
            if result.is_refused:
                self._admission.withdraw(row)
            else:
                view = begun(change)
            if not inserted.done():
                inserted.set_result(view)

        def trouble(error: Exception) -> None:
            if not inserted.done():
                inserted.set_exception(refusal(error))

        dropped = partial(self._admission.withdraw, row)
        # Anybody starts a run that waits, so by the time of a repetition it may be over and deleted.
        once = self._store.is_shared and row.status is RunStatus.PENDING
        self._journal.append(entry, done, trouble=trouble, droppable=True, dropped=dropped, once=once)
        return inserted

    def _begin(self, new: NewRun, row: RunRow) -> tuple[RunRow, list[Write], Callable[[int], RunView]]:
        """The row as it begins, what its entry stores besides it, and what happens once that is durable."""
        if row.status is RunStatus.PENDING:
            return row, [], lambda change: self._admission.queued(row.but(change=change))
        self._scheduler.specs.keep(row.spec_key, new.source.spec)
        row, writes, begun = self._scheduler.begin(row, new.source.spec)
        if not new.inputs:
            return row, writes, begun

        def then(change: int) -> RunView:
            for name, payload in new.inputs.items():
                self._values.keep(ValueKey(row.run_id, input=name), payload)
            return begun(change)

        return row, writes, then

    async def _decide(self, new: NewRun, row: RunRow, digest: str) -> RunView | str:
        """The ids are taken: give the run that answers the request, or the one it may replace."""
        made = await self._store.find_request(new.namespace, new.request_id) if new.request_id else None
        current = await self._store.find_run(new.namespace, row.workflow_id) if made is None else None
        if current is not None and new.request_id and current.request_id == new.request_id:
            made = current  # the same request, asked elsewhere too, came between the two looks
        if made is not None:
            if made.request_digest != digest and not made.damage:
                raise errors.RequestIdReusedError(
                    f"request id {new.request_id!r} was used with other content", request_id=new.request_id
                )
            return RunView(made)
        if current is None:
            return ""
        if new.is_repeat and not new.request_id and current.request_digest == digest:
            return RunView(current)
        if not current.status.is_final:
            match new.conflict:
                case Conflict.FAIL:
                    raise _already_exists(current)
                case Conflict.USE_EXISTING:
                    return RunView(current)
                case Conflict.CANCEL_EXISTING:
                    await self.cancel(new.namespace, row.workflow_id, "replaced by a new run", "")
                    return current.run_id
        succeeded = current.status is RunStatus.SUCCESSFUL
        if new.reuse is Reuse.REJECT or (new.reuse is Reuse.ALLOW_IF_UNSUCCESSFUL and succeeded):
            raise _already_exists(current)
        return current.run_id

    def _row(self, new: NewRun, digest: str) -> RunRow:
        now_ms = self._scheduler.clock()
        run_id = self._new_id(now_ms)
        return RunRow(
            run_id=run_id,
            namespace=new.namespace,
            workflow_id=new.workflow_id or new.request_id or run_id,
            status=RunStatus.RUNNING,
            spec_key=new.source.key,
            create_ms=now_ms,
            update_ms=now_ms,
            start_ms=now_ms,
            name=new.name,
            request_id=new.request_id,
            request_digest=digest,
            labels=dict(new.labels),
            metadata=new.metadata,
            owner=self._owner,
        )

    def _check(self, new: NewRun) -> None:
        """That the graph can run here and now."""
        if missing := new.source.inputs - new.inputs.keys():
            names = ", ".join(sorted(missing))
            raise errors.InvalidSpecError(f"the graph uses inputs that were not given: {names}")
        for version, node_id in new.source.versions:
            available = self._executor.python_versions()
            if available and version not in available:
                those = ", ".join(sorted(available))
                raise errors.PythonVersionUnsupportedError(
                    f"node {node_id!r} was pickled by Python {version}; the workers have {those}",
                    python_version=version,
                    available=",".join(sorted(available)),
                )

    # -------------------------------------------------------------------------- resume, cancel, delete

    @refusing
    async def resume(
        self, namespace: str, workflow_id: str, etag: str = "", modules: str = "", *, is_repeat: bool = False
    ) -> tuple[RunView, bool]:
        """Let a failed or resumable run go on, with other `modules` if they are given. False: it is at work already.
        A canceled one stays canceled.

        With `is_repeat` the caller may have resumed it before: then a run that was resumed and has ended since is an
        answer, and its etag may have changed."""
        self.refuse_while_failing()
        etag = "" if is_repeat and etag and await self._was_resumed(namespace, workflow_id) else etag
        while True:
            async with self._alone(namespace, workflow_id, etag) as row:
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
                    if is_repeat and row.resume_count:
                        return RunView(row), False
                    raise errors.WorkflowAlreadyFinalError(
                        f"workflow {workflow_id!r} is {row.status} and cannot be resumed", status=str(row.status)
                    )
                moved = await self._go_on(row, modules)
            if moved is not None:
                break  # otherwise somebody else has changed it meanwhile
        if moved.status is RunStatus.RUNNING:
            with suppress(
                StorageError, errors.WorkflowNotFoundError
            ):  # it is resumed, whether its tasks can be counted now or not
                await self._scheduler.when_live(moved.run_id, lambda _live: None)
                now = await self._moments.look(moved, lambda run: count_tasks(run.graph))
                return RunView(now.row, now.taken), True
        return RunView(moved), True

    async def _was_resumed(self, namespace: str, workflow_id: str) -> bool:
        return (await self._current(namespace, workflow_id, "")).resume_count > 0

    async def _go_on(self, row: RunRow, modules: str) -> RunRow | None:
        """Let a run that is not at work be it again, here. None: it is not any more what it was."""
        now_ms = self._scheduler.clock()
        for way in self._admission.ways(row.namespace, row.run_id):
            write = SetRun.of(row, way.status, now_ms, owner=self._owner, code=modules)
            uses = (UseBlobs(row.run_id, (graphwire.package_of(modules).sha256,)),) if modules else ()
            moved = await self._admission.move(row, write, way.guards, uses)
            if moved is not None or not way.guards:
                return moved
        now = await self._store.get_run(row.run_id)
        if now is not None and now.change == row.change:
            raise self._admission.full(row.namespace)
        return None

    @refusing
    async def cancel(
        self, namespace: str, workflow_id: str, reason: str = "", etag: str = "", *, is_repeat: bool = False
    ) -> RunView:
        """End a run. One that is final stays as it is. With `is_repeat` the caller may have canceled it before, and
        that changed its etag."""
        self.refuse_while_failing()
        if is_repeat and etag:
            row = await self._current(namespace, workflow_id, "")
            if row.status is RunStatus.CANCELED:
                return RunView(row)
        while True:
            async with self._alone(namespace, workflow_id, etag) as row:
                if row.status.is_final:
                    return RunView(row)
                now_ms = self._scheduler.clock()
                if row.status is RunStatus.RUNNING:
                    if self._is_elsewhere(row):
                        await self._journal.write((cancel_letter(row.run_id, reason),), droppable=True)
                    else:
                        view = await self._scheduler.cancel(row.run_id, reason)
                        return view if view is not None else RunView(await self._current(namespace, workflow_id, ""))
                else:
                    failure = wire.encode_failure(run_canceled(reason))
                    end = SetRun.of(row, RunStatus.CANCELED, now_ms, failure=failure)
                    moved = await self._admission.move(row, end)
                    if moved is not None:
                        return RunView(moved)
                    continue  # somebody else has changed it meanwhile
            return await self._ended_elsewhere(row)

    async def _ended_elsewhere(self, row: RunRow) -> RunView:
        """Wait until the owner of a run, or its heir, has ended it."""
        async with aclosing(self._changes.stirs(row.run_id, ANSWER_S)) as stirs:
            async for _ in stirs:
                now = await self._store.get_run(row.run_id)
                if now is None or now.status.is_final:
                    return RunView(now or row)
        raise errors.DatabaseUnavailableError(
            f"the engine that owns workflow {row.workflow_id!r} does not answer; its heir will: ask again"
        )

    @refusing
    async def delete(self, namespace: str, workflow_id: str, *, allow_missing: bool = False, etag: str = "") -> None:
        """Remove a run that is final or resumable, with everything that is its own. It makes room, so it is tried
        while the store has none."""
        if not isinstance(self._journal.error, StorageFull):
            self.refuse_while_failing()
        try:
            async with self._alone(namespace, workflow_id, etag) as row:
                if not row.status.is_final and row.status is not RunStatus.RESUMABLE:
                    raise errors.WorkflowStillActiveError(
                        f"workflow {workflow_id!r} is {row.status}; cancel it before you delete it",
                        status=str(row.status),
                    )
                # Nobody changes one that is damaged, and it differs from what is told of it.
                unchanged = () if row.damage else (SetRun.unchanged(row),)
                entry = (*unchanged, DeleteRun(row.run_id))
                result = await self._journal.write(entry, droppable=True, frees=True)
                if result.is_refused and await self._store.get_run(row.run_id) is not None:  # else it was repeated
                    raise errors.EtagMismatchError(f"workflow {workflow_id!r} has changed", etag=str(row.change))
                self._on_delete()
        except errors.WorkflowNotFoundError:
            if allow_missing:
                return
            raise
        self._changes.publish(row.run_id, Change(0, self._scheduler.clock(), namespace, deleted=workflow_id))
        self._changes.stir(row.run_id)

    # -------------------------------------------------------------------------- events

    @refusing
    async def send_event(
        self, namespace: str, workflow_id: str, *, key: str, event_id: str, payload: Payload
    ) -> SentEvent:
        """Record an event for a run and hand it to whoever waits for it. It is kept until somebody does."""
        self.refuse_while_failing()
        row = await self._current(namespace, workflow_id, "")
        if row.status.is_final:
            return await self.find_event(row, key, event_id)
        return await self.offer_event(row, key, event_id, payload)

    @refusing
    async def find_event(self, row: RunRow, key: str, event_id: str) -> SentEvent:
        """An event for a run that is final: the event may have ended it, and its sender may not have heard."""
        sequence = await self._store.find_event(row.run_id, key, event_id)
        if sequence is None:
            raise errors.WorkflowAlreadyFinalError(
                f"workflow {row.workflow_id!r} is {row.status} and takes no events", status=str(row.status)
            )
        return SentEvent(row.run_id, sequence, True, self._scheduler.clock())

    def offer_event(self, row: RunRow, key: str, event_id: str, payload: Payload) -> asyncio.Future[SentEvent]:
        """Append an event for a run that is not final to the journal, before this returns."""
        now_ms = self._scheduler.clock()
        # One that is not at work may be started by anybody, before the event is there.
        is_here = not self._store.is_shared or (row.status is RunStatus.RUNNING and row.owner == self._owner)
        write = AddEvent(row.run_id, event_id, key, wire.encode_payload(payload), now_ms)
        sent: asyncio.Future[SentEvent] = asyncio.get_running_loop().create_future()

        def then(result: EntryResult, _change: int) -> None:
            if not result.sequence:  # it ended and was deleted since the look at it
                if not sent.done():
                    sent.set_exception(_not_found(row.namespace, row.workflow_id))
                return
            # Here and not after the await, since events arrive in the order of commits. A duplicate is handed
            # over too: its first commit may have happened without anybody hearing of it.
            if is_here:
                self._deliver(row.run_id, EventArrived(result.sequence, key, payload, now_ms))
            if not sent.done():
                sent.set_result(SentEvent(row.run_id, result.sequence, result.is_duplicate, now_ms))

        def trouble(error: Exception) -> None:
            if not sent.done():
                sent.set_exception(refusal(error))

        # If the engine dies before the event is handed over, recovery has to look at the run. Among several
        # engines it is handed over some time after its commit, when the run may have fallen asleep again:
        # only a letter stays until that has happened.
        hint: Write = event_letter(row.run_id) if self._store.is_shared else SetDormant(row.run_id, False)
        if not self._store.is_shared:
            self._scheduler.roused(row.run_id)
        entry = (write, *use(row.run_id, payload.blobs()), hint)
        self._journal.append(entry, then, trouble=trouble, droppable=True)
        return sent

    # -------------------------------------------------------------------------- common to all

    def _is_elsewhere(self, row: RunRow) -> bool:
        """Whether another engine is to change this run while it runs, or its heir if it is dead."""
        return self._store.is_shared and row.status is RunStatus.RUNNING and row.owner != self._owner

    def refuse_while_failing(self) -> None:
        """While the store fails, say so before anything depends on the answer."""
        if self._journal.error is not None:
            raise refusal(self._journal.error) from self._journal.error

    @asynccontextmanager
    async def _alone(self, namespace: str, workflow_id: str, etag: str) -> AsyncIterator[RunRow]:
        """The current run of a workflow id, whose state nobody else changes meanwhile."""
        while True:
            before = await self._current(namespace, workflow_id, "")
            async with self._admission.alone(before.run_id):
                if self._store.is_shared:
                    await self._journal.barrier()  # others may have seen more of it than is known here
                row = await self._current(namespace, workflow_id, etag)
                if row.run_id == before.run_id:
                    yield row
                    return

    async def _current(self, namespace: str, workflow_id: str, expected_etag: str) -> RunRow:
        row = await self._moments.find_current(namespace, workflow_id)
        if row is None:
            raise _not_found(namespace, workflow_id)
        if expected_etag and expected_etag != str(row.change):
            raise errors.EtagMismatchError(f"workflow {workflow_id!r} has changed", etag=str(row.change))
        return row


def _digest(new: NewRun) -> str:
    """Tells whether two requests ask for the same."""
    digest = new.source.digest.copy()
    for name in sorted(new.inputs):
        digest.update(f"\0{name}\0".encode())
        digest.update(wire.encode_payload(new.inputs[name]))
    labels = sorted(new.labels.items())
    digest.update(repr((new.workflow_id, new.metadata, labels, new.name)).encode())
    return digest.hexdigest()


def _not_found(namespace: str, workflow_id: str) -> errors.WorkflowNotFoundError:
    return errors.WorkflowNotFoundError(
        f"there is no workflow {workflow_id!r}", namespace=namespace, workflow_id=workflow_id
    )


def _already_exists(row: RunRow) -> errors.WorkflowAlreadyExistsError:
    return errors.WorkflowAlreadyExistsError(
        f"workflow id {row.workflow_id!r} is in use by a run that is {row.status}",
        workflow_id=row.workflow_id,
        run_id=row.run_id,
        status=str(row.status),
        request_id=row.request_id,
    )
