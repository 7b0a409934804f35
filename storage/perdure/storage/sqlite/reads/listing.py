"""Runs by conditions, and what changed since a commit."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from perdure.storage.queries import LABELLED_MAX, AllOf, AnyOf, Comparison, Condition, RunQuery, labels_of_all
from perdure.storage.rows import RunRow
from perdure.storage.sqlite.connected import Connected, last_change
from perdure.storage.sqlite.reads.runs import RUN
from perdure.storage.sqlite.rows import RUN_SELECTED, run_of
from perdure.storage.sqlite.runs import OF_ACTORS, OF_WORKFLOWS


def _few_with_a_label(sql: sqlite3.Connection, query: RunQuery) -> list[str] | None:
    """Runs with a label of the query, if there are few of them; None: there are many."""
    for key, value in labels_of_all(query.where):
        statement = "SELECT run_id FROM labels WHERE namespace = ? AND key = ? AND value = ? LIMIT ?"
        found = sql.execute(statement, (query.namespace, key, value, LABELLED_MAX + 1)).fetchall()
        if len(found) <= LABELLED_MAX:
            return [run_id for (run_id,) in found]
    return None


def _condition(condition: Condition, arguments: list[Any]) -> str:
    """SQL for a condition; its values are appended to the arguments. Columns come from a closed set."""
    match condition:
        case AllOf(parts):
            return "(" + (" AND ".join(_condition(part, arguments) for part in parts) or "1") + ")"
        case AnyOf(parts):
            return "(" + (" OR ".join(_condition(part, arguments) for part in parts) or "0") + ")"
        case Comparison(field=name, operator=operator, value=value):
            if name.startswith("labels."):
                arguments.append(name.removeprefix("labels."))
                test = _comparison("value", operator, value, arguments)
                return (
                    "EXISTS (SELECT 1 FROM labels WHERE labels.namespace = runs.namespace AND "
                    f"labels.run_id = runs.run_id AND labels.key = ? AND {test})"
                )
            if name not in RUN_SELECTED:
                raise ValueError(f"no such column: {name}")
            return _comparison(f"runs.{name}", operator, value, arguments)


def _comparison(column: str, operator: str, value: str | int, arguments: list[Any]) -> str:
    if operator == ":":
        arguments += [len(str(value)), value]
        return f"substr({column}, 1, ?) = ?"
    if operator not in ("=", "!=", "<", "<=", ">", ">="):
        raise ValueError(f"no such operator: {operator}")
    arguments.append(value)
    return f"{column} {operator} ?"


def _list_runs(sql: sqlite3.Connection, query: RunQuery) -> list[RunRow]:
    arguments: list[Any] = [query.namespace]
    where = ["namespace = ?", "is_current = 1", OF_ACTORS if query.of_actors else OF_WORKFLOWS]
    if query.where is not None:
        where.append(_condition(query.where, arguments))
    comparison, direction = ("<", "DESC") if query.descending else (">", "ASC")
    if query.after is not None:
        where.append(f"({query.order_by}, run_id) {comparison} (?, ?)")
        arguments += query.after
    arguments.append(query.limit)
    runs = RUN
    if (few := _few_with_a_label(sql, query)) is not None:
        # Force the planner to take these runs first: it does not flatten a subquery with LIMIT.
        these = "(SELECT * FROM runs WHERE run_id IN (SELECT value FROM json_each(?)) LIMIT -1) AS runs"
        runs = RUN.replace("FROM runs", f"FROM {these}")
        arguments.insert(0, json.dumps(few))
    statement = f"{runs} WHERE {' AND '.join(where)} ORDER BY {query.order_by} {direction}, run_id {direction} LIMIT ?"
    return [run_of(values) for values in sql.execute(statement, arguments)]


def _read_changes(sql: sqlite3.Connection, namespace: str | None, after: int, limit: int) -> list[RunRow]:
    which, arguments = ("namespace = ? AND ", (namespace,)) if namespace is not None else ("", ())
    rows = [
        run_of(values)
        for values in sql.execute(
            f"{RUN} WHERE {which}change > ? ORDER BY change, run_id LIMIT ?", (*arguments, after, limit)
        )
    ]
    if len(rows) < limit:
        return rows
    last = rows[-1]
    rest = sql.execute(
        f"{RUN} WHERE {which}change = ? AND run_id > ? ORDER BY run_id", (*arguments, last.change, last.run_id)
    )
    return rows + [run_of(values) for values in rest]


def _read_tasks(sql: sqlite3.Connection, run_id: str, after: int) -> list[tuple[str, int]]:
    return sql.execute(
        "SELECT task_id, change FROM tasks WHERE run_id = ? AND change > ? ORDER BY change, seq", (run_id, after)
    ).fetchall()


class ListingReads(Connected):
    """Implements ListingStore."""

    async def list_runs(self, query: RunQuery) -> list[RunRow]:
        return await self._read(lambda connection: _list_runs(connection, query))


class ChangeReads(Connected):
    """Implements ChangeStore."""

    async def read_changes(self, namespace: str | None, *, after: int, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: _read_changes(connection, namespace, after, limit))

    async def read_tasks(self, run_id: str, *, after: int) -> list[tuple[str, int]]:
        return await self._read(lambda connection: _read_tasks(connection, run_id, after))

    async def last_change(self) -> int:
        return await self._read(last_change)
