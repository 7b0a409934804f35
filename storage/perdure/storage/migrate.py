"""Migrations: numbered files of SQL, each applied once, in order, in a transaction of its own.

`sqlite_NNNN_name.sql` is applied when the file is opened. `postgres_NNNN_[pre|post_]name.sql` is applied by
`perdure migrate`, since several engines, of two versions perhaps, share a database. A step without a
phase is a pre step.

- *pre* steps come before the first engine of the new version starts; engines of the version before go
  on working beside them (new tables, new columns with defaults, new indexes);
- *post* steps come after the last engine of the version before has ended (removing what only it used).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

from perdure.storage.ports import CorruptData, StorageError
from perdure.storage.urls import POSTGRES, metadata_store

Phase: TypeAlias = Literal["pre", "post"]

_NAME: Final = re.compile(r"(?P<backend>[a-z]+)_(?P<number>\d{4})_(?:(?P<phase>pre|post)_)?\w+\.sql")


@dataclass(frozen=True, slots=True, order=True)
class Migration:
    """One step."""

    number: int
    name: str
    phase: Phase
    sql: str


def migrations(backend: str) -> list[Migration]:
    """Every step for a kind of database, in order."""
    found = []
    for file in resources.files("perdure.storage.migrations").iterdir():
        match = _NAME.fullmatch(file.name)
        if match is not None and match["backend"] == backend:
            phase: Phase = "post" if match["phase"] == "post" else "pre"
            found.append(Migration(int(match["number"]), file.name, phase, file.read_text()))
    return sorted(found)


async def migrate(url: str, phase: Phase | None = None) -> list[str]:
    """Bring the store of a URL up to date, or one phase of it; gives the names of the steps applied now.
    Raises StorageError, and ValueError for what is no store that lasts."""
    scheme = urlsplit(url).scheme
    if scheme in POSTGRES:
        try:
            from perdure.storage.postgres.schema import migrate as migrate_postgres
        except ModuleNotFoundError as error:
            raise ValueError(f"PostgreSQL needs more packages: pip install 'perdure[server]' ({error})") from error
        return await migrate_postgres(url, phase)
    if scheme == "memory":
        raise ValueError("what is in memory needs no migration")
    store = metadata_store(url)
    try:
        await store.open()
    finally:
        await store.close()
    return []


def missing_steps(applied: Collection[int]) -> list[int]:
    """Numbers of steps that are missing though later ones were applied, which no version does."""
    last = min(max(applied, default=0), len(migrations("sqlite")))
    return [number for number in range(1, last + 1) if number not in applied]


def migrate_sqlite(connection: sqlite3.Connection) -> None:
    """Bring a database up to date. One that is newer than this version knows is refused."""
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    applied = {number for (number,) in connection.execute("SELECT number FROM migrations")}
    known = migrations("sqlite")
    if missing := missing_steps(applied):
        raise CorruptData(
            f"the database is damaged: migration {missing[0]} is missing, though later ones are there; "
            "restore a backup",
            subject="migrations",
        )
    if unknown := applied - {step.number for step in known}:
        raise StorageError(
            f"the database was made by a newer version of Perdure (migration {max(unknown)}); install that version"
        )
    for step in known:
        if step.number not in applied:
            record = f"INSERT INTO migrations (number, name) VALUES ({step.number}, '{step.name}');"
            connection.executescript(f"BEGIN IMMEDIATE;\n{step.sql}\n{record}\nCOMMIT;")
