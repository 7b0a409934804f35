"""Blobs as files: `<root>/ab/cd/abcd...`, named by the hash of what is in them.

A blob is written under a temporary name, flushed to disk, renamed, and its directory flushed. So it exists wholly or
not at all. Reading maps the file, so that a large array is not copied. The hash is checked the first time that a
process reads a blob, and again only after its size or time of change has changed.

The access time of a file is the time of the blob's last put: putting a blob that exists sets it. A lock file in the
folder excludes puts (shared lock) from deletions (exclusive lock). Times are those of the file system, which all
machines that share the folder have in common, and never of our own clock.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import mmap
import os
import secrets
import stat
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from perdure.bounded import SharedBounded
from perdure.model import BlobRef
from perdure.storage.ports import BlobNotFound, BlobWriter, CorruptData, StorageError, StorageFull, StorageUnavailable

STALE_S: Final = 3600.0
"""Temporary files of writers that died are removed after this time."""
TEMPORARY: Final = "tmp"
LOCK: Final = "lock"
HASH_STEP: Final = 4 * 1024 * 1024
CHECKED_MAX: Final = 100_000
"""The number of checked blobs that a process remembers."""


class FilesystemBlobStore:
    """Implements BlobStore. Several processes may share a folder."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        self._checked: SharedBounded[str, tuple[int, int]] = SharedBounded(CHECKED_MAX)
        self._secured: set[Path] = set()
        self._is_ready = False

    # -------------------------------------------------------------------------- writing

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[BlobWriter]:
        beginning = asyncio.ensure_future(asyncio.to_thread(self._begin))
        try:
            writer = await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(_abandon_begun)  # the thread goes on, and opens the file
            raise
        try:
            yield writer
        finally:
            await asyncio.to_thread(writer.abandon)

    async def put(self, chunks: Iterable[bytes | memoryview]) -> BlobRef:
        return await asyncio.to_thread(self._put, chunks)

    def _put(self, chunks: Iterable[bytes | memoryview]) -> BlobRef:
        writer = self._begin()
        try:
            for chunk in chunks:
                writer.add(chunk)
            return writer.finish()
        finally:
            writer.abandon()

    def _begin(self) -> _Writer:
        try:
            if not self._is_ready:
                self._prepare()
            return _Writer(self, self._root / TEMPORARY / secrets.token_hex(16))
        except OSError as error:
            raise _meaning(error) from error

    def _prepare(self) -> None:
        temporary = self._root / TEMPORARY
        self.secure(temporary)
        for file in temporary.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > STALE_S:
                    file.unlink()
        self._is_ready = True

    def secure(self, folder: Path) -> None:
        """Make a folder below the root durable. A folder that exists need not be durable: its creator may have died
        before it was flushed."""
        if folder in self._secured and folder.is_dir():
            return
        if folder == self._root:
            _make_directory(folder)
            for above in folder.parents:  # flushing those of other users may fail
                with suppress(OSError):
                    _sync_directory(above)
        else:
            self.secure(folder.parent)
            folder.mkdir(exist_ok=True)
            _sync_directory(folder.parent)
        self._secured.add(folder)

    def path_of(self, sha256: str) -> Path:
        """The path of a blob, which may not exist."""
        return self._root / sha256[:2] / sha256[2:4] / sha256

    # -------------------------------------------------------------------------- reading

    async def get(self, sha256: str) -> memoryview:
        return await asyncio.to_thread(self._get, sha256)

    def _get(self, sha256: str) -> memoryview:
        try:
            with self.path_of(sha256).open("rb") as file:
                status = os.fstat(file.fileno())
                view = memoryview(b"")
                if status.st_size:
                    view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError as error:
            raise BlobNotFound(sha256) from error
        except OSError as error:
            raise _meaning(error) from error
        if self._checked.get(sha256) != _mark(status):
            if hashlib.sha256(view).hexdigest() != sha256:
                raise CorruptData(f"the bytes of blob {sha256} have another hash", subject=sha256)
            self.trust(sha256, status)
        return view

    def is_whole(self, sha256: str, size: int) -> bool:
        """Whether the blob exists undamaged. A damaged blob is written anew."""
        try:
            status = self.path_of(sha256).stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                return False
            if self._checked.get(sha256) != _mark(status):
                self._get(sha256)
        except (FileNotFoundError, BlobNotFound, CorruptData):
            return False
        return True

    async def size(self, sha256: str) -> int | None:
        def look() -> int | None:
            try:
                return self.path_of(sha256).stat().st_size
            except FileNotFoundError:
                return None
            except OSError as error:
                raise _meaning(error) from error

        return await asyncio.to_thread(look)

    async def renew(self, sha256: str) -> int | None:
        def renew() -> int | None:
            try:
                with self.locked(fcntl.LOCK_SH) as now_ns:
                    return _renew(self.path_of(sha256), now_ns).st_size
            except FileNotFoundError:
                return None
            except OSError as error:
                raise _meaning(error) from error

        return await asyncio.to_thread(renew)

    async def delete(self, sha256: str, *, idle_s: float = 0) -> bool:
        self._checked.drop(sha256)
        return await asyncio.to_thread(self._delete, self.path_of(sha256), idle_s, time.monotonic())

    def _delete(self, path: Path, idle_s: float, since_s: float) -> bool:
        """`since_s`: the time of the request; the blob must have been idle for `idle_s` at that time."""
        try:
            with self.locked(fcntl.LOCK_EX) as now_ns:
                waited_s = time.monotonic() - since_s
                status = path.stat()
                put_ns = max(status.st_atime_ns, status.st_mtime_ns)
                if idle_s and put_ns > now_ns - (idle_s + waited_s) * 1e9:
                    return False
                path.unlink()
        except FileNotFoundError:
            return True
        except OSError as error:
            raise _meaning(error) from error
        return True

    @contextmanager
    def locked(self, how: int) -> Iterator[int]:
        """Hold the lock of the folder; yields the time by its file system, in nanoseconds. Raises FileNotFoundError if
        there is no folder."""
        descriptor = os.open(self._root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, how)
            os.utime(descriptor)
            yield os.fstat(descriptor).st_mtime_ns
        finally:
            os.close(descriptor)

    async def list(self) -> AsyncIterator[BlobRef]:
        def look() -> list[BlobRef]:
            found = []
            for path in self._root.glob("??/??/*"):
                with suppress(FileNotFoundError, ValueError):  # gone, or a foreign file
                    found.append(BlobRef(path.name, path.stat().st_size))
            return found

        for blob in await asyncio.to_thread(look):
            yield blob

    async def close(self) -> None:
        pass

    def trust(self, sha256: str, status: os.stat_result) -> None:
        """Remember that this process has written or checked the file."""
        self._checked.keep(sha256, _mark(status))


