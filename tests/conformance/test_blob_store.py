"""Promises of every blob store, checked for every implementation, and further ones of the filesystem store."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.model import BlobRef
from perdure.storage.blobs.filesystem import TEMPORARY, FilesystemBlobStore
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.storage.ports import BlobNotFound, BlobStore, CorruptData, StorageFull, StorageUnavailable
from perdure.storage.urls import blob_store
from s3 import S3Server

MIB = 1024 * 1024
NOWHERE = "0" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "not" / "made" / "yet"


@pytest.fixture(params=["memory", "filesystem", "s3", "cached-s3"])
async def store(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> AsyncIterator[BlobStore]:
    store: BlobStore
    if request.param == "memory":
        store = MemoryBlobStore()
    elif request.param == "filesystem":
        store = FilesystemBlobStore(folder)
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        store = blob_store(server.blobs_url(cache="off" if request.param == "s3" else tmp_path / "cache"))
    yield store
    await store.close()


@pytest.fixture
def files(folder: Path) -> FilesystemBlobStore:
    return FilesystemBlobStore(folder)


def ref(data: bytes) -> BlobRef:
    return BlobRef(hashlib.sha256(data).hexdigest(), len(data))


async def listed(store: BlobStore) -> list[BlobRef]:
    return sorted([blob async for blob in store.list()], key=lambda blob: blob.sha256)


def temporaries(folder: Path) -> list[Path]:
    return list((folder / TEMPORARY).iterdir())


# ------------------------------------------------------------------------------ every store


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [b""],
        [b"a"],
        [b"one", b"", b"two", memoryview(b"three")],
        [memoryview(bytearray(range(256))).cast("B", [16, 16])],
        [bytes(5 * MIB), memoryview(os.urandom(5 * MIB))],
    ],
    ids=["nothing", "empty", "byte", "pieces", "matrix", "large"],
)
async def test_what_is_put_is_got(store: BlobStore, chunks: list[bytes | memoryview]) -> None:
    data = b"".join(bytes(chunk) for chunk in chunks)
    blob = await store.put(chunks)
    assert blob == ref(data)
    view = await store.get(blob.sha256)
    assert view == data
    assert view.readonly
    assert await store.size(blob.sha256) == len(data)
    assert await listed(store) == [blob]


async def test_chunks_are_taken_one_by_one(store: BlobStore) -> None:
    blob = await store.put(bytes([number]) * 1000 for number in range(50))
    assert blob == ref(b"".join(bytes([number]) * 1000 for number in range(50)))


async def test_any_part_of_a_blob_can_be_read(store: BlobStore) -> None:
    data = os.urandom(2 * MIB)
    view = await store.get((await store.put([data])).sha256)
    for start, end in ((0, 0), (0, 10), (4095, 4097), (MIB, 2 * MIB), (len(data) - 1, len(data))):
        assert view[start:end] == data[start:end]


async def test_putting_again_changes_nothing(store: BlobStore) -> None:
    first = await store.put([b"same", b" bytes"])
    again = await store.put([b"same bytes"])
    assert first == again
    assert await listed(store) == [first]
    assert await store.get(first.sha256) == b"same bytes"


async def test_what_is_not_there(store: BlobStore) -> None:
    assert await listed(store) == []
    assert await store.size(NOWHERE) is None
    with pytest.raises(BlobNotFound, match=NOWHERE) as caught:
        await store.get(NOWHERE)
    assert caught.value.sha256 == NOWHERE
    await store.delete(NOWHERE)


async def test_deleting(store: BlobStore) -> None:
    kept, gone = await store.put([b"kept"]), await store.put([b"gone" * 10_000])
    mapped = await store.get(gone.sha256)
    await store.delete(gone.sha256)
    await store.delete(gone.sha256)
    assert await store.size(gone.sha256) is None
    with pytest.raises(BlobNotFound):
        await store.get(gone.sha256)
    assert mapped == b"gone" * 10_000
    assert await listed(store) == [kept]
    assert await store.put([b"gone" * 10_000]) == gone
    assert await store.get(gone.sha256) == b"gone" * 10_000


async def test_writing_in_pieces(store: BlobStore) -> None:
    async with store.writer() as writer:
        assert writer.sha256() == ref(b"").sha256
        await writer.write(b"one")
        assert writer.sha256() == ref(b"one").sha256
        await writer.write(memoryview(b"two"))
        assert await listed(store) == []
        assert await store.size(ref(b"onetwo").sha256) is None
        assert await writer.commit() == ref(b"onetwo")
    assert await store.get(ref(b"onetwo").sha256) == b"onetwo"


async def test_a_writer_that_does_not_commit_leaves_nothing(store: BlobStore, folder: Path) -> None:
    async with store.writer() as writer:
        await writer.write(b"half")

    async def fail() -> None:
        async with store.writer() as writer:
            await writer.write(b"half")
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        await fail()
    assert await listed(store) == []
    if isinstance(store, FilesystemBlobStore):
        assert temporaries(folder) == []


async def test_a_put_that_breaks_leaves_nothing(store: BlobStore, folder: Path) -> None:
    def chunks() -> Any:
        yield b"half"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        await store.put(chunks())
    assert await listed(store) == []
    if isinstance(store, FilesystemBlobStore):
        assert temporaries(folder) == []


async def test_many_put_the_same_at_once(store: BlobStore, folder: Path) -> None:
    data = os.urandom(MIB)
    blobs = await asyncio.gather(*(store.put([data]) for _ in range(16)))
    assert set(blobs) == {ref(data)}
    assert await store.get(ref(data).sha256) == data
    assert await listed(store) == [ref(data)]
    if isinstance(store, FilesystemBlobStore):
        assert temporaries(folder) == []


async def test_writers_do_not_mix(store: BlobStore) -> None:
    async with store.writer() as one, store.writer() as two:
        for number in range(10):
            await one.write(b"1")
            await two.write(b"2")
            if number == 4:
                await store.put([b"3"])
        assert await two.commit() == ref(b"2" * 10)
        assert await one.commit() == ref(b"1" * 10)
    assert {blob.size for blob in await listed(store)} == {1, 10}


# ------------------------------------------------------------------------------ files


async def test_another_process_sees_the_same(files: FilesystemBlobStore, folder: Path) -> None:
    blob = await files.put([b"shared"])
    other = FilesystemBlobStore(folder)
    assert await other.get(blob.sha256) == b"shared"
    assert await listed(other) == [blob]
    await other.delete(blob.sha256)
    assert await files.size(blob.sha256) is None


async def test_a_blob_is_mapped_and_not_read(files: FilesystemBlobStore, folder: Path) -> None:
    size = 64 * MIB
    blob = await files.put([memoryview(bytearray(size))])
    path = str(files.path_of(blob.sha256))
    first, second = await files.get(blob.sha256), await files.get(blob.sha256)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(path)]
    assert len(mapped) == 2
    assert all(line.split()[1].startswith("r--") for line in mapped)
    assert len(first) == len(second) == size


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"!",
    "emptied": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_damage_is_named_and_not_read(
    files: FilesystemBlobStore, folder: Path, damage: Callable[[bytes], bytes]
) -> None:
    whole, data = await files.put([b"whole"]), b"damaged" * 100
    blob = await files.put([data])
    path = files.path_of(blob.sha256)
    path.write_bytes(damage(data))
    os.utime(path, (1, 1))  # this process wrote the blob and trusts it while its file is unchanged
    for store in (files, FilesystemBlobStore(folder)):
        with pytest.raises(CorruptData, match=blob.sha256) as caught:
            await store.get(blob.sha256)
        assert caught.value.subject == blob.sha256
        assert await store.get(whole.sha256) == b"whole"


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_putting_again_replaces_a_damaged_blob(
    files: FilesystemBlobStore, folder: Path, damage: Callable[[bytes], bytes]
) -> None:
    data = b"damaged" * 100
    blob = await files.put([data])
    files.path_of(blob.sha256).write_bytes(damage(data))
    os.utime(files.path_of(blob.sha256), (1, 1))
    assert await FilesystemBlobStore(folder).put([data]) == blob
    assert await files.get(blob.sha256) == data
    assert await FilesystemBlobStore(folder).get(blob.sha256) == data


async def test_nothing_shows_before_it_is_whole(files: FilesystemBlobStore, folder: Path) -> None:
    async with files.writer() as writer:
        await writer.write(b"half")
        assert len(temporaries(folder)) == 1
        assert await listed(files) == []
        assert [path for path in folder.rglob("*") if path.is_file()] == temporaries(folder)


async def test_what_dead_writers_left_is_removed_and_the_work_of_others_is_not(folder: Path) -> None:
    (folder / TEMPORARY).mkdir(parents=True)
    for name, age_s in (("old", 7200), ("young", 60)):
        path = folder / TEMPORARY / name
        path.write_bytes(b"half")
        then = path.stat().st_mtime - age_s
        os.utime(path, (then, then))
    await FilesystemBlobStore(folder).put([b"whole"])
    assert [path.name for path in temporaries(folder)] == ["young"]


async def test_files_of_others_are_no_blobs(files: FilesystemBlobStore, folder: Path) -> None:
    blob = await files.put([b"mine"])
    (folder / "README").write_text("not a blob")
    (folder / blob.sha256[:2] / blob.sha256[2:4] / "notes.txt").write_text("not a blob either")
    assert await listed(files) == [blob]


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = FilesystemBlobStore(tmp_path / "file" / "blobs")
    with pytest.raises(StorageUnavailable, match="not accessible"):
        await store.put([b"x"])
    with pytest.raises(StorageUnavailable, match="not accessible"):
        await store.get(NOWHERE)
    with pytest.raises(StorageUnavailable, match="not accessible"):
        await store.size(NOWHERE)


async def test_a_folder_that_vanishes_is_not_made_anew(files: FilesystemBlobStore, folder: Path) -> None:
    """It may be a disk that is not mounted: what would be written there is hidden when it is back."""
    await files.put([b"x"])
    away = folder.rename(folder.with_name("away"))
    with pytest.raises(StorageUnavailable, match="not accessible"):
        await files.put([b"y"])
    assert not folder.exists()
    away.rename(folder)
    assert await files.put([b"y"]) == ref(b"y")


async def test_a_blob_that_may_not_be_read(files: FilesystemBlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = await files.put([b"secret"])
    real = Path.open

    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == blob.sha256:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StorageUnavailable, match="Permission denied"):
        await files.get(blob.sha256)


@pytest.mark.parametrize("call", ["fsync", "replace", "mkdir"])
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EIO, StorageUnavailable),
        (errno.EROFS, StorageUnavailable),
    ],
    ids=["full", "quota", "broken", "read-only"],
)
async def test_a_disk_that_refuses(
    files: FilesystemBlobStore,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    expected: type[Exception],
) -> None:
    await files.put([b"before"])

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(expected):
            await files.put([b"refused"])
    assert await listed(files) == [ref(b"before")]
    assert temporaries(folder) == []
    assert await files.put([b"refused"]) == ref(b"refused")


async def test_a_disk_that_is_full_in_the_middle_of_a_blob(folder: Path) -> None:
    """A real device that refuses every byte stands in for the temporary file."""
    store = FilesystemBlobStore(folder)
    await store.put([b"before"])
    async with store.writer() as writer:
        full = io.FileIO("/dev/full", "wb")
        inner: Any = writer
        inner._file.close()
        inner._file = full
        with pytest.raises(StorageFull, match="no room"):
            await writer.write(b"x")
    assert await listed(store) == [ref(b"before")]
    assert temporaries(folder) == []
