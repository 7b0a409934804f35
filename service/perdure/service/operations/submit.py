"""Records and starts runs.

A request returns once the run is durable. A refused request raises an error of `perdure.errors` and has changed
nothing. Every request may be repeated: its ids make it idempotent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from perdure import errors, wire
from perdure.bounded import Bounded
from perdure.ids import TimeOrderedIds
from perdure.model import RunStatus
from perdure.service.common.aside import aside
from perdure.service.common.repeat import aged
from perdure.service.common.trouble import refusing
from perdure.service.executors.port import Executor
from perdure.service.housekeeping.tombstones import Attachment, Tombstones
from perdure.service.journal.journal import Journal
from perdure.service.machines.source import RunSource
from perdure.service.operations.asked import Conflict, NewRun, Reuse
from perdure.service.operations.current import Current, check_kind
from perdure.service.operations.lifecycle import Lifecycle
from perdure.service.queue.moves import Moves
from perdure.service.queue.slots import Slots, Way, ways_of
from perdure.service.runs.live import Begun, begin_run
from perdure.service.runs.ownership import Ownership
from perdure.service.runs.scheduler import Scheduler
from perdure.service.runs.values import Values
from perdure.service.runs.views import RunView
from perdure.storage.ports import RunStore
from perdure.storage.rows import ACTOR, RunRow, ValueKey
from perdure.storage.writes import AddRun, EntryResult, Write

TRIES_MAX: Final = 8
"""Races for one workflow id that a request may lose before its caller is told to try again."""

INPUTS_SHOWN: Final = 10
"""An error about an input names so many of those that the graph uses."""

ATTACHED_MAX: Final = 1_000
"""Requests of which this engine remembers which run they attached to. The store keeps it for repeats elsewhere."""


class Submissions:
    """Records runs and starts them. `lifecycle` cancels the run that a new one replaces."""

    def __init__(
        self,
        store: RunStore,
        journal: Journal,
        scheduler: Scheduler,
        values: Values,
        executor: Executor,
        slots: Slots,
        moves: Moves,
        tombstones: Tombstones,
        current: Current,
        lifecycle: Lifecycle,
        ownership: Ownership,
        *,
        new_id: Callable[[int], str] | None = None,
    ) -> None:
        self._store = store
        self._journal = journal
        self._scheduler = scheduler
        self._values = values
        self._executor = executor
        self._slots = slots
        self._moves = moves
        self._tombstones = tombstones
        self._current = current
        self._lifecycle = lifecycle
        self._ownership = ownership
        self._new_id = new_id or TimeOrderedIds()
        self._attached: Bounded[tuple[str, str], Attachment] = Bounded(ATTACHED_MAX)

    @refusing
    async def submit(self, new: NewRun) -> tuple[RunView, bool]:
        """Record a run and start it. False: the run was there before, from the same request or by the policy asked for.

        The insertion itself finds out whether the ids are free, so the common case reads nothing.
        """
        self._current.refuse_while_failing()
        self._check(new)
        digest = _digest(new)
        may_have_attached = new.repeat is not None and new.conflict is Conflict.USE_EXISTING
        view = await self._attached_before(new, digest, is_stored=may_have_attached)
        view = view or await self._made_before(new, digest)
        if view is not None:
            return view, False
        replaces = ""
        for _ in range(TRIES_MAX):
            row = self._row(new, digest)
            begun = await aside(partial(begin_run, row, new.source)) if new.source.is_large else None
            for way in ways_of(self._slots, row):
                if (view := await self._insert(new, row, way, replaces, begun)) is not None:
                    return view, True
                decided = await self._decide(new, row, digest)
                if not way.guards or decided != replaces:
                    break
            else:  # the queue is full, but a repeated request is still answered
                decided = await self._decide(new, row, digest)
                if decided == replaces:
                    raise self._slots.capacity.exceeded(new.namespace)
            if isinstance(decided, RunView):
                return await self._attach(new, digest, decided), False
            replaces = decided
        raise errors.DatabaseUnavailableError("the workflow id changed hands too often while this request tried it")

    async def made_by(self, new: NewRun) -> RunView | None:
        """The run that an earlier request with the same id and content made or attached to; None if there is none."""
        digest = _digest(new)
        if not new.request_id:
            current = await self._store.find_run(new.namespace, new.workflow_id) if new.repeat is not None else None
            return RunView(current) if current is not None and current.request_digest == digest else None
        if (view := await self._attached_before(new, digest, is_stored=True)) is not None:
            return view
        made = await self._store.find_request(new.namespace, new.request_id)
        if made is not None:
            return RunView(made) if made.request_digest == digest else None
        return await self._made_before(new, digest)

    def refuse_while_failing(self) -> None:
        """Refuse a request while the store fails, before anything depends on the answer."""
        self._current.refuse_while_failing()

    def offer(self, new: NewRun) -> asyncio.Future[RunView | None] | None:
        """Append a run to the journal before this returns. None, at once or as the result: nothing was changed, since
        the ids are taken, there is no place, the graph is large or it is a repeat, and `submit` decides what follows.
        The view has no counts of tasks, because answers to batches have none.
        Raises InvalidSpecError, InvalidFieldError and PythonVersionUnsupportedError."""
        self._check(new)
        if new.source.is_large or new.repeat is not None or (new.namespace, new.request_id) in self._attached:
            return None
        row = self._row(new, _digest(new))
        for way in ways_of(self._slots, row):
            return self._insert(new, row, way, "", counts_tasks=False)
        return None

    def _insert(
        self,
        new: NewRun,
        row: RunRow,
        way: Way,
        replaces: str,
        begun: Begun | None = None,
        *,
        counts_tasks: bool = True,
    ) -> asyncio.Future[RunView | None]:
        """Store a run for which there is a slot or a place. None: its ids are taken, or there is none. `begun` is the
        run if it was made already."""
        writes: Iterable[Write] = ()
        if way.status is RunStatus.PENDING:
            row, begun = row.but(status=way.status, start_ms=None), None  # it begins when there is a slot
        else:
            self._scheduler.definitions.keep(new.source.kind, row.spec_key, new.source.definition)
            begun = begun or begin_run(row, new.source)
            row, writes = begun.live.row, (*begun.plan.early, *begun.plan.writes)
        inputs = {name: wire.encode_payload(payload) for name, payload in new.inputs.items()}
        add = AddRun(row, new.source.data, inputs, replaces, new.source.blob_names)
        entry = (*way.guards, add, *new.uses(row.run_id), *writes)

        def then(result: EntryResult, change: int) -> RunView | None:
            if result.is_refused:
                self._slots.withdraw(row)
                return None
            if begun is None:
                return self._moves.queued(row.but(change=change))
            for name, payload in new.inputs.items():
                self._values.keep(ValueKey(row.run_id, input=name), payload)
            live = self._scheduler.begin(begun, change)
            return live.view() if counts_tasks else RunView(live.row)

        dropped = partial(self._slots.withdraw, row)
        # Another engine may start a pending run, so it may be over and deleted when the entry is repeated.
        once = row.status is RunStatus.PENDING and self._ownership.others_may_start()
        return self._journal.commit(entry, then, droppable=True, dropped=dropped, once=once)

    async def _attach(self, new: NewRun, digest: str, view: RunView) -> RunView:
        """Answer a request with a run that was there. If another request made it, no row says which run the answer was,
        so that is stored first: repeats may come after a restart, or to another engine."""
        name = new.namespace, new.request_id
        if new.request_id and view.row.request_id != new.request_id and name not in self._attached:
            await self._journal.commit(self._tombstones.of_attaching(new.request_id, digest, view.row), droppable=True)
            self._attached.keep(name, Attachment(view.row, digest))
        return view

    async def _attached_before(self, new: NewRun, digest: str, *, is_stored: bool) -> RunView | None:
        """The run that the same request attached to. It may have ended or be gone since. `is_stored`: the store is
        asked if this engine does not remember it."""
        if not new.request_id:
            return None
        known = self._attached.get((new.namespace, new.request_id))
        if known is None and is_stored:
            known = await self._tombstones.attachment(new.namespace, new.request_id)
        if known is None:
            return None
        if known.digest != digest:
            raise _reused(new)
        self._attached.keep((new.namespace, new.request_id), known)
        return RunView(await self._store.get_run(known.row.run_id) or known.row)

    async def _made_before(self, new: NewRun, digest: str) -> RunView | None:
        """The run that the first call of a repeated request made, although it was deleted since. A repeat inserts
        nothing if there is one, because the run may be deleted just before the insertion."""
        if new.repeat is None or not new.repeat.surely_since_ms or not new.request_id:
            return None
        # The run is looked for before its tombstone: one of both is found, whenever it is deleted.
        came_ms = self._scheduler.clock()
        made = await self._store.find_request(new.namespace, new.request_id)
        if made is None:
            repeat = aged(new.repeat, self._scheduler.clock() - came_ms)
            deleted = await self._tombstones.of_request(new.namespace, new.request_id, repeat)
            made = None if deleted is None else deleted.row
        return RunView(made) if made is not None and made.request_digest == digest else None

    async def _decide(self, new: NewRun, row: RunRow, digest: str) -> RunView | str:
        """The ids are taken: return the run that answers the request, or the id of the one it may replace."""
        made = await self._store.find_request(new.namespace, new.request_id) if new.request_id else None
        current = await self._store.find_run(new.namespace, row.workflow_id) if made is None else None
        if current is not None and new.request_id and current.request_id == new.request_id:
            made = current  # the same request, made to another engine, came between the two reads
        if made is not None:
            if made.request_digest != digest and not made.damage:
                raise _reused(new)
            return RunView(made)
        if current is None:
            return ""
        check_kind(current, ACTOR if new.source.kind.name == ACTOR else "")
        is_stored = new.conflict is Conflict.USE_EXISTING
        if (before := await self._attached_before(new, digest, is_stored=is_stored)) is not None:
            return before
        if new.repeat is not None:
            if not new.request_id and current.request_digest == digest:
                return RunView(current)
            asked_ms = self._scheduler.clock() - new.repeat.since_ms
            if new.conflict is Conflict.USE_EXISTING and (current.end_ms or 0) > asked_ms:
                return RunView(
                    current
                )  # it was active when the call was first made, and the call may have attached to it
        if not current.status.is_final:
            match new.conflict:
                case Conflict.FAIL:
                    raise _already_exists(current)
                case Conflict.USE_EXISTING:
                    return RunView(current)
                case Conflict.CANCEL_EXISTING:
                    await self._lifecycle.cancel(new.namespace, row.workflow_id, "replaced by a new run", "")
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
            kind=new.source.kind.name,
            spec_key=new.source.key,
            create_ms=now_ms,
            update_ms=now_ms,
            start_ms=now_ms,
            name=new.name,
            request_id=new.request_id,
            request_digest=digest if new.source.kind.name != ACTOR else "",  # any request gets the actor that is there
            labels=dict(new.labels),
            metadata=new.metadata,
            owner=self._ownership.owner,
        )

    def _check(self, new: NewRun) -> None:
        """Raise an error unless the graph can run here and now."""
        if unused := new.inputs.keys() - new.source.inputs:  # a misspelt one, of which another one is missing
            raise _unused(min(unused), new.source.inputs)
        if missing := new.source.inputs - new.inputs.keys():
            names = ", ".join(sorted(missing))
            raise errors.InvalidSpecError(f"the graph uses inputs that were not given: {names}", input=min(missing))
        self.check_versions(new.source)

    def check_versions(self, source: RunSource) -> None:
        """Raises PythonVersionUnsupportedError if no worker has the Python version of pickled code."""
        available = self._executor.python_versions()
        for version, place in source.versions:
            if available and version not in available:
                those = ", ".join(sorted(available))
                raise errors.PythonVersionUnsupportedError(
                    f"{place} was pickled by Python {version}; the workers have {those}",
                    python_version=version,
                    available=",".join(sorted(available)),
                )


def _digest(new: NewRun) -> str:
    """Tells whether two requests ask for the same."""
    digest = new.source.digest.copy()
    for name in sorted(new.inputs):
        digest.update(f"\0{name}\0".encode())
        digest.update(wire.encode_payload(new.inputs[name]))
    labels = sorted(new.labels.items())
    digest.update(repr((new.workflow_id, new.metadata, labels, new.name)).encode())
    return digest.hexdigest()


def _unused(name: str, used: Iterable[str]) -> errors.InvalidFieldError:
    names = sorted(used)
    shown = ", ".join(map(repr, names[:INPUTS_SHOWN])) + (", ..." if len(names) > INPUTS_SHOWN else "")
    uses = f"it uses {shown}" if names else "it uses none"
    return errors.InvalidFieldError(f"inputs: the graph uses no input {name!r}; {uses}", field="inputs")


def _reused(new: NewRun) -> errors.RequestIdReusedError:
    return errors.RequestIdReusedError(
        f"request id {new.request_id!r} was used with other content", request_id=new.request_id
    )


def _already_exists(row: RunRow) -> errors.WorkflowAlreadyExistsError:
    if not row.status.is_final:
        advice = "attach to it with id_conflict 'use_existing', replace it with 'cancel_existing'"
    elif row.status is RunStatus.SUCCESSFUL:
        advice = "read its output, start a new run of this id with id_reuse 'allow'"
    else:
        advice = "start a new run of this id with id_reuse 'allow_if_unsuccessful' or 'allow'"
    return errors.WorkflowAlreadyExistsError(
        f"workflow id {row.workflow_id!r} is in use by a run that is {row.status}; {advice}, or choose another id",
        workflow_id=row.workflow_id,
        run_id=row.run_id,
        status=str(row.status),
        request_id=row.request_id,
    )
