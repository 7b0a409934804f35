"""Batches: every item has its own result, and items share one commit where that is possible.

A run is submitted by itself if its graph has more than 500 nodes, its request is a repeat, its id is taken or there is
no place for it.

An error is the result of its item alone. Only a store that does not answer fails the whole batch, which may then be
repeated. `Submissions`, `Events` and `Queries` handle the items. An item that was invalid from the start is passed in
as an exception, which becomes its result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeAlias, TypeVar, cast

from perdure import errors
from perdure.service.common.repeat import Repeat
from perdure.service.common.trouble import is_away, refusal
from perdure.service.housekeeping.tombstones import DeletedRun
from perdure.service.operations.asked import NewEvent, NewRun, SentEvent
from perdure.service.operations.current import check_kind
from perdure.service.operations.events import Events
from perdure.service.operations.queries import Queries
from perdure.service.operations.submit import Submissions
from perdure.service.runs.changes import Changes
from perdure.service.runs.views import RunView
from perdure.storage.rows import RunRow

T = TypeVar("T")

Result: TypeAlias = T | Exception
ABREAST: Final = 64
"""Items that may query the store at the same time."""


class Batches:
    """Does for many what `Submissions`, `Events` and `Queries` do for one."""

    def __init__(self, submissions: Submissions, events: Events, queries: Queries, changes: Changes) -> None:
        self._submissions = submissions
        self._events = events
        self._queries = queries
        self._changes = changes

    async def submit(self, items: Sequence[Result[NewRun]]) -> list[Result[tuple[RunView, bool]]]:
        """As Submissions.submit."""
        self._submissions.refuse_while_failing()
        offered: list[Result[asyncio.Future[RunView | None] | None]] = []
        for item in items:  # without a pause, so that the journal takes all of them together
            offered.append(item if isinstance(item, Exception) else self._offer(item))
        results: list[Result[tuple[RunView, bool]] | None] = []
        for offer in offered:
            if isinstance(offer, asyncio.Future):
                view = await caught(offer)
                results.append((view, True) if isinstance(view, RunView) else view)
            else:
                results.append(offer)
        left = [number for number, result in enumerate(results) if result is None]
        tried = await _abreast(self._submissions.submit(cast(NewRun, items[number])) for number in left)
        for number, result in zip(left, tried, strict=True):
            results[number] = result
        return _unless_away(cast("list[Result[tuple[RunView, bool]]]", results))

    def _offer(self, new: NewRun) -> Result[asyncio.Future[RunView | None] | None]:
        try:
            return self._submissions.offer(new)
        except Exception as error:
            return error

    async def send_events(
        self, namespace: str, items: Sequence[Result[NewEvent]], *, repeat: Repeat | None = None
    ) -> list[Result[SentEvent]]:
        """As Events.send; to one workflow in the order of the items."""
        self._events.refuse_while_failing()
        rows = await self._rows_of(namespace, items, repeat)
        open_rows = {row.run_id: row for row in rows.values() if isinstance(row, RunRow) and not row.status.is_final}
        room = {run_id: await caught(self._events.room(row)) for run_id, row in open_rows.items()}
        sent: list[Result[SentEvent] | Awaitable[SentEvent]] = []
        for number, item in enumerate(items):
            if isinstance(item, Exception):
                sent.append(item)
            elif isinstance(row := rows[number], Exception):
                sent.append(row)
            elif isinstance(row, DeletedRun):
                sent.append(self._events.of_deleted(row))
            elif row.status.is_final:
                sent.append(self._events.find(row, item.key, item.event_id))
            elif isinstance(left := room[row.run_id], Exception):
                sent.append(left)
            else:
                offer = self._events.offer if left > 0 else self._events.offer_again
                sent.append(offer(row, item.key, item.event_id, item.payload))
                room[row.run_id] = left - 1
        return _unless_away([await caught(one) if isinstance(one, Awaitable) else one for one in sent])

    async def _rows_of(
        self, namespace: str, items: Sequence[Result[NewEvent]], repeat: Repeat | None
    ) -> dict[int, Result[RunRow | DeletedRun]]:
        """The runs that the events are for, by the places of the events."""
        asked = {number: item for number, item in enumerate(items) if isinstance(item, NewEvent)}
        if repeat is not None:  # each event may have been for another run of the id
            found = await _abreast(self._events.named(namespace, item, repeat) for item in asked.values())
            return dict(zip(asked, found, strict=True))
        names = list(dict.fromkeys(item.workflow_id for item in asked.values()))
        rows = await _abreast(self._queries.row(namespace, name) for name in names)
        by_name = dict(zip(names, rows, strict=True))
        return {number: by_name[item.workflow_id] for number, item in asked.items()}

    async def outcomes(
        self, namespace: str, items: Sequence[Result[tuple[str, str]]], *, wait_s: float
    ) -> list[Result[RunRow]]:
        """The rows of runs (workflow id, run id or ""), after waiting up to `wait_s` for all of them to end."""
        results = await self._find(namespace, items)
        if wait_s and (awaited := _unfinished(results)):
            await self._await_ends(namespace, items, results, awaited, wait_s)
        if left := _unfinished(results):
            for run_id, row in (await self._queries.rows(left)).items():
                for number in left[run_id]:
                    results[number] = row
        return results

    async def _await_ends(
        self,
        namespace: str,
        items: Sequence[Result[tuple[str, str]]],
        results: list[Result[RunRow]],
        awaited: dict[str, list[int]],
        wait_s: float,
    ) -> None:
        """Put runs that end within `wait_s` into the results."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        known = {row.run_id: row.change for row in results if isinstance(row, RunRow) and row.run_id in awaited}
        with self._changes.gather(known) as told:
            look_at = list(awaited)  # what ended before the gathering began was not told
            while True:
                looked = await self._queries.rows(look_at) if look_at else {}
                for run_id in look_at:
                    gone = awaited.pop(run_id, ()) if run_id not in looked else ()  # deleted
                    for number in gone:
                        results[number] = await caught(self._queries.row(namespace, *_named(items[number], run_id)))
                for run_id, row in (looked | told.ended).items():
                    if row.status.is_final and run_id in awaited:
                        for number in awaited.pop(run_id):
                            results[number] = row
                told.ended.clear()
                left_s = deadline - loop.time()
                if not awaited or left_s <= 0 or self._changes.is_closed or not await told.wait(left_s):
                    return
                look_at = [run_id for run_id in told.stirred if run_id in awaited and not self._queries.is_live(run_id)]
                told.stirred.clear()

    async def _find(self, namespace: str, items: Sequence[Result[tuple[str, str]]]) -> list[Result[RunRow]]:
        by_id = await self._queries.rows(
            dict.fromkeys(item[1] for item in items if not isinstance(item, Exception) and item[1])
        )

        results: list[Result[RunRow] | None] = []
        left: list[int] = []
        for number, item in enumerate(items):
            if isinstance(item, Exception):
                results.append(item)
                continue
            row = by_id.get(item[1])
            if row is None or (row.namespace, row.workflow_id) != (namespace, item[0]):
                left.append(number)
                row = None
            results.append(row)
        found = await _abreast(self._queries.row(namespace, *cast("tuple[str, str]", items[number])) for number in left)
        for number, result in zip(left, found, strict=True):
            results[number] = result
        return [_with_end(row) for row in _unless_away(cast("list[Result[RunRow]]", results))]


