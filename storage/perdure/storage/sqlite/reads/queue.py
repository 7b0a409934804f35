"""Runs by their place in the queues, and timers that are due."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from perdure.storage.damage import is_text
from perdure.storage.rows import RunRow, Timer
from perdure.storage.sqlite.connected import Connected
from perdure.storage.sqlite.reads.runs import RUN
from perdure.storage.sqlite.rows import run_of
from perdure.storage.sqlite.runs import OF_WORKFLOWS


def _timer(run_id: str, task_id: Any, attempt: Any, wake_ms: Any) -> Timer:
    """A timer from possibly damaged columns. The damage is reported when the run is loaded."""
    is_good = type(attempt) is int and type(wake_ms) is int and isinstance(task_id, str)
    return Timer(run_id, task_id, attempt, wake_ms) if is_good else Timer(run_id, str(task_id), 0, 0)


def _running_runs(sql: sqlite3.Connection) -> list[tuple[str, str]]:
    # From namespace to namespace, so that ended runs are not read. Runs that are not current have ended.
    # Names are bytes here, because a damaged one need not be a text.
    found: list[tuple[str, str]] = []
    namespace = b""
    while row := sql.execute(
        f"SELECT CAST(namespace AS BLOB) FROM runs WHERE is_current = 1 AND {OF_WORKFLOWS} "
        "AND namespace > CAST(? AS TEXT) ORDER BY namespace LIMIT 1",
        (namespace,),
    ).fetchone():
        (namespace,) = row
        found += sql.execute(
            f"SELECT namespace, run_id FROM runs WHERE is_current = 1 AND {OF_WORKFLOWS} "
            "AND namespace = CAST(? AS TEXT) AND status = 'RUNNING'",
            (namespace,),
        )
    return found


def _count_pending(sql: sqlite3.Connection) -> Mapping[str, int]:
    statement = f"SELECT namespace, count(*) FROM runs WHERE status = 'PENDING' AND {OF_WORKFLOWS} GROUP BY namespace"
    return {namespace: count for namespace, count in sql.execute(statement) if is_text(namespace)}


def _pending_runs(sql: sqlite3.Connection, namespace: str, limit: int) -> list[RunRow]:
    statement = f"{RUN} WHERE namespace = ? AND status = 'PENDING' AND {OF_WORKFLOWS} ORDER BY change, run_id LIMIT ?"
    return [run_of(values) for values in sql.execute(statement, (namespace, limit))]


def _next_timers(sql: sqlite3.Connection, until_ms: int, limit: int) -> list[Timer]:
    return [
        _timer(*values)
        for values in sql.execute(
            "SELECT tasks.run_id, task_id, attempt, wake_ms FROM tasks JOIN runs USING (run_id) "
            "WHERE wake_ms IS NOT NULL AND wake_ms <= ? AND tasks.status IN ('RUNNING', 'BACKING_OFF') "
            "AND runs.status = 'RUNNING' ORDER BY wake_ms, tasks.run_id, task_id LIMIT ?",
            (until_ms, limit),
        )
    ]


class QueueReads(Connected):
    """Implements QueueStore."""

    async def running_runs(self) -> list[tuple[str, str]]:
        return await self._read(_running_runs)

    async def count_pending(self) -> Mapping[str, int]:
        return await self._read(_count_pending)

    async def pending_runs(self, namespace: str, *, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: _pending_runs(connection, namespace, limit))


class TimerReads(Connected):
    """Implements TimerStore."""

    async def next_timers(self, *, until_ms: int, limit: int) -> list[Timer]:
        return await self._read(lambda connection: _next_timers(connection, until_ms, limit))
