"""Watch: the state of runs and tasks after each change, live and without a gap.

A resume token is a place among the commits, as in `places`. A call with a token first reads from the store the runs and
tasks that changed since, each in its current state, and then listens. The subscription is opened before the read, and
changes that both deliver are sent once. States between two reads may be skipped, the last one never is. Messages stay
within the size limit of clients. A client can resume after any message, also after a long absence.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from perdure import errors, wire
from perdure.model import TaskStatus
from perdure.service.api import answers, places, requests
from perdure.service.api.filters import parse_filter
from perdure.service.api.pages import Filling
from perdure.service.api.places import Place
from perdure.service.common import limits
from perdure.service.operations.queries import Queries
from perdure.service.runs.changes import Change, Changes, Subscription
from perdure.service.runs.views import RunView, TaskView, has_ended_since
from perdure.storage.ports import ChangeStore, ListingStore
from perdure.storage.queries import AllOf, Comparison, Condition, RunQuery
from perdure.storage.rows import ACTOR, RunRow
from perdure.v1 import workflow_service_pb2

PROGRESS_S: Final = 15.0
PROGRESS_S_MIN: Final = 1.0
BATCH_S: Final = 0.005
BATCH_S_MAX: Final = 1.0
PAGE: Final = 500
_UNRECORDED: Final = (TaskStatus.READY, TaskStatus.RUNNING)


@dataclass(slots=True)
class _Seen:
    """The version of a run that was sent: `row` is the commit of its row. Of its tasks, all commits up to `tasks` and
    all changes up to the scheduler's `moment` were sent."""

    row: int = 0
    tasks: int = 0
    moment: int = 0


@dataclass(slots=True)
class _Watch:
    """One call of Watch."""

    namespace: str
    runs: dict[str, RunRow]  # by run id; empty: all that match
    where: Condition | None
    with_tasks: bool
    until_final: bool
    told: int = 0  # everything up to this commit was sent
    read: int = 0  # changes up to here came from the store
    seen: dict[str, _Seen] = field(default_factory=dict)  # by run
    final: set[str] = field(default_factory=set)  # final or deleted: no more events follow
    gone: set[str] = field(default_factory=set)


class WatchStore(ChangeStore, ListingStore, Protocol):
    """The part of the store that watches use."""


