"""Reads to load a run: its rows, definitions and values."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Final

from perdure.storage.ports import CorruptData
from perdure.storage.rows import RunRow, StoredRun, ValueKey
from perdure.storage.sqlite.connected import Connected
from perdure.storage.sqlite.reads.events import read_events
from perdure.storage.sqlite.reads.runs import RUN, get_run
from perdure.storage.sqlite.rows import TASK_SELECTED, corrupt, run_of, task_of
from perdure.storage.sqlite.seals import INPUT, name_flipped, seal, seal_of_value

KEYS_MAX: Final = 500
"""Keys of one IN list."""
_TASK: Final = f"SELECT {', '.join(TASK_SELECTED)} FROM tasks"


def _load(sql: sqlite3.Connection, row: RunRow) -> StoredRun:
    run_id = row.run_id
    damage = row.damage
    if not damage:
        names = sql.execute("SELECT name FROM inputs WHERE run_id = ? ORDER BY name", (run_id,)).fetchall()
        tasks = sql.execute(f"{_TASK} WHERE run_id = ? ORDER BY seq", (run_id,)).fetchall()
        try:
            events = tuple(read_events(sql, run_id, 0))
            (last_event,) = sql.execute("SELECT max(sequence) FROM events WHERE run_id = ?", (run_id,)).fetchone()
            inputs = tuple(name for (name,) in names)
            return StoredRun(row, inputs, tuple(map(task_of, tasks)), events, last_event or 0)
        except CorruptData as error:
            damage = str(error)
    return StoredRun(row, (), (), (), damage=damage)


def _value(sql: sqlite3.Connection, key: ValueKey) -> bytes | None:
    """Raises CorruptData."""
    if key.task_id:
        statement = "SELECT output, output_seal FROM tasks WHERE run_id = ? AND task_id = ?"
        found = sql.execute(statement, (key.run_id, key.task_id)).fetchone()
        data, expected = found or (None, None)
        if type(data) in (bytes, NoneType) and expected in (None, seal_of_value(data)):
            return data
        raise corrupt("tasks", key.run_id, key.task_id, "output")
    found = sql.execute(
        "SELECT data, seal FROM inputs WHERE run_id = ? AND name = ?", (key.run_id, key.input)
    ).fetchone()
    if found is None:
        return None
    data, expected = found
    if type(data) is bytes and expected in (None, seal(key.run_id, key.input, data)):
        return data
    raise corrupt("inputs", key.run_id, key.input, name_flipped(INPUT, (key.run_id, key.input, data), expected))


def _unfinished_runs(sql: sqlite3.Connection, after: str, limit: int) -> list[RunRow]:
    return [
        run_of(values)
        for values in sql.execute(
            # the first test is that of the index
            f"{RUN} WHERE status IN ('RUNNING', 'PENDING') AND is_dormant = 0 AND status = 'RUNNING' AND run_id > ? "
            "ORDER BY run_id LIMIT ?",
            (after, limit),
        )
    ]


def load_run(sql: sqlite3.Connection, run_id: str) -> StoredRun | None:
    """Read a run in one transaction, so that all of it is of one snapshot."""
    sql.execute("BEGIN")
    try:
        row = get_run(sql, run_id)
        return None if row is None else _load(sql, row)
    finally:
        sql.execute("COMMIT")


def _read_specs(sql: sqlite3.Connection, keys: Sequence[str]) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    for start in range(0, len(keys), KEYS_MAX):
        part = keys[start : start + KEYS_MAX]
        marks = ", ".join("?" * len(part))
        found.update(sql.execute(f"SELECT key, data FROM specs WHERE key IN ({marks})", part).fetchall())
    return found


def _read_values(sql: sqlite3.Connection, keys: Sequence[ValueKey]) -> list[bytes | None]:
    return [_value(sql, key) for key in keys]


class RecoveryReads(Connected):
    """Implements RecoveryStore."""

    async def unfinished_runs(self, *, after: str, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: _unfinished_runs(connection, after, limit))

    async def load_run(self, run_id: str) -> StoredRun | None:
        return await self._load(lambda connection: load_run(connection, run_id))


class SpecReads(Connected):
    """Implements SpecStore."""

    async def read_specs(self, keys: Iterable[str]) -> Mapping[str, bytes]:
        wanted = list(keys)
        return await self._read(lambda connection: _read_specs(connection, wanted))


class ValueReads(Connected):
    """Implements ValueStore."""

    async def read_values(self, keys: Sequence[ValueKey]) -> list[bytes | None]:
        return await self._read(lambda connection: _read_values(connection, keys))
