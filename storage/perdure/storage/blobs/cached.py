"""A cache of remote blobs, in files of this machine.

A blob is named by its content, so a cached file can be damaged but never out of date. Each process checks the hash of
a file the first time that it reads it; a file that is damaged, cut off or gone is fetched again. Files are mapped,
like those of the filesystem store. All processes of a machine may share the folder. When it grows too large, they
remove the least recently used files. Faults of the cache are not errors: the bytes then come from the remote store.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import mmap
import os
import secrets
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Protocol

from perdure.bounded import SharedBounded
from perdure.model import BlobRef
from perdure.storage.blobs.filesystem import CHECKED_MAX, LOCK, STALE_S, TEMPORARY
from perdure.storage.blobs.hashing import sha256_of
from perdure.storage.ports import BlobStore, BlobWriter

BYTES: Final = 4 * 1024**3
"""The default size of a machine's cache."""
TIDY_SHARE: Final = 0.05
"""A process checks the size of the cache after it wrote this share of the allowed size."""
KEEP_SHARE: Final = 0.9
"""The share of the allowed size that is left after files were removed."""
USED_S: Final = 30.0
"""The precision of the time at which a file was last used."""


class FarBlobStore(BlobStore, Protocol):
    """The store behind a cache."""

    async def put_views(self, sha256: str, views: Sequence[memoryview]) -> BlobRef:
        """Write bytes whose hash is known."""
        ...

    async def fetch(self, sha256: str, allocate: Callable[[int], memoryview]) -> memoryview:
        """Read a blob into memory that the caller allocates. The hash is checked."""
        ...


def default_folder() -> Path:
    """The cache folder of this user on this machine."""
    return Path(tempfile.gettempdir()) / f"perdure-blobs-{os.getuid()}"


