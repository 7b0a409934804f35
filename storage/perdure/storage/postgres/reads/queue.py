"""Runs by their place in the queues, and timers that are due."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.storage.postgres.connected import Connected
from perdure.storage.postgres.connections import Connection
from perdure.storage.postgres.reads.runs import RUN, runs_of
from perdure.storage.postgres.rows import OF_WORKFLOWS
from perdure.storage.rows import RunRow, Timer


async def _running_runs(connection: Connection) -> list[tuple[str, str]]:
    records = await connection.fetch(f"SELECT namespace, run_id FROM runs WHERE status = 'RUNNING' AND {OF_WORKFLOWS}")
    return [(namespace, run_id) for namespace, run_id in records]


async def _count_pending(connection: Connection) -> Mapping[str, int]:
    statement = f"SELECT namespace, count(*) FROM runs WHERE status = 'PENDING' AND {OF_WORKFLOWS} GROUP BY namespace"
    return dict(await connection.fetch(statement))


async def _pending_runs(connection: Connection, namespace: str, limit: int) -> list[RunRow]:
    where = f"namespace = $1 AND status = 'PENDING' AND {OF_WORKFLOWS} ORDER BY change, run_id LIMIT $2"
    return await runs_of(connection, f"{RUN} WHERE {where}", namespace, limit)


async def _next_timers(connection: Connection, me: str, until_ms: int, limit: int) -> list[Timer]:
    # A subquery instead of a join, so that timers are read in the order of their index until there are enough.
    records = await connection.fetch(
        "SELECT run_id, task_id, attempt, wake_ms FROM tasks "
        "WHERE wake_ms IS NOT NULL AND wake_ms <= $1 AND status IN ('RUNNING', 'BACKING_OFF') "
        "AND (SELECT runs.status = 'RUNNING' AND $3 IN ('', runs.owner) FROM runs WHERE runs.run_id = tasks.run_id) "
        "ORDER BY wake_ms, run_id, task_id LIMIT $2",
        until_ms,
        limit,
        me,
    )
    return [Timer(*record) for record in records]


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
        me = self._engine_id
        return await self._read(lambda connection: _next_timers(connection, me, until_ms, limit))
