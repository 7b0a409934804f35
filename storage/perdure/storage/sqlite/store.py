"""Runs in one SQLite file: the embedded default.

One thread writes; another one reads concurrently over its own connection (WAL). Whole runs, which may be large, are
read by a third one, so that other reads do not wait for them. Every commit is flushed to disk (synchronous=FULL). A
lock file beside the database keeps a second engine out.

While the disk is fast, a small commit is made on the event loop, which is blocked for that flush: handing it to the
thread and back would take longer. Under load commits are large, and are made by the thread while the loop goes on.
Single rows are read in the same way.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Final, TypeVar

from perdure.storage.ports import Entry, StorageError, StorageUnavailable, Unstorable
from perdure.storage.rows import (
    BlobMark,
    Committed,
    EngineRow,
    EventName,
    EventRow,
    MailRow,
    RunQuery,
    RunRow,
    StoredRun,
    Timer,
    Tombstone,
    ValueKey,
)
from perdure.storage.sqlite import read, write
from perdure.storage.sqlite.mark import Mark, check_mark, mark_of
from perdure.storage.sqlite.mend import mend_indexes
from perdure.storage.sqlite.open import REFUSALS, connect, connect_to_write, is_undecodable, lock, meaning, tolerant
from perdure.storage.sqlite.thread import CallThread
from perdure.storage.storable import fault_of

T = TypeVar("T")

log = logging.getLogger(__name__)

IDLE_S: Final = 1.0
"""After this time without a commit the write-ahead log is emptied."""
SMALL_ENTRIES: Final = 2
SMALL_WRITES: Final = 8
"""A small commit has at most this many entries and writes."""
QUICK_S: Final = 0.001
"""The disk is fast if small commits take less than this on average."""
SMOOTHING: Final = 0.1


class SqliteMetadataStore:
    """Implements MetadataStore. `max_bytes` bounds the file: beyond it commits raise StorageFull."""

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
        self._idle_timer: asyncio.TimerHandle | None = None
        self._checkpoint: asyncio.Future[None] | None = None
        self._commits = self._commits_seen = 0

    @property
    def is_shared(self) -> bool:
        return False

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
        self._mark.write(read.last_change(self._write_connection))
        self._read_connection = connect(self._path)
        self._load_connection = connect(self._path)

    async def close(self) -> None:
        if self._lock is None:  # it is closed, or another process has it
            self._writer.shutdown()
            self._reader.shutdown()
            return
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._checkpoint is not None:
            await asyncio.gather(self._checkpoint, return_exceptions=True)
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

    async def _look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Read one row by a unique key."""
        connection = self._read_connection
        if connection is None or self._took_s > QUICK_S or not self._reader.is_idle:
            return await self._read(work)
        try:
            return _readable(connection, work)
        except REFUSALS as error:
            raise meaning(error, self._path) from error

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        try:
            committed = await self._commit(entries)
        except Unstorable as error:
            raise Unstorable(str(error), fault_of(entries)) from error
        if self._mark is not None:
            self._mark.write(committed.change)
        self._commits += 1
        if self._idle_timer is None:
            self._idle_timer = asyncio.get_running_loop().call_later(IDLE_S, self._look_whether_idle)
        return committed

    def _look_whether_idle(self) -> None:
        """After a while without a commit, move the write-ahead log into the database, so that a lost log takes no old
        commits with it."""
        self._idle_timer = None
        loop = asyncio.get_running_loop()
        if self._commits != self._commits_seen or (self._checkpoint is not None and not self._checkpoint.done()):
            self._commits_seen = self._commits
            self._idle_timer = loop.call_later(IDLE_S, self._look_whether_idle)
        else:
            self._checkpoint = loop.run_in_executor(None, self._checkpoint_now)

    def _checkpoint_now(self) -> None:
        """Checkpoint over a separate connection, so that commits and reads go on."""
        if self._mark is not None:
            self._mark.sync()
        try:
            with closing(sqlite3.connect(self._path, isolation_level=None, timeout=0)) as connection:
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")  # most of it, without blocking commits
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # then the log has no old frames
        except sqlite3.Error as error:  # a commit came, or the disk is full: try later
            log.debug("checkpoint put off", extra={"error": str(error)})

    async def _commit(self, entries: Sequence[Entry]) -> Committed:
        if self._write_connection is None:
            raise StorageUnavailable("the store is not open")
        connection = self._write_connection
        is_small = len(entries) <= SMALL_ENTRIES and sum(map(len, entries)) <= SMALL_WRITES
        if not is_small:
            return await self._run(self._writer, lambda: write.commit(connection, entries))
        if self._took_s > QUICK_S or not self._writer.is_idle:
            return await self._run(self._writer, lambda: self._commit_small(connection, entries))
        try:
            return self._commit_small(connection, entries)
        except REFUSALS as error:
            raise meaning(error, self._path) from error

    def _commit_small(self, connection: sqlite3.Connection, entries: Sequence[Entry]) -> Committed:
        began_s = time.perf_counter()
        try:
            return write.commit(connection, entries)
        finally:
            self._took_s += SMOOTHING * (time.perf_counter() - began_s - self._took_s)

    async def join(self, engine: EngineRow, lease_ms: int) -> None:
        """Nothing to do: the file lock keeps other engines out."""

    async def renew(self, lease_ms: int) -> None:
        """Nothing to do: there are no other members."""

    async def leave(self) -> None:
        """Nothing to do: closing releases the lock."""

    async def engines(self) -> list[EngineRow]:
        return []

    async def bury(self) -> list[str]:
        return []

    async def take_over(self, limit: int) -> list[RunRow]:
        return []

    async def read_mail(self, *, limit: int) -> list[MailRow]:
        return await self._read(lambda connection: read.read_mail(connection, limit))

    async def listen(self, heard: Callable[[], None]) -> None:
        """Nothing to do: no other engine commits."""

    async def find_run(self, namespace: str, workflow_id: str) -> RunRow | None:
        return await self._look(lambda connection: read.find_run(connection, namespace, workflow_id))

    async def find_request(self, namespace: str, request_id: str) -> RunRow | None:
        return await self._look(lambda connection: read.find_request(connection, namespace, request_id))

    async def get_run(self, run_id: str) -> RunRow | None:
        return await self._look(lambda connection: read.get_run(connection, run_id))

    async def get_runs(self, run_ids: Collection[str]) -> list[RunRow]:
        return await self._read(lambda connection: read.get_runs(connection, run_ids))

    async def find_event(self, run_id: str, key: str, event_id: str) -> int | None:
        return await self._look(lambda connection: read.find_event(connection, run_id, key, event_id))

    async def read_events(self, run_id: str, *, after: int) -> list[EventRow]:
        return await self._read(lambda connection: read.read_events(connection, run_id, after))

    async def latest_events(self, run_id: str, *, limit: int) -> list[EventName]:
        return await self._read(lambda connection: read.latest_events(connection, run_id, limit))

    async def read_tombstone(self, key: str) -> Tombstone | None:
        return await self._look(lambda connection: read.read_tombstone(connection, key))

    async def load_run(self, run_id: str) -> StoredRun | None:
        if self._load_connection is None:
            raise StorageUnavailable("the store is not open")
        connection = self._load_connection
        return await self._run(self._loader, lambda: _readable(connection, lambda sql: read.load_run(sql, run_id)))

    async def read_specs(self, keys: Iterable[str]) -> Mapping[str, bytes]:
        wanted = list(keys)
        return await self._read(lambda connection: read.read_specs(connection, wanted))

    async def read_values(self, keys: Sequence[ValueKey]) -> list[bytes | None]:
        return await self._read(lambda connection: read.read_values(connection, keys))

    async def unfinished_runs(self, *, after: str, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: read.unfinished_runs(connection, after, limit))

    async def running_runs(self) -> list[tuple[str, str]]:
        return await self._read(read.running_runs)

    async def count_pending(self) -> Mapping[str, int]:
        return await self._read(read.count_pending)

    async def pending_runs(self, namespace: str, *, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: read.pending_runs(connection, namespace, limit))

    async def next_timers(self, *, until_ms: int, limit: int) -> list[Timer]:
        return await self._read(lambda connection: read.next_timers(connection, until_ms, limit))

    async def list_runs(self, query: RunQuery) -> list[RunRow]:
        return await self._read(lambda connection: read.list_runs(connection, query))

    async def read_changes(self, namespace: str | None, *, after: int, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: read.read_changes(connection, namespace, after, limit))

    async def read_tasks(self, run_id: str, *, after: int) -> list[tuple[str, int]]:
        return await self._read(lambda connection: read.read_tasks(connection, run_id, after))

    async def marked_blobs(self, *, after: str, limit: int) -> list[BlobMark]:
        return await self._read(lambda connection: read.marked_blobs(connection, after, limit))

    async def unused_blobs(self, sha256s: Sequence[str]) -> list[str]:
        return await self._read(lambda connection: read.unused_blobs(connection, sha256s))

    async def finished_runs(self, *, before_ms: int, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: read.finished_runs(connection, before_ms, limit))

    async def last_change(self) -> int:
        return await self._read(read.last_change)


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
