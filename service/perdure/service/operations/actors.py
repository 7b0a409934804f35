"""Makes, calls, queries and deletes virtual actors.

A call returns once it is durable, and its result is waited for apart from that. A refused request raises an error of
`perdure.errors` and has changed nothing. Every request may be repeated.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Final, TypeVar

from perdure import actorwire, errors, wire
from perdure.engine.failures import CALL_DROPPED, call_refused, worker_lost
from perdure.engine.machine import Machine, TaskState
from perdure.engine.messages import AttemptLost, StartAttempt, TaskFailed, TaskSucceeded
from perdure.model import (
    ACTOR_DELETED,
    CREATION,
    ActorSpec,
    Call,
    ClassChange,
    Failure,
    MethodCall,
    Payload,
    RunStatus,
    TaskOptions,
    TaskStatus,
    frozen,
)
from perdure.service.common.repeat import Repeat, aged
from perdure.service.common.trouble import refusing
from perdure.service.executors.asking import AskingExecutor
from perdure.service.executors.port import Waiting
from perdure.service.housekeeping.tombstones import DeletedRun
from perdure.service.journal.journal import Journal
from perdure.service.machines.actors import (
    CLASS,
    MAIL,
    ActorView,
    calls_of,
    query_of,
    result_of,
    source_of,
    view_actor,
)
from perdure.service.operations.asked import Conflict, NewEvent, NewRun, Reuse, SentEvent
from perdure.service.operations.current import check_kind
from perdure.service.operations.events import Events
from perdure.service.operations.lifecycle import Lifecycle
from perdure.service.operations.queries import Queries, first_ready
from perdure.service.operations.submit import Submissions
from perdure.service.runs.acting import attempt_of
from perdure.service.runs.changes import Changes, Consumption
from perdure.service.runs.moments import Moments
from perdure.service.runs.ownership import Ownership
from perdure.service.runs.restore import failure_of
from perdure.service.runs.scheduler import Scheduler
from perdure.service.runs.values import Values
from perdure.service.runs.views import TaskView, view_task
from perdure.storage.ports import EventStore
from perdure.storage.rows import ACTOR, RunRow, ValueKey

T = TypeVar("T")

QUERY: Final = ".query/"
"""The beginning of the task ids of queries, which belong to no task."""
SMALL_MAILBOX: Final = 100
"""Up to this bound of a mailbox the store is asked for each call among several engines. Calls that come to them at the
same time may still exceed it by a few, and a larger bound may have some calls more."""
TORN_MAX: Final = 5
"""A query fails once the state that it reads was replaced meanwhile in so many tries."""

UNKNOWN_S: Final = 5.0
"""How long a call that an actor does not know is waited for."""
DROP_S: Final = 2.0
"""How long the end of a call that is dropped is waited for. It comes soon, unless the actor's engine has died."""


@frozen
class CallResult:
    """The result of a call, None if it has not ended, and a revision that contains what it did."""

    value: Payload | Failure | None
    revision: int


_UNDER_WAY: Final = {TaskStatus.SUCCESSFUL: TaskStatus.RUNNING}
NOT_YET: Final = CallResult(None, 0)


