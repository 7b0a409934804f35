"""Reads rows from PostgreSQL. `me` is the engine whose runs are read, "" means all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

from perdure.storage.ports import CorruptData
from perdure.storage.postgres.connections import Connection
from perdure.storage.postgres.rows import EVENT_COLUMNS, TASK_COLUMNS, event_of, run_of, task_of
from perdure.storage.rows import (
    LABELLED_MAX,
    RUN_COLUMNS,
    AllOf,
    AnyOf,
    BlobMark,
    Comparison,
    Condition,
    EngineRow,
    EventName,
    EventRow,
    MailRow,
    RunQuery,
    RunRow,
    StoredRun,
    Timer,
    Tombstone,
    ValueKey,
    labels_of_all,
)

T = TypeVar("T")

LOADED_AT_ONCE = 1_000
"""Tasks of a run that are decoded in one turn of the event loop. Each takes some ten microseconds."""

_RUN: Final = f"SELECT {', '.join(f'runs.{name}' for name in RUN_COLUMNS)} FROM runs"
_EVENT: Final = ", ".join(EVENT_COLUMNS)
_OPEN: Final = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint + (SELECT shift FROM numbering)"
"""Commits with lower numbers are decided, and visible to this statement."""


async def _runs(connection: Connection, statement: str, *arguments: Any) -> list[RunRow]:
    return [run_of(record) for record in await connection.fetch(statement, *arguments)]


async def _one_run(connection: Connection, where: str, *arguments: Any) -> RunRow | None:
    found = await connection.fetchrow(f"{_RUN} WHERE {where}", *arguments)
    return None if found is None else run_of(found)


async def find_run(connection: Connection, namespace: str, workflow_id: str) -> RunRow | None:
    where = "namespace || E'\\n' || workflow_id = $1 || E'\\n' || $2 AND is_current"
    return await _one_run(connection, where, namespace, workflow_id)


async def find_request(connection: Connection, namespace: str, request_id: str) -> RunRow | None:
    where = "namespace || E'\\n' || request_id = $1 || E'\\n' || $2 AND request_id <> ''"
    return await _one_run(connection, where, namespace, request_id)


async def get_run(connection: Connection, run_id: str) -> RunRow | None:
    return await _one_run(connection, "run_id = $1", run_id)


async def get_runs(connection: Connection, run_ids: Collection[str]) -> list[RunRow]:
    return await _runs(connection, f"{_RUN} WHERE run_id = ANY ($1::text[])", list(run_ids))


async def find_event(connection: Connection, run_id: str, key: str, event_id: str) -> int | None:
    statement = "SELECT sequence FROM events WHERE run_id = $1 AND key = $2 AND event_id = $3"
    found: int | None = await connection.fetchval(statement, run_id, key, event_id)
    return found


async def read_events(connection: Connection, run_id: str, after: int) -> list[EventRow]:
    statement = (
        f"SELECT {_EVENT} FROM events WHERE run_id = $1 AND consumed_by = '' AND sequence > $2 ORDER BY sequence"
    )
    return [event_of(record) for record in await connection.fetch(statement, run_id, after)]


async def latest_events(connection: Connection, run_id: str, limit: int) -> list[EventName]:
    statement = (
        "SELECT sequence, key, event_id, arrived_ms FROM events WHERE run_id = $1 ORDER BY sequence DESC LIMIT $2"
    )
    return [EventName(*record) for record in await connection.fetch(statement, run_id, limit)]


async def read_tombstone(connection: Connection, key: str) -> Tombstone | None:
    found = await connection.fetchrow("SELECT key, data, expires_ms FROM tombstones WHERE key = $1", key)
    return None if found is None else Tombstone(*found)


_TASKS: Final = f"SELECT {', '.join(TASK_COLUMNS)} FROM tasks WHERE tasks.run_id = $1 ORDER BY seq"
_WAITING: Final = f"SELECT {_EVENT} FROM events WHERE events.run_id = $1 AND consumed_by = '' ORDER BY sequence"
_LOAD: Final = f"""
    {_RUN.replace(" FROM runs", "")},
        ARRAY(SELECT name FROM inputs WHERE inputs.run_id = runs.run_id ORDER BY name),
        ARRAY({_TASKS.replace(", ".join(TASK_COLUMNS), f"ROW({', '.join(TASK_COLUMNS)})")} LIMIT $2),
        ARRAY({_WAITING.replace(_EVENT, f"ROW({_EVENT})")} LIMIT $2),
        coalesce((SELECT max(sequence) FROM events WHERE events.run_id = runs.run_id), 0)
    FROM runs WHERE runs.run_id = $1