class Watcher:
    """Serves Watch. `clock`: the time of day, in milliseconds."""

    def __init__(self, store: WatchStore, queries: Queries, changes: Changes, clock: Callable[[], int]) -> None:
        self._store = store
        self._queries = queries
        self._changes = changes
        self._clock = clock

    async def watch(
        self, request: workflow_service_pb2.WatchRequest
    ) -> AsyncIterator[workflow_service_pb2.WatchResponse]:
        progress_s = _seconds(request, "progress_interval", PROGRESS_S, PROGRESS_S_MIN, 3600)
        batch_s = _seconds(request, "max_batch_delay", BATCH_S, 0, BATCH_S_MAX)
        watch = await self._open(request)
        place = places.read(request.resume_token)
        with self._changes.subscribe(watch.runs.keys() if watch.runs else None) as subscription:
            last = await self._store.last_change()
            if place is not None and place.is_in_snapshot and not watch.runs:
                raise errors.InvalidPageTokenError("the token belongs to a watch of workflow_ids; name them")
            if place is not None and place.change > last:
                raise errors.InvalidPageTokenError("the token names changes that this storage has not seen; list again")
            # A snapshot of runs is read after this and covers it; all other changes are read from the token on.
            watch.told = watch.read = last if place is None or watch.runs else place.change
            filling = Filling[workflow_service_pb2.WatchEvent, Place]()
            async for event, told in self._catch_up(watch, place, last):
                if (full := filling.add(event, told)) is not None:
                    yield _answer(*full)
            yield _answer(filling.items, Place(watch.told))
            loop = asyncio.get_running_loop()
            due_s = loop.time() + progress_s
            while not (watch.until_final and watch.final >= watch.runs.keys()):
                batch = await subscription.next_batch(max(due_s - loop.time(), 0))
                if batch and batch_s and not _has_end(batch):
                    batch += await _more(subscription, batch_s)
                before, watch.told = watch.told, max(watch.told, self._changes.published)  # all of it is in the batch
                events = [found for change in batch if (found := self._event(watch, change)) is not None]
                if watch.told > before and not watch.runs:  # older changes are not published again
                    watch.seen = {run_id: seen for run_id, seen in watch.seen.items() if seen.row > watch.told}
                events = await self._matching(watch, events)
                is_due = loop.time() >= due_s
                if is_due and not self._changes.is_complete:
                    events += await self._deleted_elsewhere(watch)
                if events or is_due:
                    due_s = loop.time() + progress_s
                    filling = Filling()
                    for one, told in zip(events, _told_with(events, watch.told), strict=True):
                        if (full := filling.add(one, told)) is not None:
                            yield _answer(*full)
                    yield _answer(filling.items, Place(watch.told))

    async def _open(self, request: workflow_service_pb2.WatchRequest) -> _Watch:
        namespace = requests.namespace(request.namespace)
        if request.include_tasks and not request.workflow_ids:
            raise requests.invalid("include_tasks", "needs workflow_ids")
        if request.until_final and not request.workflow_ids:
            raise requests.invalid("until_final", "needs workflow_ids")
        if len(request.workflow_ids) > limits.WATCH_IDS_MAX:
            raise requests.invalid("workflow_ids", f"there may be {limits.WATCH_IDS_MAX} of them")
        rows = [await self._queries.row(namespace, requests.workflow_id(name)) for name in request.workflow_ids]
        runs = {row.run_id: row for row in rows}
        where = parse_filter(request.filter)
        return _Watch(namespace, runs, where, request.include_tasks, request.until_final)

    async def _catch_up(
        self, watch: _Watch, place: Place | None, last: int
    ) -> AsyncIterator[tuple[workflow_service_pb2.WatchEvent, Place]]:
        """The events to send before listening, each with the place after it: a snapshot, or the changes since the
        place."""
        if not watch.runs:
            if place is not None:
                async for told in self._changed(watch, place):
                    yield told
            return
        if place is not None and place.position is not None:  # first the rest of the snapshot, then later changes
            async for told in self._snapshot(watch, place.since, place.change, begun=place):
                yield told
        since = place.whole if place is not None else None
        async for told in self._snapshot(watch, since, last):
            yield told

    async def _changed(
        self, watch: _Watch, place: Place
    ) -> AsyncIterator[tuple[workflow_service_pb2.WatchEvent, Place]]:
        after = place.whole
        while page := await self._store.read_changes(watch.namespace, after=after, limit=PAGE):
            after = page[-1].change  # no page ends inside of a commit
            rows = [
                row for row in page if (row.change, row.run_id) > (place.change, place.run_id) and row.kind != ACTOR
            ]
            events = [self._run_event(watch, RunView(row), row.change, row.update_ms) for row in rows]
            told = {id(event): Place(row.change, row.run_id) for event, row in zip(events, rows, strict=True)}
            for event in await self._matching(watch, events):
                yield event, told[id(event)]
        watch.told = watch.read = max(watch.told, after)

    async def _snapshot(
        self, watch: _Watch, since: int | None, upto: int, *, begun: Place | None = None
    ) -> AsyncIterator[tuple[workflow_service_pb2.WatchEvent, Place]]:
        """The runs, or their changes since a commit, without those that were sent up to a place."""
        ids = list(watch.runs)
        first = ids.index(begun.run_id) if begun is not None and begun.run_id in watch.runs else 0
        for run_id in ids[first:]:
            known = watch.runs[run_id]
            position = begun.position or 0 if begun is not None and begun.run_id == run_id else 0
            view, tasks, watch.seen[run_id] = await self._look(watch, known)
            changed: set[str] = set()
            if since is not None and tasks:
                # Read after the look, so that this contains all changes the look saw. No commit tells of an attempt.
                changed = {task_id for task_id, _ in await self._store.read_tasks(run_id, after=since)}
            has_ended = since is not None and has_ended_since(view.row, since)
            for number, task in enumerate(tasks[position:], position + 1):
                is_changed = task.task_id in changed or (has_ended and task.status is TaskStatus.CANCELED)
                if since is None or is_changed or task.status in _UNRECORDED:
                    event = _task_event(0, view.row.update_ms, known.workflow_id, run_id, task)
                    yield event, Place(upto, run_id, since, number)
            if since is None or view.row.change > since:
                event = self._run_event(watch, view, view.row.change, view.row.update_ms)
                yield event, Place(upto, run_id, since, len(tasks))
            if view.row.status.is_final:
                watch.final.add(run_id)

    async def _look(self, watch: _Watch, known: RunRow) -> tuple[RunView, list[TaskView], _Seen]:
        """A run, its tasks if they are wanted, and the version of both."""
        if not watch.with_tasks:
            view = await self._queries.run(watch.namespace, known.workflow_id, known.run_id)
            return view, [], _Seen(view.row.change)
        row = await self._queries.row(watch.namespace, known.workflow_id, known.run_id)
        now = await self._queries.look(row, None)
        counts, tasks = now.taken
        return RunView(now.row, counts), tasks, _Seen(now.row.change, now.change, now.number)

    async def _matching(
        self, watch: _Watch, events: list[workflow_service_pb2.WatchEvent]
    ) -> list[workflow_service_pb2.WatchEvent]:
        """The events that match the filter, which the store evaluates. It cannot evaluate it for a deleted run, so
        every watch gets deletions."""
        if watch.where is None or watch.runs:
            return events
        kept = []
        for event in events:
            if event.WhichOneof("kind") != "workflow":
                kept.append(event)
                continue
            same = Comparison("workflow_id", "=", event.workflow.workflow_id)
            query = RunQuery(watch.namespace, 1, AllOf((same, watch.where)))
            if await self._store.list_runs(query):
                kept.append(event)
        return kept

    async def _deleted_elsewhere(self, watch: _Watch) -> list[workflow_service_pb2.WatchEvent]:
        """Events for runs that other engines deleted. Deletions are not published, so missing runs are looked for."""
        there = [run_id for run_id in watch.runs if run_id not in watch.gone]
        found = await self._queries.rows(there)
        gone = {run_id for run_id in there if run_id not in found}
        now = wire.to_timestamp(self._clock())
        watch.gone |= gone
        watch.final |= gone
        return [
            workflow_service_pb2.WatchEvent(time=now, deleted_workflow_id=watch.runs[run_id].workflow_id)
            for run_id in sorted(gone)
        ]

    def _event(self, watch: _Watch, change: Change) -> workflow_service_pb2.WatchEvent | None:
        was_read = change.deleted is None and 0 < change.change <= watch.read
        if change.namespace != watch.namespace or was_read:
            return None
        if change.task is not None:
            if not watch.with_tasks:
                return None
            workflow_id, run_id, task = change.task
            seen = watch.seen.setdefault(run_id, _Seen())
            if 0 < change.moment <= seen.moment or 0 < change.change <= seen.tasks:
                return None  # this state or a newer one was sent
            return _task_event(change.change, change.at_ms, workflow_id, run_id, task)
        if not watch.runs and (change.of_actor or (change.run is not None and change.run.row.kind == ACTOR)):
            return None  # an actor is watched by its id
        if change.deleted is not None:
            gone = {run_id for run_id, row in watch.runs.items() if row.workflow_id == change.deleted}
            watch.gone |= gone
            watch.final |= gone
            return workflow_service_pb2.WatchEvent(
                time=wire.to_timestamp(change.at_ms), deleted_workflow_id=change.deleted
            )
        assert change.run is not None
        if watch.runs or not self._changes.is_complete:
            seen = watch.seen.setdefault(change.run.row.run_id, _Seen())
            if change.change <= seen.row:
                return None
            seen.row = change.change
        return self._run_event(watch, change.run, change.change, change.at_ms)

    def _run_event(self, watch: _Watch, view: RunView, change: int, at_ms: int) -> workflow_service_pb2.WatchEvent:
        if view.row.status.is_final:
            watch.final.add(view.row.run_id)
        else:
            watch.final.discard(view.row.run_id)
        return workflow_service_pb2.WatchEvent(
            sequence=change, time=wire.to_timestamp(at_ms), workflow=answers.workflow(view)
        )


