"""Checks every row of an embedded database for damage. Changes nothing."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

from perdure.storage.damage import (
    FOUND_MAX,
    about,
    damaged_labels,
    implausible,
    labels_of,
    of_missing_graph,
    of_unknown_kind,
    shown,
)
from perdure.storage.sqlite.mark import change_in, lost, mark_of, read_mark
from perdure.storage.sqlite.open import damaged_counters, tolerant
from perdure.storage.sqlite.rows import (
    EVENT_SELECTED,
    RUN_SELECTED,
    TASK_SELECTED,
    damaged_column_of_event,
    damaged_column_of_run,
    damaged_column_of_task,
)
from perdure.storage.sqlite.schema import impossible_steps, missing_steps
from perdure.storage.sqlite.seals import (
    BLOB_MARK,
    BLOB_USE,
    FUNCTION,
    INPUT,
    MAIL,
    TOMBSTONE,
    name_flipped,
    seal,
    seal_of_use,
    seal_of_value,
)
from perdure.storage.steps import migrations
from perdure.storage.writes import NO_RUN

_Look: TypeAlias = Callable[[sqlite3.Connection], Iterator[str]]


def damages_of(path: Path, kinds: Collection[str] = ()) -> list[str]:
    """The damages, each as a sentence that names the table, the row and the column; the gravest first. With `kinds`,
    runs of other kinds are damage as well.

    Raises sqlite3.Error if nothing can be read.
    """
    marked = read_mark(path)  # before the database, which may have more by then
    try:
        return _damages_of(path, kinds, marked)
    except UnicodeDecodeError as error:  # a message of SQLite with a damaged name
        raise sqlite3.DatabaseError(f"the schema is damaged: {error}") from error


def _damages_of(path: Path, kinds: Collection[str], marked: int | None) -> list[str]:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as sql:
        sql.text_factory = tolerant
        sql.execute("BEGIN")  # read one snapshot
        sound = [f"{path.name}: {text}" for text in damaged_pages(sql, FOUND_MAX)]
        tables = {name for (name,) in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        found = sound + list(_of_commits(sql, path, marked))
        if "migrations" not in tables:
            return found
        if not _is_up_to_date(sql):
            return found + list(_migrations(sql))
        return list(dict.fromkeys([*found, *damaged_rows(sql), *_of_unknown_kinds(sql, kinds)]))


def damaged_pages(sql: sqlite3.Connection, most: int) -> list[str]:
    """The damages that SQLite itself finds, as sentences."""
    return [text for (text,) in sql.execute(f"PRAGMA integrity_check({most})") if text != "ok"]


def damaged_rows(sql: sqlite3.Connection) -> Iterator[str]:
    """Check every row, over a connection that accepts texts that are not UTF-8. The rows themselves are read (NOT
    INDEXED): a damaged index that has all columns of a query would be taken for damaged rows."""
    for _, look in _LOOKS:
        try:
            yield from islice(look(sql), FOUND_MAX)
        except sqlite3.DatabaseError as error:
            yield str(error)


def damaged_tables(sql: sqlite3.Connection) -> frozenset[str]:
    """The tables that have damaged rows. As `damaged_rows`."""
    return frozenset(table for table, look in _LOOKS if _finds_any(look, sql))


def _finds_any(look: _Look, sql: sqlite3.Connection) -> bool:
    try:
        return next(look(sql), None) is not None
    except sqlite3.DatabaseError:
        return True


def _is_up_to_date(sql: sqlite3.Connection) -> bool:
    """Whether rows have seals. (The engine brings an older database up to date.)"""
    applied = {number for (number,) in sql.execute("SELECT number FROM migrations")}
    return {step.number for step in migrations("sqlite")} <= applied


def _of_commits(sql: sqlite3.Connection, path: Path, marked: int | None) -> Iterator[str]:
    last = change_in(sql)
    if marked is None and mark_of(path).exists():
        yield f"{mark_of(path).name} is damaged, so nobody knows whether commits are lost; the next start renews it"
    elif marked and last is not None and last < marked:
        yield str(lost(path, last, marked))


def _counters(sql: sqlite3.Connection) -> Iterator[str]:
    for name in damaged_counters(sql):
        yield f"{about('counters', name, 'value')}; the engine sets it anew when it starts"


def _runs(sql: sqlite3.Connection) -> Iterator[str]:
    for values in sql.execute(f"SELECT {', '.join(RUN_SELECTED)} FROM runs NOT INDEXED"):
        if column := damaged_column_of_run(values):
            yield about("runs", values[0], column)


def _of_unknown_kinds(sql: sqlite3.Connection, kinds: Collection[str]) -> Iterator[str]:
    if kinds:
        marks = ", ".join("?" * len(kinds))
        statement = f"SELECT run_id, kind FROM runs NOT INDEXED WHERE kind NOT IN ({marks}) LIMIT {FOUND_MAX}"
        for run_id, kind in sql.execute(statement, sorted(kinds)):
            yield of_unknown_kind(run_id, kind)


def _specs(sql: sqlite3.Connection) -> Iterator[str]:
    for key, data in sql.execute("SELECT key, data FROM specs NOT INDEXED"):
        if type(data) is not bytes or hashlib.sha256(data).hexdigest() != key:
            yield about("specs", key, "key or data")
    statement = (
        "SELECT run_id, spec_key FROM runs NOT INDEXED WHERE spec_key NOT IN (SELECT key FROM specs NOT INDEXED)"
    )
    for run_id, key in sql.execute(statement):
        yield f"table runs, row {shown(run_id)}: its graph {shown(key)} is not in table specs"


def _tasks(sql: sqlite3.Connection) -> Iterator[str]:
    statement = f"SELECT {', '.join(TASK_SELECTED)}, output_seal, output FROM tasks NOT INDEXED"
    for *values, output_seal, output in sql.execute(statement):
        place = f"{values[0]!r} {values[1]!r}"
        if column := damaged_column_of_task(values):
            yield about("tasks", place, column)
        if values[-1] is not None and (type(output) not in (bytes, type(None)) or seal_of_value(output) != output_seal):
            yield about("tasks", place, "output")


def _events(sql: sqlite3.Connection) -> Iterator[str]:
    for values in sql.execute(f"SELECT {', '.join(EVENT_SELECTED)} FROM events NOT INDEXED"):
        if column := damaged_column_of_event(values):
            yield about("events", f"{values[0]!r} {values[1]!r}", column)


def _sealed(table: str, columns: Sequence[str], seal: Callable[..., int] = seal) -> _Look:
    def look(sql: sqlite3.Connection) -> Iterator[str]:
        for *values, expected in sql.execute(f"SELECT {', '.join(columns)}, seal FROM {table} NOT INDEXED"):
            place = " ".join(repr(value) for value in values if type(value) is not bytes)
            if column := implausible(columns, values):
                yield about(table, place, column)
            elif expected is not None and seal(*values) != expected:
                yield about(table, place, name_flipped(columns, values, expected, seal))

    return look


def _labels(sql: sqlite3.Connection) -> Iterator[str]:
    """Compare the table of labels, which is an index of labels for searches, with the rows of runs."""
    statement = "SELECT run_id, namespace, labels FROM runs NOT INDEXED WHERE labels <> '{}'"
    expected = {
        (namespace, key, value, run_id)
        for run_id, namespace, text in sql.execute(statement)
        for key, value in ((labels_of(text) if isinstance(text, str) else None) or {}).items()
    }
    stored = set(sql.execute("SELECT namespace, key, value, run_id FROM labels NOT INDEXED"))
    yield from damaged_labels(expected, stored)


def _of_nobody(table: str) -> _Look:
    """Rows that belong to a missing run."""

    def look(sql: sqlite3.Connection) -> Iterator[str]:
        statement = (
            f"SELECT DISTINCT run_id FROM {table} NOT INDEXED WHERE run_id NOT IN (SELECT run_id FROM runs NOT INDEXED)"
            f" AND ('{table}' <> 'blob_uses' OR run_id <> '{NO_RUN}')"
        )
        for (run_id,) in sql.execute(statement):
            yield f"table {table}: there are rows of run {shown(run_id)}, which is not in table runs"

    return look


def _uses_of_graphs(sql: sqlite3.Connection) -> Iterator[str]:
    """Uses by missing graphs."""
    statement = "SELECT DISTINCT task_id FROM blob_uses NOT INDEXED WHERE run_id = ? AND task_id NOT IN "
    for (key,) in sql.execute(f"{statement} (SELECT key FROM specs NOT INDEXED)", (NO_RUN,)):
        yield of_missing_graph(key)


def _migrations(sql: sqlite3.Connection) -> Iterator[str]:
    known = {step.number: step.name for step in migrations("sqlite")}
    applied = {number for (number,) in sql.execute("SELECT number FROM migrations")}
    for number in impossible_steps(applied):
        yield f"table migrations: number {number} is that of no version"
    if missing := missing_steps(applied):
        yield f"table migrations: number {missing[0]} is missing, though later ones are there"
    for number, name in sql.execute("SELECT number, name FROM migrations"):
        if number in known and known[number] != name:
            yield about("migrations", number, "name")


_LOOKS: Final[tuple[tuple[str, _Look], ...]] = (
    ("counters", _counters),
    ("runs", _runs),
    ("specs", _specs),
    ("tasks", _tasks),
    ("events", _events),
    ("inputs", _sealed("inputs", INPUT)),
    ("blob_uses", _sealed("blob_uses", BLOB_USE, seal_of_use)),
    ("blob_marks", _sealed("blob_marks", BLOB_MARK)),
    ("mail", _sealed("mail", MAIL)),
    ("tombstones", _sealed("tombstones", TOMBSTONE)),
    ("functions", _sealed("functions", FUNCTION)),
    ("labels", _labels),
    *((table, _of_nobody(table)) for table in ("tasks", "events", "inputs", "labels", "blob_uses", "mail")),
    ("blob_uses", _uses_of_graphs),
    ("migrations", _migrations),
)
