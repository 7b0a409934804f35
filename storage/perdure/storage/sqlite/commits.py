"""Commits. Every one is flushed to disk (synchronous=FULL).

While the disk is fast, a small commit is made on the event loop, which is blocked for that flush: handing it to the
thread and back would take longer. Under load commits are large, and are made by the thread while the loop goes on.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from perdure.storage.ports import Entry, StorageUnavailable, Unstorable
from perdure.storage.sqlite import write
from perdure.storage.sqlite.connected import QUICK_S, Connected
from perdure.storage.sqlite.open import REFUSALS, meaning
from perdure.storage.storable import fault_of
from perdure.storage.writes import Committed

log = logging.getLogger(__name__)

IDLE_S: Final = 1.0
"""After this time without a commit the write-ahead log is emptied."""
SMALL_ENTRIES: Final = 2
SMALL_WRITES: Final = 8
"""A small commit has at most this many entries and writes."""
SMOOTHING: Final = 0.1


class Commits(Connected):
    """Implements CommitStore. Commits that go beyond `max_bytes` raise StorageFull."""

    def __init__(self, path: str | Path, *, max_bytes: int | None = None) -> None:
        super().__init__(path, max_bytes=max_bytes)
        self._idle_timer: asyncio.TimerHandle | None = None
        self._checkpoint: asyncio.Future[None] | None = None
        self._commits = self._commits_seen = 0

    async def close(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._checkpoint is not None:
            await asyncio.gather(self._checkpoint, return_exceptions=True)
        await super().close()

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