def _answer(events: list[workflow_service_pb2.WatchEvent], told: Place) -> workflow_service_pb2.WatchResponse:
    return workflow_service_pb2.WatchResponse(events=events, resume_token=told.token())


def _told_with(events: list[workflow_service_pb2.WatchEvent], told: int) -> list[Place]:
    """For each event, the last commit that has been sent completely once the event is sent. For the last event it is
    `told`."""
    found = []
    least = told
    for event in reversed(events):
        found.append(Place(max(least, 0)))
        if event.sequence:
            least = min(least, event.sequence - 1)
    return found[::-1]


def _task_event(
    change: int, at_ms: int, workflow_id: str, run_id: str, task: TaskView
) -> workflow_service_pb2.WatchEvent:
    return workflow_service_pb2.WatchEvent(
        sequence=change,
        time=wire.to_timestamp(at_ms),
        task=workflow_service_pb2.TaskChange(workflow_id=workflow_id, run_id=run_id, task=answers.task(task)),
    )


def _has_end(batch: list[Change]) -> bool:
    return any(change.run is not None and change.run.row.status.is_final for change in batch)


async def _more(subscription: Subscription, batch_s: float) -> list[Change]:
    """The changes that arrive within `batch_s`, so that many small ones share a message."""
    await asyncio.sleep(batch_s)
    return await subscription.next_batch(0)


def _seconds(request: workflow_service_pb2.WatchRequest, field: str, usual: float, least: float, most: float) -> float:
    if not request.HasField(field):
        return usual
    try:
        return min(max(wire.from_duration(getattr(request, field)) / 1000, least), most)
    except ValueError as error:
        raise requests.invalid(field, str(error)) from error