def _with_end(row: Result[RunRow]) -> Result[RunRow]:
    """The row, or an error if it is that of an actor, which has no end to wait for."""
    try:
        if isinstance(row, RunRow):
            check_kind(row, "")
        return row
    except errors.WrongKindError as error:
        return error


def _unfinished(results: Sequence[Result[RunRow]]) -> dict[str, list[int]]:
    """Where the runs are that have not ended, by their ids."""
    found: dict[str, list[int]] = {}
    for number, row in enumerate(results):
        if isinstance(row, RunRow) and not row.status.is_final:
            found.setdefault(row.run_id, []).append(number)
    return found


def _named(item: Result[tuple[str, str]], run_id: str) -> tuple[str, str]:
    return cast("tuple[str, str]", item)[0], run_id


def _unless_away(results: list[Result[T]]) -> list[Result[T]]:
    """The results, unless the store was away for one of them: then that is raised."""
    for result in results:
        if isinstance(result, Exception) and is_away(result):
            raise result
    return results


async def caught(work: Awaitable[T]) -> Result[T]:
    """The result of `work`, or its error in the form that callers may see."""
    try:
        return await work
    except Exception as error:
        return refusal(error)


async def _abreast(works: Iterable[Coroutine[Any, Any, T]]) -> list[Result[T]]:
    """The results of all works in order, with at most `ABREAST` running at a time."""
    results: list[Result[T]] = []
    waiting = list(works)
    try:
        while waiting:
            some, waiting = waiting[:ABREAST], waiting[ABREAST:]
            results += await asyncio.gather(*map(caught, some))
    finally:
        for work in waiting:
            work.close()
    return results
