"""The files of an embedded database, which outlive the engines that use them.

When an engine dies, its files are what it had written until then: they are copied, and the next engine has the copy.
(Whatever the dead one's connections would still do when they are closed happens to files that nobody looks at.) When
the power fails, too, there may be the beginning of a commit at the end of the write-ahead log, and the mark, which is
not flushed, may be an earlier one.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from perdure.storage.sqlite.mark import mark_of
from perdure.storage.sqlite.store import SqliteMetadataStore
from perdure.storage.sqlite.thread import CallThread

T = TypeVar("T")

IN_MEMORY: Final = Path("/dev/shm")
"""Files there are flushed at once. What a flush is good for is the subject of other tests."""
POWER_SHARE: Final = 0.3
"""Of the deaths, so many are power failures."""


class Disk:
    """The files of one world. Removed by `close`."""

    def __init__(self) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="perdure-world-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None))
        self._number = 0
        self._store: _Store | None = None
        self._folder.mkdir()
        self._mark = b""
        """As the last engine found it, so it is flushed."""

    @property
    def _folder(self) -> Path:
        return self._root / str(self._number)

    @property
    def _path(self) -> Path:
        return self._folder / "perdure.db"

    def store(self) -> SqliteMetadataStore:
        """The store of the next engine, to be opened by it."""
        assert self._store is None
        mark = mark_of(self._path)
        self._mark = mark.read_bytes() if mark.exists() else b""
        self._store = _Store(self._path)
        return self._store

    def crash(self, dice: random.Random) -> None:
        """The engine is dead, perhaps because the power failed."""
        if self._store is None:
            return
        store, before, self._store = self._store, self._path, None
        self._number += 1
        self._folder.mkdir()
        for suffix in ("", "-wal", ".mark"):
            source = before.with_name(before.name + suffix)
            if source.exists():
                shutil.copyfile(source, self._folder / source.name)
        store.drop()
        shutil.rmtree(before.parent)
        if dice.random() < POWER_SHARE:
            self._fail_power(dice)

    def _fail_power(self, dice: random.Random) -> None:
        log = self._path.with_name(self._path.name + "-wal")
        if log.exists():
            log.write_bytes(self._torn(log.read_bytes(), dice))
        if self._mark and dice.random() < 0.5:
            mark_of(self._path).write_bytes(self._mark)

    def _torn(self, log: bytes, dice: random.Random) -> bytes:
        """The log with the beginning of one more commit."""
        scratch = self._root / "scratch"
        shutil.copytree(self._folder, scratch)
        with closing(sqlite3.connect(scratch / self._path.name, isolation_level=None)) as connection:
            connection.execute("CREATE TABLE torn AS SELECT randomblob(10000)")
            longer = (scratch / f"{self._path.name}-wal").read_bytes()
        shutil.rmtree(scratch)
        rest = longer.removeprefix(log)
        return log + rest[: dice.randrange(len(rest))] if longer.startswith(log) else log

    def close(self) -> None:
        if self._store is not None:
            self._store.drop()
            self._store = None
        shutil.rmtree(self._root)


class _Inline:
    """In the place of a thread: a blocking call takes no time, and nothing happens meanwhile."""

    is_idle = True

    async def call(self, work: Callable[[], T]) -> T:
        return work()

    def shutdown(self) -> None:
        """There is nothing to end."""


class _Store(SqliteMetadataStore):
    """Without threads, so that a world is the same each time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._writer = self._reader = self._loader = cast(CallThread, _Inline())
        self._is_dropped = False

    def _checkpoint_now(self) -> None:
        if not self._is_dropped:
            super()._checkpoint_now()

    def drop(self) -> None:
        """Let go of the files, which are of no interest any more."""
        self._is_dropped = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        connections = self._read_connection, self._load_connection, self._write_connection
        held: tuple[Any, ...] = (*connections, self._mark, self._lock)
        for each in held:
            if each is not None:
                each.close()
        self._write_connection = self._read_connection = self._load_connection = self._mark = self._lock = None
