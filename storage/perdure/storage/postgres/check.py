"""Reads every row of a PostgreSQL database, and reports values that no version can have written. Changes nothing.

Page checksums are PostgreSQL's task. This finds damage that they do not cover, or that occurs without them.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, Final, TypeAlias

from perdure.storage.damage import FOUND_MAX, about, damaged_labels, labels_of, of_missing_graph, of_unknown_kind, shown
from perdure.storage.ports import CorruptData
from perdure.storage.postgres.connections import CONNECT_ONCE_S, Connection, connect, meaning, take_texts_as_they_are
from perdure.storage.postgres.rows import EVENT_COLUMNS, TASK_SELECTED, event_of, run_of, task_of
from perdure.storage.postgres.schema import verify
from perdure.storage.rows import RUN_COLUMNS
from perdure.storage.writes import NO_RUN

_OF_RUNS: Final = ("tasks", "outputs", "events", "inputs", "labels", "blob_uses", "mail")

Look: TypeAlias = Callable[[Connection], AsyncIterator[str]]


async def damages_of(url: str, kinds: Collection[str] = ()) -> list[str]:
    """The damages, each as a sentence that names the table, the row and the column. With `kinds`, runs of other kinds
    are damage as well. Raises StorageError if nothing can be read."""
    with meaning(url):
        connection = await connect(url, timeout_s=CONNECT_ONCE_S)
        try:
            await verify(connection, url)
            await take_texts_as_they_are(connection)
            found: list[str] = []
            async with connection.transaction(isolation="repeatable_read", readonly=True):  # all is of one moment
                for look in _LOOKS:
                    found += [text async for text in _first(look(connection))]
                found += [text async for text in _first(_of_unknown_kinds(connection, kinds))]
            return found
        finally:
            connection.terminate()


async def _first(texts: AsyncIterator[str]) -> AsyncIterator[str]:
    count = 0
    async for text in texts:
        yield text
        count += 1
        if count == FOUND_MAX:
            return


async def _runs(connection: Connection) -> AsyncIterator[str]:
    async for record in connection.cursor(f"SELECT {', '.join(RUN_COLUMNS)} FROM runs"):
        if damage := run_of(record).damage:
            yield damage


async def _of_unknown_kinds(connection: Connection, kinds: Collection[str]) -> AsyncIterator[str]:
    if kinds:
        statement = "SELECT run_id, kind FROM runs WHERE kind <> ALL ($1::text[])"
        async for run_id, kind in connection.cursor(statement, sorted(kinds)):
            yield of_unknown_kind(run_id, kind)


async def _specs(connection: Connection) -> AsyncIterator[str]:
    async for key, data in connection.cursor("SELECT key, data FROM specs"):
        if hashlib.sha256(data).hexdigest() != key:
            yield about("specs", key, "key or data")
    missing = "SELECT run_id, spec_key FROM runs WHERE NOT EXISTS (SELECT 1 FROM specs WHERE key = spec_key)"
    async for run_id, key in connection.cursor(missing):
        yield f"table runs, row {shown(run_id)}: its graph {shown(key)} is not in table specs"


def _readable(table: str, columns: tuple[str, ...], read: Callable[[Any], object]) -> Look:
    async def look(connection: Connection) -> AsyncIterator[str]:
        async for record in connection.cursor(f"SELECT {', '.join(columns)} FROM {table}"):
            try:
                read(record)
            except CorruptData as error:
                yield str(error)

    return look


async def _labels(connection: Connection) -> AsyncIterator[str]:
    written: set[tuple[str, str, str, str]] = set()
    async for run_id, namespace, text in connection.cursor(
        "SELECT run_id, namespace, labels FROM runs WHERE labels <> '{}'"
    ):
        written.update((namespace, key, value, run_id) for key, value in (labels_of(text) or {}).items())
    stored = {tuple(record) async for record in connection.cursor("SELECT namespace, key, value, run_id FROM labels")}
    for text in damaged_labels(written, stored):
        yield text


async def _of_nobody(connection: Connection) -> AsyncIterator[str]:
    for table in _OF_RUNS:
        nobody = f"NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_id = {table}.run_id)"
        if table == "blob_uses":
            nobody += f" AND run_id <> '{NO_RUN}'"
        async for (run_id,) in connection.cursor(f"SELECT DISTINCT run_id FROM {table} WHERE {nobody}"):
            yield f"table {table}: there are rows of run {shown(run_id)}, which is not in table runs"


async def _uses_of_graphs(connection: Connection) -> AsyncIterator[str]:
    missing = "NOT EXISTS (SELECT 1 FROM specs WHERE specs.key = blob_uses.task_id)"
    statement = f"SELECT DISTINCT task_id FROM blob_uses WHERE run_id = '{NO_RUN}' AND {missing}"
    async for (key,) in connection.cursor(statement):
        yield of_missing_graph(key)


_LOOKS: Final[tuple[Look, ...]] = (
    _runs,
    _specs,
    _readable("tasks", TASK_SELECTED, task_of),
    _readable("events", EVENT_COLUMNS, event_of),
    _labels,
    _of_nobody,
    _uses_of_graphs,
)