class _Writer:
    """Implements BlobWriter. The methods without `async` do the same in the calling thread."""

    def __init__(self, store: FilesystemBlobStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._file: IO[bytes] | None = path.open("xb", buffering=0)
        self._hash = hashlib.sha256()
        self._size = 0

    async def write(self, chunk: bytes | memoryview) -> None:
        await asyncio.to_thread(self.add, chunk)

    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def commit(self) -> BlobRef:
        return await asyncio.to_thread(self.finish)

    def add(self, chunk: bytes | memoryview) -> None:
        assert self._file is not None
        view = memoryview(chunk).cast("B")
        try:
            for start in range(0, len(view), HASH_STEP):  # hash while the bytes are in the CPU cache
                part = view[start : start + HASH_STEP]
                self._hash.update(part)
                while part:
                    part = part[self._file.write(part) :]
        except OSError as error:
            raise _meaning(error) from error
        self._size += len(view)

    def finish(self) -> BlobRef:
        assert self._file is not None
        sha256 = self._hash.hexdigest()
        path = self._store.path_of(sha256)
        try:
            self._store.secure(path.parent)
            with self._store.locked(fcntl.LOCK_SH) as now_ns:
                is_there = self._store.is_whole(sha256, self._size)
                if is_there:
                    _renew(path, now_ns)
            if not is_there:
                os.fsync(self._file.fileno())
                with self._store.locked(fcntl.LOCK_SH) as now_ns:
                    self._path.replace(path)
                    _renew(path, now_ns)  # its bytes may have been written long ago
                self._store.trust(sha256, os.fstat(self._file.fileno()))
            # Also for a blob that existed: its writer may be, or have died, between the rename and this.
            _sync_directory(path.parent)
        except OSError as error:
            raise _meaning(error) from error
        return BlobRef(sha256, self._size)

    def abandon(self) -> None:
        """Remove the temporary file, unless the blob was committed."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def _renew(path: Path, now_ns: int) -> os.stat_result:
    """Set the access time. The time of change stays, because it shows whether the file was checked."""
    status = path.stat()
    os.utime(path, ns=(now_ns, status.st_mtime_ns))
    return status


def _abandon_begun(beginning: asyncio.Future[_Writer]) -> None:
    if not beginning.cancelled() and beginning.exception() is None:
        beginning.result().abandon()


def _mark(status: os.stat_result) -> tuple[int, int]:
    """Size and time of change: they differ after a write to the file."""
    return (status.st_size, status.st_mtime_ns)


def _make_directory(path: Path) -> None:
    """Make a directory with its parents, each of them durable."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        _make_directory(path.parent)
    path.mkdir(exist_ok=True)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _meaning(error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"no room for a blob: {error}")
    return StorageUnavailable(f"blob not accessible: {error}")
