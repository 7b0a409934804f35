"""What clients ask to be changed: run, resume, cancel, send an event, delete.

Each method returns once the change is durable, and raises an error of `perdure.errors` if it is
refused, in which case nothing was changed. All may be repeated: ids make the repetition harmless.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from perdure import errors, wire
from perdure.engine.messages import CancelRequested, EventArrived, ResumeRequested
from perdure.model import Failure, FailureKind, Payload, RunStatus
from perdure.service.changes import Change, Changes
from perdure.service.executors.port import Executor
from perdure.service.journal import Journal
from perdure.service.scheduler import Scheduler, spec_key
from perdure.service.values import Values
from perdure.service.views import Conflict, NewRun, Reuse, RunView, SentEvent
from perdure.storage.ports import MetadataStore
from perdure.storage.rows import AddEvent, AddRun, DeleteRun, EntryResult, RunRow, SetDormant, SetRun, ValueKey

TRIES_MAX: Final = 8
"""Races for one workflow id that a request may lose before it is told to try again itself."""


class Commands:
    """Changes runs."""

    def __init__(
        self,
        store: MetadataStore,
        journal: Journal,
        scheduler: Scheduler,
        values: Values,
        changes: Changes,
        executor: Executor,
        *,
        owner: str,
        new_id: Callable[[int], str] | None = None,
    ) -> None:
        self._store = store
        self._journal = journal
        self._scheduler = scheduler
        self._values = values
        self._changes = changes
        self._executor = executor
        self._owner = owner
        self._new_id = new_id or time_ordered_id

    # -------------------------------------------------------------------------- run

    async def submit(self, new: NewRun) -> tuple[RunView, bool]:
        """Record a run and start it. False: it was there, made by this request before or by agreement.

        The insertion itself finds out whether the ids are free, so the common case reads nothing.
        """
        self._refuse_while_failing()
        self._check(new)
        digest = _digest(new)
        replaces = ""
        for _ in range(TRIES_MAX):
            row = self._row(new, digest)
            if await self._insert(new, row, replaces):
                live = self._scheduler.find_live(row.run_id)
                return (live.view() if live is not None else RunView(row)), True
            decided = await self._decide(new, row, digest)
            if isinstance(decided, RunView):
                return decided, False
            replaces = decided
        raise errors.DatabaseUnavailableError("the workflow id changed hands too often while this request tried it")

    async def _insert(self, new: NewRun, row: RunRow, replaces: str) -> bool:
        self._scheduler.specs.keep(row.spec_key, new.spec)
        live, writes, then = self._scheduler.begin(row, new.spec)
        inputs = {name: wire.encode_payload(payload) for name, payload in new.inputs.items()}
        entry = (AddRun(row, new.spec_bytes, inputs, replaces), *writes)
        inserted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def done(result: EntryResult, change: int) -> None:
            live.row = replace(live.row, change=change)
            if not result.is_refused:
                for name, payload in new.inputs.items():
                    self._values.keep(ValueKey(row.run_id, input=name), payload)
            then(result, change)
            if not inserted.done():
                inserted.set_result(not result.is_refused)

        def trouble(error: Exception) -> None:
            if not inserted.done():
                inserted.set_exception(error)

        self._journal.append(entry, done, trouble=trouble, droppable=True)
        return await inserted

    async def _decide(self, new: NewRun, row: RunRow, digest: str) -> RunView | str:
        """The ids are taken: give the run that answers the request, or the one it may replace."""
        if new.request_id:
            made = await self._store.find_request(new.namespace, new.request_id)
            if made is not None:
                if made.request_digest != digest:
                    raise errors.RequestIdReusedError(
                        f"request id {new.request_id!r} was used with other content", request_id=new.request_id
                    )
                return RunView(made)
        current = await self._store.find_run(new.namespace, row.workflow_id)
        if current is None:
            return ""
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
            spec_key=spec_key(new.spec_bytes),
            create_ms=now_ms,
            update_ms=now_ms,
            start_ms=now_ms,
            name=new.name,
            request_id=new.request_id,
            request_digest=digest,
            labels=dict(new.labels),
            metadata=new.metadata,
            queue=new.queue,
            priority=new.priority,
            owner=self._owner,
        )

    def _check(self, new: NewRun) -> None:
        if missing := new.spec.inputs() - new.inputs.keys():
            names = ", ".join(sorted(missing))
            raise errors.InvalidSpecError(f"the graph uses inputs that were not given: {names}")
        available = self._executor.python_versions()
        if not available:
            return
        names = ", ".join(sorted(available))
        for node in new.spec.nodes:
            version = getattr(getattr(node.action, "function", None), "python_version", "")
            if version and version not in available:
                raise errors.PythonVersionUnsupportedError(
                    f"node {node.id!r} was pickled by Python {version}; the workers have {names}",
                    python_version=version,
                    available=",".join(sorted(available)),
                )

    # -------------------------------------------------------------------------- resume, cancel, delete

    async def resume(self, namespace: str, workflow_id: str, etag: str = "") -> tuple[RunView, bool]:
        """Let a failed or resumable run go on. False: it is at work already. A canceled one stays canceled."""
        self._refuse_while_failing()
        row = await self._current(namespace, workflow_id, etag)
        match row.status:
            case RunStatus.RUNNING | RunStatus.PENDING:
                return RunView(row), False
            case RunStatus.SUCCESSFUL | RunStatus.CANCELED:
                raise errors.WorkflowAlreadyFinalError(
                    f"workflow {workflow_id!r} is {row.status} and cannot be resumed", status=str(row.status)
                )
            case RunStatus.RESUMABLE:
                now_ms = self._scheduler.clock()
                await self._journal.write((SetRun(row.run_id, RunStatus.RUNNING, now_ms, resumed=True),))
                view = await self._scheduler.when_live(
                    row.run_id, lambda live: live.view() if live is not None else None
                )
            case RunStatus.FAILED:
                view = await self._scheduler.apply(row.run_id, ResumeRequested(self._scheduler.clock()))
        if view is None:
            raise _not_found(namespace, workflow_id)
        return view, True

    async def cancel(self, namespace: str, workflow_id: str, reason: str = "", etag: str = "") -> RunView:
        """End a run. One that is final stays as it is."""
        self._refuse_while_failing()
        row = await self._current(namespace, workflow_id, etag)
        if row.status.is_final:
            return RunView(row)
        now_ms = self._scheduler.clock()
        if row.status is RunStatus.RESUMABLE:
            failure = Failure(FailureKind.CANCELED, "perdure.Canceled", reason or "the run was canceled")
            end = SetRun(row.run_id, RunStatus.CANCELED, now_ms, failure=wire.encode_failure(failure))
            await self._journal.write((end,))
            self._changes.stir(row.run_id)
            return RunView(await self._current(namespace, workflow_id, ""))
        view = await self._scheduler.apply(row.run_id, CancelRequested(reason, now_ms))
        return view if view is not None else RunView(await self._current(namespace, workflow_id, ""))

    async def delete(self, namespace: str, workflow_id: str, *, allow_missing: bool = False, etag: str = "") -> None:
        """Remove a run that is final or resumable, with everything that is its own."""
        self._refuse_while_failing()
        try:
            row = await self._current(namespace, workflow_id, etag)
        except errors.WorkflowNotFoundError:
            if allow_missing:
                return
            raise
        if not row.status.is_final and row.status is not RunStatus.RESUMABLE:
            raise errors.WorkflowStillActiveError(
                f"workflow {workflow_id!r} is {row.status}; cancel it before you delete it", status=str(row.status)
            )
        await self._journal.write((DeleteRun(row.run_id),), droppable=True)
        self._changes.publish(row.run_id, Change(0, self._scheduler.clock(), namespace, deleted=workflow_id))
        self._changes.stir(row.run_id)

    # -------------------------------------------------------------------------- events

    async def send_event(
        self, namespace: str, workflow_id: str, *, key: str, event_id: str, payload: Payload
    ) -> SentEvent:
        """Record an event for a run and hand it to whoever waits for it. It is kept until somebody does."""
        self._refuse_while_failing()
        row = await self._current(namespace, workflow_id, "")
        now_ms = self._scheduler.clock()
        if row.status.is_final:
            # The event may have ended it, and its sender may not have heard.
            sequence = await self._store.find_event(row.run_id, key, event_id)
            if sequence is None:
                raise errors.WorkflowAlreadyFinalError(
                    f"workflow {workflow_id!r} is {row.status} and takes no events", status=str(row.status)
                )
            return SentEvent(row.run_id, sequence, True, False, now_ms)
        write = AddEvent(row.run_id, event_id, key, wire.encode_payload(payload), now_ms)
        sent: asyncio.Future[EntryResult] = asyncio.get_running_loop().create_future()

        def then(result: EntryResult, _change: int) -> None:
            # Here and not after the await, since events arrive in the order of commits. A duplicate is handed
            # over too: its first commit may have happened without anybody hearing of it.
            self._scheduler.deliver(row.run_id, EventArrived(result.sequence, key, payload, now_ms))
            if not sent.done():
                sent.set_result(result)

        def trouble(error: Exception) -> None:
            if not sent.done():
                sent.set_exception(error)

        # Not dormant: if the engine dies before the event is handed over, recovery has to look at the run.
        self._scheduler.roused(row.run_id)
        entry = (write, SetDormant(row.run_id, False))
        self._journal.append(entry, then, trouble=trouble, droppable=True)
        result = await sent
        return SentEvent(row.run_id, result.sequence, result.is_duplicate, False, now_ms)

    # -------------------------------------------------------------------------- common to all

    def _refuse_while_failing(self) -> None:
        """While the store fails, say so before anything depends on the answer."""
        if self._journal.error is not None:
            raise self._journal.error

    async def _current(self, namespace: str, workflow_id: str, expected_etag: str) -> RunRow:
        row = self._scheduler.find_row(namespace, workflow_id)
        if row is None:
            row = await self._store.find_run(namespace, workflow_id)
        if row is None:
            raise _not_found(namespace, workflow_id)
        if expected_etag and expected_etag != str(row.change):
            raise errors.EtagMismatchError(f"workflow {workflow_id!r} has changed", etag=str(row.change))
        return row


def time_ordered_id(now_ms: int) -> str:
    """A UUIDv7 (RFC 9562): sorts by time, random otherwise."""
    value = (now_ms & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _digest(new: NewRun) -> str:
    """Tells whether two requests ask for the same."""
    digest = hashlib.sha256(new.spec_bytes)
    for name in sorted(new.inputs):
        digest.update(f"\0{name}\0".encode())
        digest.update(wire.encode_payload(new.inputs[name]))
    labels = sorted(new.labels.items())
    digest.update(repr((new.workflow_id, new.metadata, labels, new.queue, new.priority, new.name)).encode())
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
