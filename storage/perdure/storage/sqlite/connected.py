"""The file of a store, and the threads that use it: one writes, another one reads concurrently (WAL). Whole runs, which
may be large, are read by a third one, so that other reads do not wait for them.

While the disk is fast and the reader idle, single rows are read on the event loop: handing the work to the thread and
back would take longer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, TypeVar

from perdure.storage.ports import StorageError, StorageUnavailable
from perdure.storage.sqlite.mark import Mark, check_mark, mark_of
from perdure.storage.sqlite.mend import mend_indexes
from perdure.storage.sqlite.open import REFUSALS, connect, connect_to_write, is_undecodable, lock, meaning, tolerant
from perdure.storage.sqlite.thread import CallThread

T = TypeVar("T")

QUICK_S: Final = 0.001
"""The disk is fast if small commits take less than this on average."""


class Connected:
    """A store that can be opened and read. `max_bytes` bounds the file."""

    def __init__(self, path: str | Path, *, max_bytes: int | None = None) -> None:
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._writer = CallThread("sqlite-write")
        self._reader = CallThread("sqlite-read")
        self._loader = CallThread("sqlite-load")
        self._took_s = 0.0  # moving average of small commits
        self._write_connection: sqlite3.Connection | None = None
        self._read_connection: sqlite3.Connection | None = None
        self._load_connection: sqlite3.Connection | None = None
        self._lock: IO[str] | None = None
        self._mark: Mark | None = None

    async def open(self) -> None:
        await self._run(self._writer, self._open)

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self._path.with_name(self._path.name + ".lock"))
            check_mark(self._path)
            self._mark = Mark(mark_of(self._path))
        except OSError as error:
            raise StorageError(f"the store {self._path} cannot be opened: {error}") from error
        self._write_connection = connect_to_write(self._path, self._max_bytes)
        mend_indexes(self._write_connection, self._path)
        self._mark.write(last_change(self._write_connection))
        self._read_connection = connect(self._path)
        self._load_connection = connect(self._path)

    async def close(self) -> None:
        if self._lock is None:  # it is closed, or another process has it
            self._end_threads()
            return
        for thread, connection in (
            (self._loader, self._load_connection),
            (self._reader, self._read_connection),
            (self._writer, self._write_connection),
        ):
            if connection is not None:
                await self._run(thread, connection.close)
        self._write_connection = self._read_connection = self._load_connection = None
        if self._mark is not None:
            self._mark.close()
            self._mark = None
        self._lock.close()
        self._lock = None
        self._end_threads()

    def _end_threads(self) -> None:
        self._writer.shutdown()
        self._reader.shutdown()
        self._loader.shutdown()

    async def _run(self, thread: CallThread, work: Callable[[], T]) -> T:
        try:
            return await thread.call(work)
        except REFUSALS as error:
            raise meaning(error, self._path) from error

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._read_connection is None:
            raise StorageUnavailable("the store is not open")
        connection = self._read_connection
        return await self._run(self._reader, lambda: _readable(connection, work))

    async def _load(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Read what may be large."""
        if self._load_connection is None:
            raise StorageUnavailable("the store is not open")
        connection = self._load_connection
        return await self._run(self._loader, lambda: _readable(connection, work))

    async def _look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Read one row by a unique key."""
        connection = self._read_connection
        if connection is None or self._took_s > QUICK_S or not self._reader.is_idle:
            return await self._read(work)
        try:
            return _readable(connection, work)
        except REFUSALS as error:
            raise meaning(error, self._path) from error


def _readable(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Read. If a text is not UTF-8, read again with a slower decoder that accepts it."""
    try:
        return work(connection)
    except sqlite3.OperationalError as error:
        if not is_undecodable(error):
            raise
    connection.text_factory = tolerant
    try:
        return work(connection)
    finally:
        connection.text_factory = str


def last_change(sql: sqlite3.Connection) -> int:
    (change,) = sql.execute("SELECT value FROM counters WHERE name = 'change'").fetchone()
    return int(change)
