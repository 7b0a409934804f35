"""Rows of runs by their keys."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from perdure.storage.postgres.connected import Connected
from perdure.storage.postgres.connections import Connection
from perdure.storage.postgres.rows import run_of
from perdure.storage.rows import RUN_COLUMNS, RunRow

RUN: Final = f"SELECT {', '.join(f'runs.{name}' for name in RUN_COLUMNS)} FROM runs"


async def runs_of(connection: Connection, statement: str, *arguments: Any) -> list[RunRow]:
    return [run_of(record) for record in await connection.fetch(statement, *arguments)]


async def one_run(connection: Connection, where: str, *arguments: Any) -> RunRow | None:
    found = await connection.fetchrow(f"{RUN} WHERE {where}", *arguments)
    return None if found is None else run_of(found)


async def _find_run(connection: Connection, namespace: str, workflow_id: str) -> RunRow | None:
    where = "namespace || E'\\n' || workflow_id = $1 || E'\\n' || $2 AND is_current"
    return await one_run(connection, where, namespace, workflow_id)


async def _find_request(connection: Connection, namespace: str, request_id: str) -> RunRow | None:
    where = "namespace || E'\\n' || request_id = $1 || E'\\n' || $2 AND request_id <> ''"
    return await one_run(connection, where, namespace, request_id)


async def _get_run(connection: Connection, run_id: str) -> RunRow | None:
    return await one_run(connection, "run_id = $1", run_id)


async def _get_runs(connection: Connection, run_ids: Collection[str]) -> list[RunRow]:
    return await runs_of(connection, f"{RUN} WHERE run_id = ANY ($1::text[])", list(run_ids))


class RunReads(Connected):
    """Implements RunStore."""

    async def find_run(self, namespace: str, workflow_id: str) -> RunRow | None:
        return await self._read(lambda connection: _find_run(connection, namespace, workflow_id))

    async def find_request(self, namespace: str, request_id: str) -> RunRow | None:
        return await self._read(lambda connection: _find_request(connection, namespace, request_id))

    async def get_run(self, run_id: str) -> RunRow | None:
        return await self._read(lambda connection: _get_run(connection, run_id))

    async def get_runs(self, run_ids: Collection[str]) -> list[RunRow]:
        return await self._read(lambda connection: _get_runs(connection, run_ids))
