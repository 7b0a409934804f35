"""The number of the last commit, in a small file beside an embedded database.

The last commits are in the write-ahead log. When its end is lost (by a repair of the file system, or a copy without
the log), SQLite opens the database in an earlier state: nothing in the file shows that there were more commits. The
mark does. It is written after each commit, so it never names a commit that is not durable. It is not flushed: after
the death of the process it names the last commit, after a power failure perhaps one of some seconds before.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final
from zlib import crc32

from perdure.storage.ports import CorruptData

SUFFIX: Final = ".mark"
_HEAD: Final = "perdure commit"
BYTES: Final = len(f"{_HEAD} {0:020} {0:08x}\n")


class LostCommits(CorruptData):
    """The database ends before a commit that was acknowledged."""


class Mark:
    """The mark file. It is open as long as the store is."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, change: int) -> None:
        """Name a durable commit. If the mark cannot be written it keeps its old value, which is harmless."""
        with suppress(OSError):
            os.pwrite(self._descriptor, _line(change), 0)

    def sync(self) -> None:
        """Flush the mark, so that it survives a power failure."""
        with suppress(OSError):
            os.fsync(self._descriptor)

    def close(self) -> None:
        self.sync()
        os.close(self._descriptor)


def mark_of(database: Path) -> Path:
    return database.with_name(database.name + SUFFIX)


def read_mark(database: Path) -> int | None:
    """The number in the mark; None: there is no mark, or it cannot be read."""
    try:
        data = mark_of(database).read_bytes()[:BYTES]
        change = int(data.split()[-2])
    except (FileNotFoundError, ValueError, IndexError):
        return None
    return change if data == _line(change) else None


def check_mark(database: Path) -> None:
    """Compare an embedded database with its mark, while no engine uses it. Changes nothing. Raises LostCommits."""
    marked = read_mark(database)
    if not marked:
        return
    last = last_change(database)
    if last is not None and last < marked:
        raise lost(database, last, marked)


def last_change(database: Path) -> int | None:
    """The number of the last commit in it, 0 if there is no database; None if that cannot be read.

    The connection is read-only, so it leaves the write-ahead log as it is, from which commits may be saved.
    """
    if not database.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return change_in(connection)
    except (sqlite3.Error, UnicodeDecodeError):  # a message of SQLite may have a damaged name
        return None


def change_in(connection: sqlite3.Connection) -> int | None:
    """The number of the last commit; None if it is damaged."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'counters'").fetchone():
        return 0
    found = connection.execute("SELECT * FROM counters WHERE name = 'change'").fetchone()
    if found is None:
        return None
    _, value, *mirror = found
    is_good = type(value) is int and mirror in ([], [-value])
    return value if is_good else None


def lost(database: Path, last: int, marked: int) -> LostCommits:
    return LostCommits(
        f"{database} ends with commit {last}, but commit {marked} was acknowledged: {marked - last} commits are lost, "
        f"with the runs, results and events in them. If {database.name}-wal or a newer copy is somewhere, put it back; "
        f"to go on without them, remove {mark_of(database).name} beside the database",
        subject=database.name,
    )


def _line(change: int) -> bytes:
    text = f"{_HEAD} {change:020}"
    return f"{text} {crc32(text.encode()):08x}\n".encode()
