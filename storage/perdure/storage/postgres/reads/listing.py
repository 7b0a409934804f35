"""Runs by conditions, and what changed since a commit."""

from __future__ import annotations

from typing import Any, Final

from perdure.storage.postgres.connected import Connected
from perdure.storage.postgres.connections import Connection
from perdure.storage.postgres.reads.runs import RUN, runs_of
from perdure.storage.postgres.rows import OF_ACTORS, OF_WORKFLOWS
from perdure.storage.queries import LABELLED_MAX, AllOf, AnyOf, Comparison, Condition, RunQuery, labels_of_all
from perdure.storage.rows import RUN_COLUMNS, RunRow

_OPEN: Final = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint + (SELECT shift FROM numbering)"
"""Commits with lower numbers are decided, and visible to this statement."""


async def _few_with_a_label(connection: Connection, query: RunQuery) -> list[str] | None:
    """Runs with a label of the query, if there are few of them; None: there are many."""
    for key, value in labels_of_all(query.where):
        if "\0" in value:
            return []
        records = await connection.fetch(
            "SELECT run_id FROM labels WHERE namespace = $1 AND key = $2 AND value = $3 LIMIT $4",
            query.namespace,
            key,
            value,
            LABELLED_MAX + 1,
        )
        if len(records) <= LABELLED_MAX:
            return [run_id for (run_id,) in records]
    return None


def _condition(condition: Condition, arguments: list[Any]) -> str:
    """SQL for a condition; its values are appended to the arguments. Columns come from a closed set."""
    match condition:
        case AllOf(parts):
            return "(" + (" AND ".join(_condition(part, arguments) for part in parts) or "TRUE") + ")"
        case AnyOf(parts):
            return "(" + (" OR ".join(_condition(part, arguments) for part in parts) or "FALSE") + ")"
        case Comparison(field=name, operator=operator, value=value):
            if name.startswith("labels."):
                arguments.append(name.removeprefix("labels."))
                place = len(arguments)
                test = _comparison("value", operator, value, arguments)
                return (
                    f"EXISTS (SELECT 1 FROM labels WHERE labels.run_id = runs.run_id AND labels.key = ${place} "
                    f"AND {test})"
                )
            if name not in RUN_COLUMNS:
                raise ValueError(f"no such column: {name}")
            return _comparison(f"runs.{name}", operator, value, arguments)


def _comparison(column: str, operator: str, value: str | int, arguments: list[Any]) -> str:
    if operator not in ("=", "!=", "<", "<=", ">", ">=", ":"):
        raise ValueError(f"no such operator: {operator}")
    if isinstance(value, str) and "\0" in value:  # no stored text has one
        value, _, _ = value.partition("\0")
        if operator in ("=", ":"):
            return "FALSE"
        operator = {"!=": ">=", "<": "<=", ">=": ">"}.get(operator, operator)
        value = "" if operator == ">=" else value
    arguments.append(value)
    if operator == ":":
        return f"starts_with({column}, ${len(arguments)})"
    return f"{column} {operator} ${len(arguments)}"


async def _list_runs(connection: Connection, query: RunQuery) -> list[RunRow]:
    arguments: list[Any] = [query.namespace]
    where = ["namespace = $1", "is_current", OF_ACTORS if query.of_actors else OF_WORKFLOWS]
    if query.where is not None:
        where.append(_condition(query.where, arguments))
    comparison, direction = ("<", "DESC") if query.descending else (">", "ASC")
    if query.after is not None:
        arguments += query.after
        where.append(f"({query.order_by}, run_id) {comparison} (${len(arguments) - 1}, ${len(arguments)})")
    arguments.append(query.limit)
    order = f"{query.order_by} {direction}, run_id {direction} LIMIT ${len(arguments)}"
    runs = RUN
    if (few := await _few_with_a_label(connection, query)) is not None:
        arguments.append(few)
        # OFFSET 0 forces the planner to take these runs first, and then to test the other conditions.
        these = f"(SELECT * FROM runs WHERE run_id = ANY (${len(arguments)}::text[]) OFFSET 0) AS runs"
        runs = RUN.replace("FROM runs", f"FROM {these}")
    return await runs_of(connection, f"{runs} WHERE {' AND '.join(where)} ORDER BY {order}", *arguments)


async def _read_changes(connection: Connection, namespace: str | None, after: int, limit: int) -> list[RunRow]:
    which = "" if namespace is None else "namespace = $3 AND "
    named = () if namespace is None else (namespace,)
    rows = await runs_of(
        connection,
        f"{RUN} WHERE {which}change > $1 AND change < {_OPEN} ORDER BY change, run_id LIMIT $2",
        after,
        limit,
        *named,
    )
    if len(rows) < limit:
        return rows
    last = rows[-1]
    rest = await runs_of(
        connection, f"{RUN} WHERE {which}change = $1 AND run_id > $2 ORDER BY run_id", last.change, last.run_id, *named
    )
    return rows + rest


async def _read_tasks(connection: Connection, run_id: str, after: int) -> list[tuple[str, int]]:
    statement = "SELECT task_id, change FROM tasks WHERE run_id = $1 AND change > $2 ORDER BY change, seq"
    return [(task_id, change) for task_id, change in await connection.fetch(statement, run_id, after)]


async def _last_change(connection: Connection) -> int:
    return int(await connection.fetchval(f"SELECT {_OPEN} - 1"))


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
        return await self._read(_last_change)
