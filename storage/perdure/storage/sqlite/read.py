"""Reads rows from SQLite. Runs in the reader's thread."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from types import NoneType
from typing import Any, Final

from perdure.storage.damage import implausible, is_text
from perdure.storage.ports import CorruptData
from perdure.storage.rows import (
    LABELLED_MAX,
    AllOf,
    AnyOf,
    BlobMark,
    Comparison,
    Condition,
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
from perdure.storage.sqlite.rows import EVENT_SELECTED, RUN_SELECTED, TASK_SELECTED, corrupt, event_of, run_of, task_of
from perdure.storage.sqlite.runs import FAILURE
from perdure.storage.sqlite.seals import INPUT, TOMBSTONE, name_flipped, seal, seal_of_value

KEYS_MAX: Final = 500
"""Keys of one IN list."""

_RUN: Final = f"SELECT {', '.join(RUN_SELECTED)} FROM runs"
_AS_JSON: Final = ", ".join("iif(failure IS NULL, NULL, hex(failure))" if n == "failure" else n for n in RUN_SELECTED)
_RUNS_AT_ONCE: Final = (
    f"SELECT json_group_array(json_array({_AS_JSON})) FROM runs WHERE run_id IN (SELECT value FROM json_each(?))"
)
"""One row with all runs as JSON: fetching a row releases the GIL and must get it back."""
_TASK: Final = f"SELECT {', '.join(TASK_SELECTED)} FROM tasks"
_EVENT: Final = f"SELECT {', '.join(EVENT_SELECTED)} FROM events"


def one_run(sql: sqlite3.Connection, where: str, arguments: Sequence[Any]) -> RunRow | None:
    found = sql.execute(f"{_RUN} WHERE {where}", arguments).fetchone()
    return None if found is None else run_of(found)


def find_run(sql: sqlite3.Connection, namespace: str, workflow_id: str) -> RunRow | None:
    return one_run(sql, "namespace = ? AND workflow_id = ? AND is_current = 1", (namespace, workflow_id))


def find_request(sql: sqlite3.Connection, namespace: str, request_id: str) -> RunRow | None:
    return one_run(sql, "namespace = ? AND request_id = ? AND request_id <> ''", (namespace, request_id))


def get_run(sql: sqlite3.Connection, run_id: str) -> RunRow | None:
    return one_run(sql, "run_id = ?", (run_id,))


def get_runs(sql: sqlite3.Connection, run_ids: Collection[str]) -> list[RunRow]:
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


def find_event(sql: sqlite3.Connection, run_id: str, key: str, event_id: str) -> int | None:
    where = "run_id = ? AND key = ? AND event_id = ?"
    found = sql.execute(f"SELECT sequence FROM events WHERE {where}", (run_id, key, event_id)).fetchone()
    return None if found is None else int(found[0])


def read_events(sql: sqlite3.Connection, run_id: str, after: int) -> list[EventRow]:
    # Events whose two columns differ are read too, because they are damaged.
    where = "run_id = ? AND (consumed_by = '' OR is_taken IS NOT 1) AND sequence > ? ORDER BY sequence"
    return [event_of(values) for values in sql.execute(f"{_EVENT} WHERE {where}", (run_id, after))]


def latest_events(sql: sqlite3.Connection, run_id: str, limit: int) -> list[EventName]:
    found = sql.execute(f"{_EVENT} WHERE run_id = ? ORDER BY sequence DESC LIMIT ?", (run_id, limit))
    events = (event_of(values) for values in found)
    return [EventName(event.sequence, event.key, event.event_id, event.arrived_ms) for event in events]


def read_tombstone(sql: sqlite3.Connection, key: str) -> Tombstone | None:
    found = sql.execute(f"SELECT {', '.join(TOMBSTONE)}, seal FROM tombstones WHERE key = ?", (key,)).fetchone()
    if found is None:
        return None
    *values, expected = found
    return Tombstone(*values) if not implausible(TOMBSTONE, values) and seal(*values) == expected else None


def load_run(sql: sqlite3.Connection, run_id: str) -> StoredRun | None:
    """Read a run in one transaction, so that all of it is of one snapshot."""
    sql.execute("BEGIN")
    try:
        row = get_run(sql, run_id)
        return None if row is None else _load(sql, row)
    finally:
        sql.execute("COMMIT")


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


def read_specs(sql: sqlite3.Connection, keys: Sequence[str]) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    for start in range(0, len(keys), KEYS_MAX):
        part = keys[start : start + KEYS_MAX]
        marks = ", ".join("?" * len(part))
        found.update(sql.execute(f"SELECT key, data FROM specs WHERE key IN ({marks})", part).fetchall())
    return found


def read_values(sql: sqlite3.Connection, keys: Sequence[ValueKey]) -> list[bytes | None]:
    return [_value(sql, key) for key in keys]


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


def unfinished_runs(sql: sqlite3.Connection, after: str, limit: int) -> list[RunRow]:
    return [
        run_of(values)
        for values in sql.execute(
            # the first test is that of the index
            f"{_RUN} WHERE status IN ('RUNNING', 'PENDING') AND is_dormant = 0 AND status = 'RUNNING' AND run_id > ? "
            "ORDER BY run_id LIMIT ?",
            (after, limit),
        )
    ]


def running_runs(sql: sqlite3.Connection) -> list[tuple[str, str]]:
    # From namespace to namespace, so that ended runs are not read. Runs that are not current have ended.
    # Names are bytes here, because a damaged one need not be a text.
    found: list[tuple[str, str]] = []
    namespace = b""
    while row := sql.execute(
        "SELECT CAST(namespace AS BLOB) FROM runs WHERE is_current = 1 AND namespace > CAST(? AS TEXT) "
        "ORDER BY namespace LIMIT 1",
        (namespace,),
    ).fetchone():
        (namespace,) = row
        found += sql.execute(
            "SELECT namespace, run_id FROM runs WHERE is_current = 1 AND namespace = CAST(? AS TEXT) "
            "AND status = 'RUNNING'",
            (namespace,),
        )
    return found


def count_pending(sql: sqlite3.Connection) -> Mapping[str, int]:
    statement = "SELECT namespace, count(*) FROM runs WHERE status = 'PENDING' GROUP BY namespace"
    return {namespace: count for namespace, count in sql.execute(statement) if is_text(namespace)}


def pending_runs(sql: sqlite3.Connection, namespace: str, limit: int) -> list[RunRow]:
    statement = f"{_RUN} WHERE namespace = ? AND status = 'PENDING' ORDER BY change, run_id LIMIT ?"
    return [run_of(values) for values in sql.execute(statement, (namespace, limit))]


def next_timers(sql: sqlite3.Connection, until_ms: int, limit: int) -> list[Timer]:
    return [
        _timer(*values)
        for values in sql.execute(
            "SELECT tasks.run_id, task_id, attempt, wake_ms FROM tasks JOIN runs USING (run_id) "
            "WHERE wake_ms IS NOT NULL AND wake_ms <= ? AND tasks.status IN ('RUNNING', 'BACKING_OFF') "
            "AND runs.status = 'RUNNING' ORDER BY wake_ms, tasks.run_id, task_id LIMIT ?",
            (until_ms, limit),
        )
    ]


def _timer(run_id: str, task_id: Any, attempt: Any, wake_ms: Any) -> Timer:
    """A timer from possibly damaged columns. The damage is reported when the run is loaded."""
    is_good = type(attempt) is int and type(wake_ms) is int and isinstance(task_id, str)
    return Timer(run_id, task_id, attempt, wake_ms) if is_good else Timer(run_id, str(task_id), 0, 0)


def list_runs(sql: sqlite3.Connection, query: RunQuery) -> list[RunRow]:
    arguments: list[Any] = [query.namespace]
    where = ["namespace = ?", "is_current = 1"]
    if query.where is not None:
        where.append(_condition(query.where, arguments))
    comparison, direction = ("<", "DESC") if query.descending else (">", "ASC")
    if query.after is not None:
        where.append(f"({query.order_by}, run_id) {comparison} (?, ?)")
        arguments += query.after
    arguments.append(query.limit)
    runs = _RUN
    if (few := _few_with_a_label(sql, query)) is not None:
        # Force the planner to take these runs first: it does not flatten a subquery with LIMIT.
        these = "(SELECT * FROM runs WHERE run_id IN (SELECT value FROM json_each(?)) LIMIT -1) AS runs"
        runs = _RUN.replace("FROM runs", f"FROM {these}")
        arguments.insert(0, json.dumps(few))
    statement = f"{runs} WHERE {' AND '.join(where)} ORDER BY {query.order_by} {direction}, run_id {direction} LIMIT ?"
    return [run_of(values) for values in sql.execute(statement, arguments)]


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


def read_changes(sql: sqlite3.Connection, namespace: str | None, after: int, limit: int) -> list[RunRow]:
    which, arguments = ("namespace = ? AND ", (namespace,)) if namespace is not None else ("", ())
    rows = [
        run_of(values)
        for values in sql.execute(
            f"{_RUN} WHERE {which}change > ? ORDER BY change, run_id LIMIT ?", (*arguments, after, limit)
        )
    ]
    if len(rows) < limit:
        return rows
    last = rows[-1]
    rest = sql.execute(
        f"{_RUN} WHERE {which}change = ? AND run_id > ? ORDER BY run_id", (*arguments, last.change, last.run_id)
    )
    return rows + [run_of(values) for values in rest]


def read_tasks(sql: sqlite3.Connection, run_id: str, after: int) -> list[tuple[str, int]]:
    return sql.execute(
        "SELECT task_id, change FROM tasks WHERE run_id = ? AND change > ? ORDER BY change, seq", (run_id, after)
    ).fetchall()


def marked_blobs(sql: sqlite3.Connection, after: str, limit: int) -> list[BlobMark]:
    return [
        BlobMark(sha256, change, bool(is_used))
        for sha256, change, is_used in sql.execute(
            "SELECT sha256, change, EXISTS (SELECT 1 FROM blob_uses WHERE blob_uses.sha256 = blob_marks.sha256) "
            "FROM blob_marks WHERE sha256 > ? ORDER BY sha256 LIMIT ?",
            (after, limit),
        )
    ]


def unused_blobs(sql: sqlite3.Connection, sha256s: Sequence[str]) -> list[str]:
    found = sql.execute(
        "SELECT given.value FROM json_each(?) AS given "
        "WHERE NOT EXISTS (SELECT 1 FROM blob_uses WHERE blob_uses.sha256 = given.value) "
        "AND NOT EXISTS (SELECT 1 FROM blob_marks WHERE blob_marks.sha256 = given.value)",
        (json.dumps(list(sha256s)),),
    )
    return [sha256 for (sha256,) in found]


def finished_runs(sql: sqlite3.Connection, before_ms: int, limit: int) -> list[RunRow]:
    # A run has an `end_ms` exactly while its state is final.
    where = "end_ms IS NOT NULL AND end_ms < ? ORDER BY end_ms, run_id LIMIT ?"
    return [run_of(values) for values in sql.execute(f"{_RUN} WHERE {where}", (before_ms, limit))]


def read_mail(sql: sqlite3.Connection, limit: int) -> list[MailRow]:
    statement = "SELECT number, run_id, kind, data FROM mail ORDER BY number LIMIT ?"
    return [MailRow(*values) for values in sql.execute(statement, (limit,))]


def last_change(sql: sqlite3.Connection) -> int:
    (change,) = sql.execute("SELECT value FROM counters WHERE name = 'change'").fetchone()
    return int(change)
