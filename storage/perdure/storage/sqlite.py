"""Runs in one SQLite file: the embedded default.

One thread writes; another reads beside it over a connection of its own (WAL). Every commit is flushed
to the disk (synchronous=FULL). A lock on a file beside the database keeps a second engine out.

A small commit is made by the event loop itself, as long as the disk is quick: then handing it to the
thread and back takes longer than the flush. Whoever else has something to do waits for that one flush.
Under load commits are large, and are made by the thread while the loop goes on. Single rows are read in the
same manner.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, TypeVar

from perdure.storage import sqlite_read, sqlite_write
from perdure.storage.migrate import migrate_sqlite
from perdure.storage.ports import CorruptData, Entry, StorageError, StorageFull, StorageUnavailable, Unstorable
from perdure.storage.rows import (
    BlobMark,
    Committed,
    EngineRow,
    EventRow,
    MailRow,
    RunQuery,
    RunRow,
    StoredRun,
    Timer,
    ValueKey,
)
from perdure.storage.sqlite_thread import CallThread
from perdure.storage.storable import fault_of

T = TypeVar("T")

STATEMENTS_CACHED: Final = 256
BUSY_S: Final = 5.0
PAGE_BYTES: Final = 4096
SMALL_ENTRIES: Final = 2
SMALL_WRITES: Final = 8
"""A commit of not more is small."""
QUICK_S: Final = 0.001
"""A disk on which small commits take less on the average is quick."""
SMOOTHING: Final = 0.1
REFUSALS: Final = (sqlite3.Error, UnicodeEncodeError, OverflowError)
"""What the driver raises, the last two for texts and integers that SQLite does not have."""
NEVER: Final = (
    UnicodeEncodeError,
    OverflowError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
)
"""Of those, what it raises however often it is asked."""


class SqliteMetadataStore:
    """Implements MetadataStore. `max_bytes` bounds the file: beyond it commits raise StorageFull."""

    def __init__(self, path: str | Path, *, max_bytes: int | None = None) -> None:
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._writer = CallThread("sqlite-write")
        self._reader = CallThread("sqlite-read")
        self._took_s = 0.0  # by small commits, on the average
        self._write_connection: sqlite3.Connection | None = None
        self._read_connection: sqlite3.Connection | None = None
        self._lock: IO[str] | None = None

    @property
    def is_shared(self) -> bool:
        return False

    async def open(self) -> None:
        await self._run(self._writer, self._open)

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self._path.with_name(self._path.name + ".lock"))
        except OSError as error:
            raise StorageError(f"the store {self._path} cannot be opened: {error}") from error
        self._write_connection = self._connect()
        if self._max_bytes is not None:
            self._write_connection.execute(f"PRAGMA max_page_count={max(self._max_bytes // PAGE_BYTES, 1)}")
        migrate_sqlite(self._write_connection)
        self._read_connection = self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENTS_CACHED,
            timeout=BUSY_S,
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA temp_store=MEMORY")
        return connection

    async def close(self) -> None:
        if self._lock is None:
            return
        for thread, connection in ((self._reader, self._read_connection), (self._writer, self._write_connection)):
            if connection is not None:
                await self._run(thread, connection.close)
        self._write_connection = self._read_connection = None
        self._lock.close()
        self._lock = None
        self._writer.shutdown()
        self._reader.shutdown()

    async def _run(self, thread: CallThread, work: Callable[[], T]) -> T:
        try:
            return await thread.call(work)
        except REFUSALS as error:
            raise _meaning(error, self._path) from error

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._read_connection is None:
            raise StorageUnavailable("the store is not open")
        connection = self._read_connection
        return await self._run(self._reader, lambda: work(connection))

    async def _look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """A read of one row by a unique key."""
        connection = self._read_connection
        if connection is None or self._took_s > QUICK_S or not self._reader.is_idle:
            return await self._read(work)
        try:
            return work(connection)
        except REFUSALS as error:
            raise _meaning(error, self._path) from error

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        try:
            return await self._commit(entries)
        except Unstorable as error:
            raise Unstorable(str(error), fault_of(entries)) from error

    async def _commit(self, entries: Sequence[Entry]) -> Committed:
        if self._write_connection is None:
            raise StorageUnavailable("the store is not open")
        connection = self._write_connection
        is_small = len(entries) <= SMALL_ENTRIES and sum(map(len, entries)) <= SMALL_WRITES
        if not is_small:
            return await self._run(self._writer, lambda: sqlite_write.commit(connection, entries))
        if self._took_s > QUICK_S or not self._writer.is_idle:
            return await self._run(self._writer, lambda: self._commit_small(connection, entries))
        try:
            return self._commit_small(connection, entries)
        except REFUSALS as error:
            raise _meaning(error, self._path) from error

    def _commit_small(self, connection: sqlite3.Connection, entries: Sequence[Entry]) -> Committed:
        began_s = time.perf_counter()
        try:
            return sqlite_write.commit(connection, entries)
        finally:
            self._took_s += SMOOTHING * (time.perf_counter() - began_s - self._took_s)

    async def join(self, engine: EngineRow, lease_ms: int) -> None:
        """The lock on the file is what keeps others out."""

    async def renew(self, lease_ms: int) -> None:
        """There is nobody who would wait for it."""

    async def leave(self) -> None:
        """Closing does it."""

    async def engines(self) -> list[EngineRow]:
        return []

    async def bury(self) -> list[str]:
        return []

    async def take_over(self, limit: int) -> list[RunRow]:
        return []

    async def read_mail(self, *, limit: int) -> list[MailRow]:
        return await self._read(lambda connection: sqlite_read.read_mail(connection, limit))

    async def listen(self, heard: Callable[[], None]) -> None:
        """Nobody else commits."""

    async def find_run(self, namespace: str, workflow_id: str) -> RunRow | None:
        return await self._look(lambda connection: sqlite_read.find_run(connection, namespace, workflow_id))

    async def find_request(self, namespace: str, request_id: str) -> RunRow | None:
        return await self._look(lambda connection: sqlite_read.find_request(connection, namespace, request_id))

    async def get_run(self, run_id: str) -> RunRow | None:
        return await self._look(lambda connection: sqlite_read.get_run(connection, run_id))

    async def get_runs(self, run_ids: Collection[str]) -> list[RunRow]:
        return await self._read(lambda connection: sqlite_read.get_runs(connection, run_ids))

    async def find_event(self, run_id: str, key: str, event_id: str) -> int | None:
        return await self._look(lambda connection: sqlite_read.find_event(connection, run_id, key, event_id))

    async def read_events(self, run_id: str, *, after: int) -> list[EventRow]:
        return await self._read(lambda connection: sqlite_read.read_events(connection, run_id, after))

    async def load_run(self, run_id: str) -> StoredRun | None:
        return await self._read(lambda connection: sqlite_read.load_run(connection, run_id))

    async def read_specs(self, keys: Iterable[str]) -> Mapping[str, bytes]:
        wanted = list(keys)
        return await self._read(lambda connection: sqlite_read.read_specs(connection, wanted))

    async def read_values(self, keys: Sequence[ValueKey]) -> list[bytes | None]:
        return await self._read(lambda connection: sqlite_read.read_values(connection, keys))

    async def unfinished_runs(self, *, after: str, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: sqlite_read.unfinished_runs(connection, after, limit))

    async def running_runs(self) -> list[tuple[str, str]]:
        return await self._read(sqlite_read.running_runs)

    async def count_pending(self) -> Mapping[str, int]:
        return await self._read(sqlite_read.count_pending)

    async def pending_runs(self, namespace: str, *, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: sqlite_read.pending_runs(connection, namespace, limit))

    async def next_timers(self, *, until_ms: int, limit: int) -> list[Timer]:
        return await self._read(lambda connection: sqlite_read.next_timers(connection, until_ms, limit))

    async def list_runs(self, query: RunQuery) -> list[RunRow]:
        return await self._read(lambda connection: sqlite_read.list_runs(connection, query))

    async def read_changes(self, namespace: str | None, *, after: int, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: sqlite_read.read_changes(connection, namespace, after, limit))

    async def read_tasks(self, run_id: str, *, after: int) -> list[tuple[str, int]]:
        return await self._read(lambda connection: sqlite_read.read_tasks(connection, run_id, after))

    async def marked_blobs(self, *, after: str, limit: int) -> list[BlobMark]:
        return await self._read(lambda connection: sqlite_read.marked_blobs(connection, after, limit))

    async def unused_blobs(self, sha256s: Sequence[str]) -> list[str]:
        return await self._read(lambda connection: sqlite_read.unused_blobs(connection, sha256s))

    async def finished_runs(self, *, before_ms: int, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: sqlite_read.finished_runs(connection, before_ms, limit))

    async def last_change(self) -> int:
        return await self._read(sqlite_read.last_change)


def _lock(path: Path) -> IO[str]:
    """Held while this process has the file open; the system releases it however the process ends."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise StorageError(
            f"another engine (process {holder}) uses {path.with_suffix('')}; stop it, or give this one another storage"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _meaning(error: Exception, path: Path) -> StorageError:
    if isinstance(error, NEVER):
        return Unstorable(f"{path.name}: {error}")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    match code:
        case sqlite3.SQLITE_FULL:
            return StorageFull(f"no room for {path.name}: {error}")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return CorruptData(f"{path.name}: {error}", subject=path.name)
        case _:
            return StorageUnavailable(f"{path.name}: {error}")
