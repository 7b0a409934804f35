"""Reads to load a run: its rows, definitions and values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from perdure.storage.ports import CorruptData
from perdure.storage.postgres.connected import Connected
from perdure.storage.postgres.connections import Connection
from perdure.storage.postgres.reads.events import EVENT
from perdure.storage.postgres.reads.runs import RUN, runs_of
from perdure.storage.postgres.rows import TASK_SELECTED, event_of, run_of, task_of
from perdure.storage.rows import RunRow, StoredRun, ValueKey

T = TypeVar("T")

LOAD_S: Final = 60.0
"""A run may have very many tasks."""
LOADED_AT_ONCE = 1_000
"""Tasks of a run that are decoded in one turn of the event loop. Each takes some ten microseconds."""

_TASKS: Final = f"SELECT {', '.join(TASK_SELECTED)} FROM tasks WHERE tasks.run_id = $1 ORDER BY seq"
_WAITING: Final = f"SELECT {EVENT} FROM events WHERE events.run_id = $1 AND consumed_by = '' ORDER BY sequence"
_LOAD: Final = f"""
    {RUN.replace(" FROM runs", "")},
        ARRAY(SELECT name FROM inputs WHERE inputs.run_id = runs.run_id ORDER BY name),
        ARRAY({_TASKS.replace(", ".join(TASK_SELECTED), f"ROW({', '.join(TASK_SELECTED)})")} LIMIT $2),
        ARRAY({_WAITING.replace(EVENT, f"ROW({EVENT})")} LIMIT $2),
        coalesce((SELECT max(sequence) FROM events WHERE events.run_id = runs.run_id), 0)
    FROM runs WHERE runs.run_id = $1
"""


async def _unfinished_runs(connection: Connection, me: str, after: str, limit: int) -> list[RunRow]:
    where = "status = 'RUNNING' AND NOT is_dormant AND run_id > $1"
    if not me:
        return await runs_of(connection, f"{RUN} WHERE {where} ORDER BY run_id LIMIT $2", after, limit)
    return await runs_of(connection, f"{RUN} WHERE {where} AND owner = $3 ORDER BY run_id LIMIT $2", after, limit, me)


async def _load_run(connection: Connection, run_id: str) -> StoredRun | None:
    """Read a run in one statement, so that all of it is of one snapshot. A large one is read in pages, because the
    event loop waits while records are decoded."""
    found = await connection.fetchrow(_LOAD, run_id, LOADED_AT_ONCE + 1)
    if found is None:
        return None
    if max(map(len, found[-3:-1])) > LOADED_AT_ONCE:
        return await _load_in_pages(connection, run_id)
    *row, inputs, tasks, events, last_event = found
    run = run_of(row)
    try:
        return StoredRun(
            run, tuple(inputs), tuple(map(task_of, tasks)), tuple(map(event_of, events)), last_event, run.damage
        )
    except CorruptData as error:
        return StoredRun(run, (), (), (), damage=run.damage or str(error))


async def _load_in_pages(connection: Connection, run_id: str) -> StoredRun | None:
    """The same in one transaction that sees one snapshot."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        found = await connection.fetchrow(_LOAD, run_id, 0)
        if found is None:
            return None
        *row, inputs, _, _, last_event = found
        run = run_of(row)
        try:
            tasks = await _pages(connection, _TASKS, run_id, task_of)
            events = await _pages(connection, _WAITING, run_id, event_of)
        except CorruptData as error:
            return StoredRun(run, (), (), (), damage=run.damage or str(error))
    return StoredRun(run, tuple(inputs), tuple(tasks), tuple(events), last_event, run.damage)


async def _pages(connection: Connection, statement: str, run_id: str, made: Callable[[Sequence[Any]], T]) -> list[T]:
    rows: list[T] = []
    cursor = await connection.cursor(statement, run_id)
    while page := await cursor.fetch(LOADED_AT_ONCE):
        rows += map(made, page)
    return rows


async def _read_specs(connection: Connection, keys: Sequence[str]) -> Mapping[str, bytes]:
    records = await connection.fetch("SELECT key, data FROM specs WHERE key = ANY ($1::text[])", keys)
    return dict(records)


async def _read_values(connection: Connection, keys: Sequence[ValueKey]) -> list[bytes | None]:
    found: list[bytes | None] = [None] * len(keys)
    for table, name, places in (
        ("outputs", "task_id", [place for place, key in enumerate(keys) if key.task_id]),
        ("inputs", "name", [place for place, key in enumerate(keys) if not key.task_id]),
    ):
        if places:
            records = await connection.fetch(
                f"SELECT place, data FROM unnest($1::int[], $2::text[], $3::text[]) AS given(place, run_id, {name}) "
                f"JOIN {table} USING (run_id, {name})",
                places,
                [keys[place].run_id for place in places],
                [keys[place].task_id or keys[place].input for place in places],
            )
            for place, data in records:
                found[place] = data
    return found


class RecoveryReads(Connected):
    """Implements RecoveryStore."""

    async def unfinished_runs(self, *, after: str, limit: int) -> list[RunRow]:
        me = self._engine_id
        return await self._read(lambda connection: _unfinished_runs(connection, me, after, limit))

    async def load_run(self, run_id: str) -> StoredRun | None:
        return await self._reads.read(lambda connection: _load_run(connection, run_id), LOAD_S)


class SpecReads(Connected):
    """Implements SpecStore."""

    async def read_specs(self, keys: Iterable[str]) -> Mapping[str, bytes]:
        wanted = list(keys)
        return await self._read(lambda connection: _read_specs(connection, wanted))


class ValueReads(Connected):
    """Implements ValueStore."""

    async def read_values(self, keys: Sequence[ValueKey]) -> list[bytes | None]:
        return await self._read(lambda connection: _read_values(connection, keys))