class Actors:
    """The operations on actors."""

    def __init__(
        self,
        store: EventStore,
        moments: Moments,
        scheduler: Scheduler,
        changes: Changes,
        submissions: Submissions,
        lifecycle: Lifecycle,
        events: Events,
        queries: Queries,
        executor: AskingExecutor,
        values: Values,
        journal: Journal,
        ownership: Ownership,
        new_id: Callable[[int], str],
    ) -> None:
        self._store = store
        self._moments = moments
        self._scheduler = scheduler
        self._changes = changes
        self._submissions = submissions
        self._lifecycle = lifecycle
        self._events = events
        self._queries = queries
        self._executor = executor
        self._values = values
        self._journal = journal
        self._ownership = ownership
        self._new_id = new_id
        self._offered: Counter[str] = Counter()
        """Calls that are being recorded, by actor."""

    # -------------------------------------------------------------------------- actors

    @refusing
    async def get_or_create(self, new: NewRun) -> tuple[RunRow, bool]:
        """The actor of this id, made first if there is none. True: this request made it."""
        row = await self._moments.find_current(new.namespace, new.workflow_id)
        if row is not None:
            check_kind(row, ACTOR)
            if not row.status.is_final:
                return row, False
            await self._check_replaceable(row)
        new = replace(new, conflict=Conflict.USE_EXISTING, reuse=Reuse.ALLOW_IF_UNSUCCESSFUL)
        view, is_new = await self._submissions.submit(new)
        return view.row, is_new

    async def _check_replaceable(self, row: RunRow) -> None:
        """Raise an error if an actor that takes no calls has a state, which making it anew would lose."""
        if row.status is RunStatus.FAILED and (row.damage or (await self._view(row)).is_created):
            raise _failed(row, "it has a state, so it is not made anew: mend the cause and resume it, or delete it")

    @refusing
    async def row(self, namespace: str, actor_id: str) -> RunRow:
        """The row of an actor."""
        with _NamingActor(namespace, actor_id):
            row = await self._queries.row(namespace, actor_id)
        check_kind(row, ACTOR)
        return row

    @refusing
    async def view(self, row: RunRow) -> tuple[ActorView | None, Waiting | None]:
        """An actor at a durable moment, None if its rows are damaged; and why what has its turn has not begun."""
        if row.damage:
            return None, None

        def read(machine: Machine) -> tuple[ActorView, Waiting | None]:
            ready = first_ready(machine)
            waiting = None if ready is None else self._queries.waiting(row.run_id, ready)
            return view_actor(machine), waiting

        return await self._look(row, read)

    async def _view(self, row: RunRow) -> ActorView:
        return await self._look(row, view_actor)

    async def _look(self, row: RunRow, read: Callable[[Machine], T]) -> T:
        with _NamingActor(row.namespace, row.workflow_id):
            return (await self._moments.look(row, read)).taken

    @refusing
    async def created(self, row: RunRow, wait_s: float) -> RunRow:
        """The row of an actor after waiting up to `wait_s` for the end of its constructor."""
        names = row.namespace, row.workflow_id
        with _NamingActor(*names):
            await self._queries.outcome(*names, task_id=CREATION, run_id=row.run_id, wait_s=wait_s)
            return await self._queries.row(*names, row.run_id)

    @refusing
    async def delete(
        self, namespace: str, actor_id: str, *, allow_missing: bool = False, repeat: Repeat | None = None
    ) -> None:
        """Remove an actor with its state and its calls. Calls that have not ended fail. One that a caller makes anew
        meanwhile stays."""
        try:
            await self.row(namespace, actor_id)
            await self._lifecycle.cancel(namespace, actor_id, "the actor was deleted", repeat=repeat, kind=ACTOR)
            with suppress(errors.WorkflowStillActiveError):
                await self._lifecycle.delete(namespace, actor_id, allow_missing=True, repeat=repeat, kind=ACTOR)
        except (errors.ActorNotFoundError, errors.WorkflowNotFoundError) as error:
            if not allow_missing and repeat is None:
                raise _not_found(namespace, actor_id) from error

    # -------------------------------------------------------------------------- calls

    @refusing
    async def call(
        self, namespace: str, actor_id: str, call: MethodCall, *, wait_s: float, repeat: Repeat | None = None
    ) -> CallResult:
        """Record a call, and return its result after waiting up to `wait_s` for it, but not before it is durable. A
        call of the same id changes nothing."""
        self._events.refuse_while_failing()
        payload = actorwire.encode_call(call)
        came_ms = self._scheduler.clock()
        while True:
            row = await self._named(namespace, actor_id, call.call_id, payload, repeat)
            if row is None:
                return CallResult(ACTOR_DELETED, 0)
            try:
                return await self._call(row, call, payload, wait_s)
            except errors.ActorNotFoundError:  # deleted since the look at it, perhaps with this call
                repeat = aged(repeat, self._scheduler.clock() - came_ms)

    async def _call(self, row: RunRow, call: MethodCall, payload: Payload, wait_s: float) -> CallResult:
        """Record a call. Raises ActorNotFoundError if the actor is deleted before that."""
        until_s = asyncio.get_running_loop().time() + wait_s
        with Consumption(self._changes, row.run_id, call.call_id) as consumption:
            await self._enter(row, call.call_id)
            try:
                sent = await self._offer(row, call.call_id, payload)
            finally:
                self._leave(row.run_id)
            if not wait_s:
                return NOT_YET
            if not sent.is_duplicate and self._ownership.is_ours(row):  # otherwise it may have ended, or ends elsewhere
                # Memory may be ahead of the store, so only what was published is told.
                is_told = await consumption.wait(wait_s) and not self._changes.is_closed
                if is_told and (result := self._told(row, call.call_id)) is not None:
                    return result
        try:
            return await self.result(row, call.call_id, max(until_s - asyncio.get_running_loop().time(), 0))
        except errors.ActorNotFoundError:  # not an error of this request: a client would make the actor anew for it
            return CallResult(ACTOR_DELETED, 0)

    async def _offer(self, row: RunRow, event_id: str, payload: Payload) -> SentEvent:
        """Record a call, or what is to be done with one. Raises ActorNotFoundError if the actor is deleted before."""
        with _NamingActor(row.namespace, row.workflow_id):
            return await self._events.offer(row, MAIL, event_id, payload)

    def _told(self, row: RunRow, call_id: str) -> CallResult | None:
        """The result of a call of which this engine has published that it ended, if it is at hand."""
        live = self._scheduler.memory.find(row.run_id)
        if live is None or live.is_refused or live.at_rest is not None or not self._journal.is_sure:
            return None
        if (found := result_of(live.run, call_id)) is None:
            return None
        task, revision = found
        if task.status is TaskStatus.FAILED:
            return CallResult(task.failure, revision)
        value = self._values.cached(ValueKey(row.run_id, task_id=task.source))
        return CallResult(wire.outcome_payload(value, task.wraps), revision) if value is not None else None

    async def _named(
        self, namespace: str, actor_id: str, event_id: str, payload: Payload, repeat: Repeat | None
    ) -> RunRow | None:
        """The actor that a call is for; None if it has had the call, and was deleted. Raises an error unless it takes
        calls."""
        with _NamingActor(namespace, actor_id):
            row = await self._events.named(namespace, NewEvent(actor_id, MAIL, event_id, payload), repeat)
        if isinstance(row, DeletedRun):
            return None
        check_kind(row, ACTOR)
        if row.status is RunStatus.CANCELED and await self._is_recorded(row.run_id, event_id):
            return None  # it is being deleted
        if row.status.is_final:
            raise _failed(row, "resume it once the cause is mended, or make it anew with get_or_create")
        return row

    async def _enter(self, row: RunRow, call_id: str) -> None:
        """Take a place in the mailbox for a call that is about to be recorded. Raises MailboxFullError if as many wait
        as may, unless this one is a repeat of one of them."""
        run_id = row.run_id
        pending, most = await self._pending(row)
        if pending + self._offered[run_id] >= most and not await self._is_recorded(run_id, call_id):
            raise errors.MailboxFullError(
                f"{most} calls of the actor {row.workflow_id!r} run and wait, which is as many as may",
                actor_id=row.workflow_id,
                max_pending_calls=str(most),
            )
        self._offered[run_id] += 1

    def _leave(self, run_id: str) -> None:
        """The call is recorded, or will not be."""
        self._offered[run_id] -= 1
        if not self._offered[run_id]:
            del self._offered[run_id]

    async def _pending(self, row: RunRow) -> tuple[int, int]:
        """The number of calls that run or wait, and the most that may."""
        live = self._scheduler.memory.find(row.run_id)
        if live is not None:
            view = view_actor(live.run)
            most = view.spec.max_pending_calls
            # Other engines record calls, too, and events come into memory some time after their commits.
            is_behind = self._ownership.others_may_start() and (most < SMALL_MAILBOX or view.pending * 2 >= most)
            return max(view.pending, await self._store.count_calls(row.run_id) if is_behind else 0), most
        definitions = self._scheduler.definitions
        found = await definitions.read(definitions.kinds.of(row), (row.spec_key,))
        return await self._store.count_calls(row.run_id), found[row.spec_key].max_pending_calls

    async def _is_recorded(self, run_id: str, call_id: str) -> bool:
        return await self._store.find_event(run_id, MAIL, call_id) is not None

    @refusing
    async def result(self, row: RunRow, call_id: str, wait_s: float) -> CallResult:
        """The result of a recorded call, after waiting up to `wait_s` for it. TaskNotFoundError for a call that the
        actor does not know: it was never recorded, or its result is not kept any more. Another engine may hear of a new
        call a moment later than the caller, so the error comes after some waiting only."""
        value = await self._ended(row, call_id, min(wait_s, UNKNOWN_S))
        if value is None and wait_s >= UNKNOWN_S and not self._changes.is_closed:  # otherwise it has not waited
            if await self._look(row, lambda run: _known(call_id, run)) is None:
                raise _no_call(row, call_id)
            value = await self._ended(row, call_id, wait_s - UNKNOWN_S)
        return NOT_YET if value is None else CallResult(value, (await self._view(row)).revision)

    async def _ended(self, row: RunRow, call_id: str, wait_s: float) -> Payload | Failure | None:
        """The result of a call after waiting up to `wait_s` for it."""
        names = row.namespace, row.workflow_id
        with _NamingActor(*names):
            view = await self._queries.outcome(*names, task_id=call_id, run_id=row.run_id, wait_s=wait_s)
        return view.value

    @refusing
    async def calls(self, row: RunRow, *, only_pending: bool, after: str, most: int) -> list[TaskView]:
        """Recorded calls after this one ("": from the first): those that ended, then those that run or wait, in the
        order of their turns. If that call is not there any more, from the first."""

        def read(machine: Machine) -> list[TaskView]:
            calls = [call for call in calls_of(machine) if not only_pending or not _has_ended(call)]
            start = next((place for place, call in enumerate(calls, 1) if call.id == after), 0)
            return [self._call_view(row, call) for call in calls[start : start + most]]

        return await self._look(row, read)

    def _call_view(self, row: RunRow, call: TaskState) -> TaskView:
        """A call runs as long as the graph that its method returned."""
        view = view_task(call, self._queries.waiting(row.run_id, call))
        return view if _has_ended(call) else replace(view, status=_UNDER_WAY.get(view.status, view.status))

    @refusing
    async def drop(self, namespace: str, actor_id: str, call_id: str, *, repeat: Repeat | None = None) -> bool:
        """End a call that runs or waits. Returns once that is durable; False: it had ended, or is unknown. A repeat
        tells what the first request did."""
        self._events.refuse_while_failing()
        payload = actorwire.encode_drop(call_id)
        row = await self._named(namespace, actor_id, f".drop/{call_id}", payload, repeat)
        if row is None:
            raise _not_found(namespace, actor_id)
        known = await self._look(row, lambda run: _known(call_id, run))
        # Among several engines a call comes into memory some time after its commit.
        if known is None and not await self._is_recorded(row.run_id, call_id):
            return False
        if known is not None and known.has_ended:
            return repeat is not None and known.is_dropped
        await self._offer(row, f".drop/{call_id}", payload)
        end = (await self.result(row, call_id, DROP_S)).value
        return end is None or (isinstance(end, Failure) and end.type == CALL_DROPPED)

    @refusing
    async def replace_class(
        self, namespace: str, actor_id: str, spec: ActorSpec, request_id: str, *, repeat: Repeat | None = None
    ) -> None:
        """Give an actor another class. Returns once that is durable; a request of the same id changes nothing."""
        self._events.refuse_while_failing()
        self._submissions.check_versions(source_of(spec))
        change = ClassChange(f"{CLASS}{request_id}", spec)
        payload = actorwire.encode_change(change)
        row = await self._named(namespace, actor_id, change.change_id, payload, repeat)
        if row is None:
            raise _not_found(namespace, actor_id)
        await self._offer(row, change.change_id, payload)

    # -------------------------------------------------------------------------- queries

    @refusing
    async def query(self, row: RunRow, call: MethodCall, *, min_revision: int, wait_s: float) -> CallResult:
        """Call a readonly method on the last committed state. Not recorded; a query whose worker is lost is asked
        again, as often as the retry policy of the class allows."""
        lost = torn = 0
        while True:
            row, revision, start, options = await self._snapshot(row, call, min_revision, wait_s)
            end = await self._executor.ask(attempt_of(row, start), limit_ms=options.attempt_timeout_ms)
            match end:
                case TaskSucceeded():
                    return CallResult(end.output, revision)
                case TaskFailed(failure=failure):
                    torn += 1
                    if torn == TORN_MAX or failure.type != "perdure.CorruptData" or await self._is_at(row, revision):
                        return CallResult(failure, revision)
                case AttemptLost():
                    lost += not end.is_free
                    if options.retry.max_attempts != -1 and lost >= options.retry.max_attempts:
                        return CallResult(worker_lost(end.reason), revision)
                case _:
                    return CallResult(call_refused("a query returns a value, and no graph"), revision)

    async def _is_at(self, row: RunRow, revision: int) -> bool:
        return (await self._view(row)).revision == revision

    async def _snapshot(
        self, row: RunRow, call: MethodCall, min_revision: int, wait_s: float
    ) -> tuple[RunRow, int, StartAttempt, TaskOptions]:
        """The attempt of a query on the state of a durable moment, which has at least that revision."""
        async with aclosing(self._changes.stirs(row.run_id, wait_s)) as stirs:
            async for _ in stirs:
                with _NamingActor(row.namespace, row.workflow_id):
                    moment = await self._moments.look(row, query_of)
                row, (view, sources) = moment.row, moment.taken
                if row.status.is_final:
                    raise _failed(row, "resume it once the cause is mended")
                if view.is_created and view.revision >= min_revision:
                    what = Call(view.spec.function, actorwire.encode_call(call))
                    task_id = f"{QUERY}{self._new_id(self._scheduler.clock())}"
                    options = view.spec.options
                    is_limited = options.attempt_timeout_ms is not None
                    start = StartAttempt(
                        task_id, 1, what, options.shape, sources, is_limited=is_limited, callers=call.chain
                    )
                    return row, view.revision, start, options
        raise errors.StartingError(
            f"the actor {row.workflow_id!r} has not reached revision {max(min_revision, 1)} in time"
        )


