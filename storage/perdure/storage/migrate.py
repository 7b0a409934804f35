"""Applies migrations: in order, each in a transaction of its own, each once."""

from __future__ import annotations

import re
import sqlite3
from importlib import resources
from typing import Final

from perdure.storage.ports import StorageError

_NAME: Final = re.compile(r"(?P<backend>[a-z]+)_(?P<number>\d{4})_\w+\.sql")


def migrations(backend: str) -> list[tuple[int, str, str]]:
    """Number, name and SQL of every migration for a kind of database, in order."""
    found = []
    for file in resources.files("perdure.storage.migrations").iterdir():
        match = _NAME.fullmatch(file.name)
        if match is not None and match["backend"] == backend:
            found.append((int(match["number"]), file.name, file.read_text()))
    return sorted(found)


def migrate_sqlite(connection: sqlite3.Connection) -> None:
    """Bring a database up to date. One that is newer than this version knows is refused."""
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    applied = {number for (number,) in connection.execute("SELECT number FROM migrations")}
    known = migrations("sqlite")
    if unknown := applied - {number for number, _, _ in known}:
        raise StorageError(
            f"the database was made by a newer version of Perdure (migration {max(unknown)}); install that version"
        )
    for number, name, sql in known:
        if number not in applied:
            record = f"INSERT INTO migrations (number, name) VALUES ({number}, '{name}');"
            connection.executescript(f"BEGIN IMMEDIATE;\n{sql}\n{record}\nCOMMIT;")