class CachedBlobStore:
    """Implements BlobStore over another one."""

    def __init__(self, far: FarBlobStore, folder: str | Path, max_bytes: int = BYTES) -> None:
        self._far = far
        self._folder = Path(folder)
        self._max_bytes = max_bytes
        self._checked: SharedBounded[str, tuple[int, int]] = SharedBounded(CHECKED_MAX)
        self._written = max_bytes  # since the last check; the first write checks

    async def close(self) -> None:
        await self._far.close()

    # -------------------------------------------------------------------------- reading

    async def get(self, sha256: str) -> memoryview:
        if (view := await asyncio.to_thread(self._find, sha256)) is not None:
            return view
        room = _Room(self._new_file, self._max_bytes)
        try:
            view = await self._far.fetch(sha256, room.allocate)
            if room.file is None:
                return view.toreadonly()
            del view
            return await asyncio.to_thread(self._settle, room, sha256)
        finally:
            room.leave()

    def _settle(self, room: _Room, sha256: str) -> memoryview:
        """Turn a fetched blob into a file of the cache. If that fails, its memory stays readable."""
        file, path = room.take()
        with file:
            status = os.fstat(file.fileno())
            view = _map(file, status.st_size)
            with suppress(OSError):
                self._publish(path, sha256, status)
        return view

    def _find(self, sha256: str) -> memoryview | None:
        path = self._path_of(sha256)
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    return None
                view = _map(file, status.st_size)
                if self._checked.get(sha256) != _mark(status):
                    if hashlib.sha256(view).hexdigest() != sha256:
                        path.unlink(missing_ok=True)
                        return None
                    self._trust(sha256, status)
                if time.time() - status.st_atime > USED_S:
                    with suppress(OSError):
                        os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))
                return view
        except (OSError, ValueError):  # ValueError: it shrank while it was mapped
            return None

    # -------------------------------------------------------------------------- writing

    async def put(self, chunks: Iterable[bytes | memoryview]) -> BlobRef:
        views = [memoryview(chunk).cast("B") for chunk in chunks]
        sha256 = await asyncio.to_thread(sha256_of, views)
        blob = await self._far.put_views(sha256, views)
        if 0 < blob.size <= self._max_bytes:
            await asyncio.to_thread(self._keep, sha256, views)
        return blob

    def _keep(self, sha256: str, views: Sequence[memoryview]) -> None:
        """Keep a written blob in the cache: its next reader is probably on this machine."""
        with suppress(OSError):
            if self._path_of(sha256).exists():
                return
            path = self._new_file()
            try:
                with path.open("wb", buffering=0) as file:
                    for view in views:
                        while view:
                            view = view[file.write(view) :]
                    self._publish(path, sha256, os.fstat(file.fileno()))
            finally:
                path.unlink(missing_ok=True)

    def writer(self) -> AbstractAsyncContextManager[BlobWriter]:
        return self._far.writer()

    # -------------------------------------------------------------------------- as the far one does

    async def size(self, sha256: str) -> int | None:
        return await self._far.size(sha256)

    async def renew(self, sha256: str) -> int | None:
        return await self._far.renew(sha256)

    async def delete(self, sha256: str, *, idle_s: float = 0) -> bool:
        is_gone = await self._far.delete(sha256, idle_s=idle_s)
        if is_gone:
            self._checked.drop(sha256)
            with suppress(OSError):
                self._path_of(sha256).unlink(missing_ok=True)
        return is_gone

    def list(self) -> AsyncIterator[BlobRef]:
        return self._far.list()

    # -------------------------------------------------------------------------- files

    def _path_of(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def _new_file(self) -> Path:
        """A path for a temporary file. Raises OSError if the folder belongs to another user."""
        temporary = self._folder / TEMPORARY
        if not temporary.is_dir():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.mkdir(exist_ok=True)
        if self._folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{self._folder} belongs to somebody else")
        return temporary / secrets.token_hex(16)

    def _publish(self, path: Path, sha256: str, status: os.stat_result) -> None:
        """Rename a file whose bytes were checked to its final name."""
        final = self._path_of(sha256)
        final.parent.mkdir(exist_ok=True)
        path.replace(final)
        self._trust(sha256, status)
        self._written += status.st_size
        if self._written >= self._max_bytes * TIDY_SHARE:
            self._written = 0
            self._tidy()

    def _trust(self, sha256: str, status: os.stat_result) -> None:
        self._checked.keep(sha256, _mark(status))

    def _tidy(self) -> None:
        """Remove the least recently used files if the cache is too large. Mapped memory stays readable."""
        with self._alone() as is_alone:
            if not is_alone:
                return  # another process is at it
            files = []
            for path in self._folder.glob("??/*"):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    files.append((status.st_atime, status.st_size, path))
            for path in (self._folder / TEMPORARY).iterdir():
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > STALE_S:
                        path.unlink()
            total = sum(size for _, size, _ in files)
            if total <= self._max_bytes:
                return
            for _, size, path in sorted(files):
                path.unlink(missing_ok=True)
                total -= size
                if total <= self._max_bytes * KEEP_SHARE:
                    return

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        descriptor = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(descriptor)


class _Room:
    """Memory to fetch into: a mapped file of the cache, or plain memory if there is no room for a file."""

    def __init__(self, new_file: Callable[[], Path], max_bytes: int) -> None:
        self._new_file = new_file
        self._max_bytes = max_bytes
        self._path: Path | None = None
        self._view: memoryview | None = None
        self._map: mmap.mmap | None = None
        self.file: IO[bytes] | None = None

    def allocate(self, size: int) -> memoryview:
        self.leave()
        if 0 < size <= self._max_bytes:
            try:
                self._path = self._new_file()
                self.file = self._path.open("x+b", buffering=0)
                os.posix_fallocate(self.file.fileno(), 0, size)  # writing to a map without room kills the process
                self._map = mmap.mmap(self.file.fileno(), size)
                self._view = memoryview(self._map)
                return self._view
            except OSError:
                self.leave()
        return memoryview(bytearray(size))

    def take(self) -> tuple[IO[bytes], Path]:
        """Hand the file and its path over to the caller."""
        assert self.file is not None
        assert self._path is not None
        taken = self.file, self._path
        self._unmap()
        self.file = None
        return taken

    def leave(self) -> None:
        """Remove the temporary file, unless it was taken and renamed."""
        self._unmap()
        if self.file is not None:
            self.file.close()
            self.file = None
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._path = None

    def _unmap(self) -> None:
        with suppress(BufferError):  # a cancelled read may still hold a part for a moment
            if self._view is not None:
                self._view.release()
            if self._map is not None:
                self._map.close()
        self._view = self._map = None


def _map(file: IO[bytes], size: int) -> memoryview:
    return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)) if size else memoryview(b"")


def _mark(status: os.stat_result) -> tuple[int, int]:
    """Size and time of change: they differ after a write to the file."""
    return (status.st_size, status.st_mtime_ns)
