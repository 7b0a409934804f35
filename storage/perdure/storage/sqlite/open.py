"""Opens the file of an embedded database, and checks whether it can be used."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import struct
from pathlib import Path
from typing import IO, Any, Final

from perdure.storage.damage import NUMBER_MAX
from perdure.storage.ports import CorruptData, StorageError, StorageFull, StorageInUse, StorageUnavailable, Unstorable
from perdure.storage.sqlite.mark import read_mark
from perdure.storage.sqlite.schema import migrate as migrate_sqlite
from perdure.storage.sqlite.seals import UNSEALABLE, seal_of_state

log = logging.getLogger(__name__)

STATEMENTS_CACHED: Final = 256
BUSY_S: Final = 5.0
PAGE_BYTES: Final = 4096
ADVICE: Final = "stop whatever uses it, look at it with `perdure doctor`, and restore a backup"
COUNTED: Final = {
    "change": (("runs", "change"), ("tasks", "change"), ("blob_marks", "change")),
    "sequence": (("events", "sequence"),),
}
"""Counters, and the columns that hold their numbers."""
REFUSALS: Final = (sqlite3.Error, UnicodeError, OverflowError, struct.error)
"""Errors of the driver and of seals. All but the first are about texts and integers that SQLite cannot hold, or about
errors of SQLite whose message has a damaged name."""
NEVER: Final = (
    UnicodeEncodeError,
    OverflowError,
    struct.error,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
)
"""The errors among REFUSALS that do not go away when the call is repeated."""


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=STATEMENTS_CACHED,
        timeout=BUSY_S,
    )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA temp_store=MEMORY")
    return connection


def connect_to_write(path: Path, max_bytes: int | None) -> sqlite3.Connection:
    """Connect, and bring the schema up to date. Raises StorageError, saying what to do."""
    connection = connect(path)
    try:
        connection.text_factory = tolerant
        connection.create_function("perdure_seal_of_state", 7, _seal_of_state, deterministic=True)
        if max_bytes is not None:
            connection.execute(f"PRAGMA max_page_count={max(max_bytes // PAGE_BYTES, 1)}")
        migrate_sqlite(connection, path)
        check_counters(connection, path, read_mark(path) or 0)
    except BaseException:
        connection.close()
        raise
    return connection


def _seal_of_state(*values: Any) -> int | None:
    """The seal of a state; None: no written state has such values."""
    try:
        return seal_of_state(*values)
    except UNSEALABLE:
        return None


def tolerant(data: bytes) -> str:
    """A text that may be damaged: bytes that are not UTF-8 become lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def is_undecodable(error: sqlite3.Error) -> bool:
    """Whether a text in the database is not UTF-8."""
    return str(error).startswith("Could not decode to UTF-8")


def check_counters(connection: sqlite3.Connection, path: Path, marked: int) -> None:
    """Repair damaged counters: new numbers must be above all that were given out. `marked` is the last commit by the
    mark, or 0."""
    counters = damaged_counters(connection)
    for name, values in counters.items():
        least = marked if name == "change" else 0
        for table, column in COUNTED[name]:
            condition = f"typeof({column}) = 'integer' AND {column} BETWEEN 0 AND {NUMBER_MAX >> 8}"
            (found,) = connection.execute(f"SELECT max({column}) FROM {table} WHERE {condition}").fetchone()
            least = max(least, found or 0)
        value = min((value for value in values if least <= value <= NUMBER_MAX >> 8), default=least)
        log.error("a counter is damaged and was set anew", extra={"database": path.name, "counter": name})
        connection.execute("DELETE FROM counters WHERE name = ?", (name,))
        connection.execute("INSERT INTO counters (name, value, mirror) VALUES (?, ?, ?)", (name, value, -value))


def damaged_counters(connection: sqlite3.Connection) -> dict[str, list[int]]:
    """The damaged counters by name, with their possible values."""
    found = {name: (value, mirror) for name, value, mirror in connection.execute("SELECT * FROM counters")}
    damaged: dict[str, list[int]] = {}
    for name in COUNTED:
        value, mirror = found.get(name, (None, None))
        if type(value) is not int or type(mirror) is not int or value != -mirror:
            damaged[name] = [value] if type(value) is int else []
            damaged[name] += [-mirror] if type(mirror) is int else []
    return damaged


def lock(path: Path) -> IO[str]:
    """Lock the database for this process. The operating system releases the lock however the process ends."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise StorageInUse(
            f"another engine (process {holder}) uses {path.with_suffix('')}; stop it, or give this one another storage"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def meaning(error: Exception, path: Path) -> StorageError:
    if isinstance(error, NEVER):
        return Unstorable(f"{path.name}: {error}")
    if isinstance(error, UnicodeDecodeError):
        return CorruptData(f"the schema of {path} is damaged: {error}; {ADVICE}", subject=path.name)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    match code:
        case sqlite3.SQLITE_FULL:
            return StorageFull(f"no room for {path.name}: {error}")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return CorruptData(f"{path} is damaged: {error}; {ADVICE}", subject=path.name)
        case sqlite3.SQLITE_ERROR if "no such " in str(error):  # table, column: the schema is not what it was
            return CorruptData(f"the schema of {path} is damaged: {error}; {ADVICE}", subject=path.name)
        case _:
            return StorageUnavailable(f"{path.name}: {error}")