"""


async def load_run(connection: Connection, run_id: str) -> StoredRun | None:
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


async def read_specs(connection: Connection, keys: Sequence[str]) -> Mapping[str, bytes]:
    records = await connection.fetch("SELECT key, data FROM specs WHERE key = ANY ($1::text[])", keys)
    return dict(records)


async def read_values(connection: Connection, keys: Sequence[ValueKey]) -> list[bytes | None]:
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


async def unfinished_runs(connection: Connection, me: str, after: str, limit: int) -> list[RunRow]:
    where = "status = 'RUNNING' AND NOT is_dormant AND run_id > $1"
    if not me:
        return await _runs(connection, f"{_RUN} WHERE {where} ORDER BY run_id LIMIT $2", after, limit)
    return await _runs(connection, f"{_RUN} WHERE {where} AND owner = $3 ORDER BY run_id LIMIT $2", after, limit, me)


async def running_runs(connection: Connection) -> list[tuple[str, str]]:
    records = await connection.fetch("SELECT namespace, run_id FROM runs WHERE status = 'RUNNING'")
    return [(namespace, run_id) for namespace, run_id in records]


async def count_pending(connection: Connection) -> Mapping[str, int]:
    statement = "SELECT namespace, count(*) FROM runs WHERE status = 'PENDING' GROUP BY namespace"
    return dict(await connection.fetch(statement))


async def pending_runs(connection: Connection, namespace: str, limit: int) -> list[RunRow]:
    where = "namespace = $1 AND status = 'PENDING' ORDER BY change, run_id LIMIT $2"
    return await _runs(connection, f"{_RUN} WHERE {where}", namespace, limit)


async def next_timers(connection: Connection, me: str, until_ms: int, limit: int) -> list[Timer]:
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


async def list_runs(connection: Connection, query: RunQuery) -> list[RunRow]:
    arguments: list[Any] = [query.namespace]
    where = ["namespace = $1", "is_current"]
    if query.where is not None:
        where.append(_condition(query.where, arguments))
    comparison, direction = ("<", "DESC") if query.descending else (">", "ASC")
    if query.after is not None:
        arguments += query.after
        where.append(f"({query.order_by}, run_id) {comparison} (${len(arguments) - 1}, ${len(arguments)})")
    arguments.append(query.limit)
    order = f"{query.order_by} {direction}, run_id {direction} LIMIT ${len(arguments)}"
    runs = _RUN
    if (few := await _few_with_a_label(connection, query)) is not None:
        arguments.append(few)
        # OFFSET 0 forces the planner to take these runs first, and then to test the other conditions.
        these = f"(SELECT * FROM runs WHERE run_id = ANY (${len(arguments)}::text[]) OFFSET 0) AS runs"
        runs = _RUN.replace("FROM runs", f"FROM {these}")
    return await _runs(connection, f"{runs} WHERE {' AND '.join(where)} ORDER BY {order}", *arguments)


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


async def read_changes(connection: Connection, namespace: str | None, after: int, limit: int) -> list[RunRow]:
    which = "" if namespace is None else "namespace = $3 AND "
    named = () if namespace is None else (namespace,)
    rows = await _runs(
        connection,
        f"{_RUN} WHERE {which}change > $1 AND change < {_OPEN} ORDER BY change, run_id LIMIT $2",
        after,
        limit,
        *named,
    )
    if len(rows) < limit:
        return rows
    last = rows[-1]
    rest = await _runs(
        connection, f"{_RUN} WHERE {which}change = $1 AND run_id > $2 ORDER BY run_id", last.change, last.run_id, *named
    )
    return rows + rest


async def read_tasks(connection: Connection, run_id: str, after: int) -> list[tuple[str, int]]:
    statement = "SELECT task_id, change FROM tasks WHERE run_id = $1 AND change > $2 ORDER BY change, seq"
    return [(task_id, change) for task_id, change in await connection.fetch(statement, run_id, after)]


async def marked_blobs(connection: Connection, after: str, limit: int) -> list[BlobMark]:
    records = await connection.fetch(
        "SELECT sha256, change, EXISTS (SELECT 1 FROM blob_uses WHERE blob_uses.sha256 = blob_marks.sha256) "
        "FROM blob_marks WHERE sha256 > $1 ORDER BY sha256 LIMIT $2",
        after,
        limit,
    )
    return [BlobMark(*record) for record in records]


async def unused_blobs(connection: Connection, sha256s: Sequence[str]) -> list[str]:
    records = await connection.fetch(
        "SELECT sha256 FROM unnest($1::text[]) AS given(sha256) "
        "WHERE NOT EXISTS (SELECT 1 FROM blob_uses WHERE blob_uses.sha256 = given.sha256) "
        "AND NOT EXISTS (SELECT 1 FROM blob_marks WHERE blob_marks.sha256 = given.sha256)",
        list(sha256s),
    )
    return [sha256 for (sha256,) in records]


async def finished_runs(connection: Connection, before_ms: int, limit: int) -> list[RunRow]:
    # A run has an `end_ms` exactly while its state is final.
    where = "end_ms IS NOT NULL AND end_ms < $1 ORDER BY end_ms, run_id LIMIT $2"
    return await _runs(connection, f"{_RUN} WHERE {where}", before_ms, limit)


async def last_change(connection: Connection) -> int:
    return int(await connection.fetchval(f"SELECT {_OPEN} - 1"))


async def engines(connection: Connection) -> list[EngineRow]:
    statement = (
        "SELECT engine_id, name, address, version, started_ms, expires_ms, is_dead FROM engines "
        "ORDER BY started_ms, engine_id"
    )
    return [EngineRow(*record) for record in await connection.fetch(statement)]


async def read_mail(connection: Connection, me: str, limit: int) -> list[MailRow]:
    statement = (
        "SELECT number, run_id, kind, data FROM mail "
        "WHERE (SELECT $1 IN ('', runs.owner) FROM runs WHERE runs.run_id = mail.run_id) ORDER BY number LIMIT $2"
    )
    return [MailRow(*record) for record in await connection.fetch(statement, me, limit)]