@frozen
class _Known:
    """A call that an actor knows."""

    has_ended: bool
    is_dropped: bool


def _known(call_id: str, machine: Machine) -> _Known | None:
    call = machine.find_task(call_id)
    if call is None:
        return None
    return _Known(_has_ended(call), call.failure is not None and call.failure.type == CALL_DROPPED)


def _has_ended(call: TaskState) -> bool:
    return call.done or call.status is TaskStatus.FAILED


class _NamingActor:
    """Inside of this context manager, an actor that was deleted since it was found raises ActorNotFoundError."""

    __slots__ = ("_names",)

    def __init__(self, namespace: str, actor_id: str) -> None:
        self._names = namespace, actor_id

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, errors.WorkflowNotFoundError):
            raise _not_found(*self._names) from error


def _not_found(namespace: str, actor_id: str) -> errors.ActorNotFoundError:
    return errors.ActorNotFoundError(f"there is no actor {actor_id!r}", namespace=namespace, actor_id=actor_id)


def _no_call(row: RunRow, call_id: str) -> errors.TaskNotFoundError:
    return errors.TaskNotFoundError(
        f"the actor {row.workflow_id!r} has no call {call_id!r}, or does not keep its result any more",
        workflow_id=row.workflow_id,
        task_id=call_id,
    )


def _failed(row: RunRow, advice: str) -> errors.ActorFailedError:
    why = row.damage
    if not why:
        failure = failure_of(row)
        why = f"{failure.type}: {failure.message}" if failure is not None else "it was deleted"
    return errors.ActorFailedError(
        f"the actor {row.workflow_id!r} is {row.status} and takes no calls ({why}); {advice}",
        actor_id=row.workflow_id,
        status=str(row.status),
    )
