"""The schema of a SQLite store: brings it up to date when the file is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from pathlib import Path

from perdure.storage.ports import CorruptData, StorageError
from perdure.storage.steps import migrations


def missing_steps(applied: Collection[int]) -> list[int]:
    """Numbers of missing steps before applied ones. No version leaves such a gap."""
    last = min(max(applied, default=0), len(migrations("sqlite")))
    return [number for number in range(1, last + 1) if number not in applied]


def impossible_steps(applied: Collection[int]) -> list[int]:
    """Applied numbers that no version has."""
    return sorted(number for number in applied if number < 1)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the database in this file up to date. A database of a newer version is refused."""
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    applied = {number for (number,) in connection.execute("SELECT number FROM migrations")}
    known = migrations("sqlite")
    if impossible := impossible_steps(applied):
        raise CorruptData(
            f"{path} is damaged: it names migration {impossible[0]}, which no version has; restore a backup",
            subject="migrations",
        )
    if missing := missing_steps(applied):
        raise CorruptData(
            f"{path} is damaged: migration {missing[0]} is missing, though later ones are there; restore a backup",
            subject="migrations",
        )
    if unknown := applied - {step.number for step in known}:
        raise StorageError(
            f"{path} was made by a newer version of Perdure (migration {max(unknown)}); install that version"
        )
    for step in known:
        if step.number not in applied:
            record = f"INSERT INTO migrations (number, name) VALUES ({step.number}, '{step.name}');"
            connection.executescript(f"BEGIN IMMEDIATE;\n{step.sql}\n{record}\nCOMMIT;")
