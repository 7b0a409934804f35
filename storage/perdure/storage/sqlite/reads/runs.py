"""Rows of runs by their keys."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import Any, Final

from perdure.storage.rows import RunRow
from perdure.storage.sqlite.connected import Connected
from perdure.storage.sqlite.rows import RUN_SELECTED, run_of
from perdure.storage.sqlite.runs import FAILURE

RUN: Final = f"SELECT {', '.join(RUN_SELECTED)} FROM runs"
_AS_JSON: Final = ", ".join("iif(failure IS NULL, NULL, hex(failure))" if n == "failure" else n for n in RUN_SELECTED)
_RUNS_AT_ONCE: Final = (
    f"SELECT json_group_array(json_array({_AS_JSON})) FROM runs WHERE run_id IN (SELECT value FROM json_each(?))"
)
"""One row with all runs as JSON: fetching a row releases the GIL and must get it back."""


def one_run(sql: sqlite3.Connection, where: str, arguments: Sequence[Any]) -> RunRow | None:
    found = sql.execute(f"{RUN} WHERE {where}", arguments).fetchone()
    return None if found is None else run_of(found)


def _find_run(sql: sqlite3.Connection, namespace: str, workflow_id: str) -> RunRow | None:
    return one_run(sql, "namespace = ? AND workflow_id = ? AND is_current = 1", (namespace, workflow_id))


def _find_request(sql: sqlite3.Connection, namespace: str, request_id: str) -> RunRow | None:
    return one_run(sql, "namespace = ? AND request_id = ? AND request_id <> ''", (namespace, request_id))


def get_run(sql: sqlite3.Connection, run_id: str) -> RunRow | None:
    return one_run(sql, "run_id = ?", (run_id,))


def _get_runs(sql: sqlite3.Connection, run_ids: Collection[str]) -> list[RunRow]:
    try:
        found = sql.execute(_RUNS_AT_ONCE, (json.dumps(list(run_ids)),)).fetchone()[0]
    except sqlite3.OperationalError as error:
        if "JSON" not in str(error):
            raise
        # A damaged column has bytes where it had a text.
        return [row for row in (get_run(sql, run_id) for run_id in run_ids) if row is not None]
    runs = []
    for values in json.loads(found):
        failure = values[FAILURE]
        values[FAILURE] = bytes.fromhex(failure) if failure is not None else None
        runs.append(run_of(values))
    return runs


class RunReads(Connected):
    """Implements RunStore."""

    async def find_run(self, namespace: str, workflow_id: str) -> RunRow | None:
        return await self._look(lambda connection: _find_run(connection, namespace, workflow_id))

    async def find_request(self, namespace: str, request_id: str) -> RunRow | None:
        return await self._look(lambda connection: _find_request(connection, namespace, request_id))

    async def get_run(self, run_id: str) -> RunRow | None:
        return await self._look(lambda connection: get_run(connection, run_id))

    async def get_runs(self, run_ids: Collection[str]) -> list[RunRow]:
        return await self._read(lambda connection: _get_runs(connection, run_ids))
