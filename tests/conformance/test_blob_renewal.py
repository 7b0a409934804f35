"""Promises of every blob store about a deletion concurrent with a put."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from perdure.storage.blobs import filesystem
from perdure.storage.blobs.filesystem import FilesystemBlobStore
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.storage.ports import BlobStore
from perdure.storage.urls import blob_store
from s3 import S3Server

HOUR_S = 3600.0
NOWHERE = "0" * 64


@pytest.fixture(params=["memory", "filesystem", "s3", "cached-s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    store: BlobStore
    if request.param == "memory":
        store = MemoryBlobStore()
    elif request.param == "filesystem":
        store = FilesystemBlobStore(tmp_path / "blobs")
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        store = blob_store(server.blobs_url(cache="off" if request.param == "s3" else tmp_path / "cache"))
    yield store
    await store.close()


async def test_a_blob_that_was_put_lately_stays(store: BlobStore) -> None:
    blob = await store.put([b"value"])
    assert await store.delete(blob.sha256, idle_s=HOUR_S) is False
    assert await store.get(blob.sha256) == b"value"
    assert await store.delete(blob.sha256) is True
    assert await store.size(blob.sha256) is None
    assert await store.delete(blob.sha256, idle_s=HOUR_S) is True


async def test_there_is_nothing_to_delete_or_renew(store: BlobStore) -> None:
    assert await store.delete(NOWHERE, idle_s=HOUR_S) is True
    assert await store.renew(NOWHERE) is None
    await store.put([b"other"])
    assert await store.renew(NOWHERE) is None


@pytest.fixture
def files(tmp_path: Path) -> FilesystemBlobStore:
    return FilesystemBlobStore(tmp_path / "blobs")


def age(path: Path) -> None:
    """As if it was put two hours ago."""
    long_ago = time.time() - 2 * HOUR_S
    os.utime(path, (long_ago, long_ago))


@pytest.mark.parametrize("how", ["put", "writer", "renew"])
async def test_an_old_blob_goes_unless_it_is_put_again(files: FilesystemBlobStore, how: str) -> None:
    blob = await files.put([b"value"])
    path = files.path_of(blob.sha256)
    age(path)
    changed = path.stat().st_mtime_ns
    if how == "put":
        assert await files.put([b"value"]) == blob
    elif how == "writer":
        async with files.writer() as writer:
            await writer.write(b"value")
            await writer.commit()
    else:
        assert await files.renew(blob.sha256) == 5
    assert path.stat().st_mtime_ns == changed  # it is not checked anew, nor was it written again
    assert await files.delete(blob.sha256, idle_s=HOUR_S) is False
    age(path)
    assert await files.delete(blob.sha256, idle_s=HOUR_S) is True
    assert await files.size(blob.sha256) is None


def clock_off_by(seconds: float) -> SimpleNamespace:
    """What a process on a machine with a wrong clock has for `time`."""
    return SimpleNamespace(
        time=lambda: time.time() + seconds,
        time_ns=lambda: time.time_ns() + int(seconds * 1e9),
        monotonic=time.monotonic,
    )


@pytest.mark.parametrize("off_s", [-HOUR_S, HOUR_S])
@pytest.mark.parametrize("how", ["put", "renew"])
async def test_clocks_of_machines_that_share_a_folder_may_differ(
    files: FilesystemBlobStore, monkeypatch: pytest.MonkeyPatch, off_s: float, how: str
) -> None:
    """A recent blob stays and an old one is deleted, whichever clock is wrong."""
    blob = await files.put([b"value"])
    age(files.path_of(blob.sha256))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(filesystem, "time", clock_off_by(off_s))
        await (files.put([b"value"]) if how == "put" else files.renew(blob.sha256))
    assert await files.delete(blob.sha256, idle_s=HOUR_S / 2) is False
    monkeypatch.setattr(filesystem, "time", clock_off_by(off_s))
    assert await files.delete(blob.sha256, idle_s=HOUR_S / 2) is False
    age(files.path_of(blob.sha256))
    assert await files.delete(blob.sha256, idle_s=HOUR_S / 2) is True


async def test_a_blob_counts_as_put_when_it_is_there(files: FilesystemBlobStore) -> None:
    """And not when its bytes were written, which may be long before."""
    async with files.writer() as writer:
        await writer.write(b"value")
        for path in (files._root / filesystem.TEMPORARY).iterdir():
            age(path)
        blob = await writer.commit()
    assert await files.delete(blob.sha256, idle_s=HOUR_S) is False


async def test_a_delayed_deletion_judges_age_at_the_time_of_its_call(
    files: FilesystemBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller may have put the blob and noted its use after the engine found it unused and before the deletion."""
    blob = await files.put([b"value"])
    put_s = time.time() - HOUR_S
    os.utime(files.path_of(blob.sha256), (put_s, put_s))
    moments_s = iter([0.0, 2 * HOUR_S])
    monkeypatch.setattr(filesystem, "time", SimpleNamespace(monotonic=lambda: next(moments_s)))
    assert await files.delete(blob.sha256, idle_s=HOUR_S / 2) is False


async def test_a_blob_exists_after_a_put_during_its_deletion(files: FilesystemBlobStore, tmp_path: Path) -> None:
    blob = await files.put([b"value"])
    others = [FilesystemBlobStore(tmp_path / "blobs") for _ in range(4)]
    for _ in range(100):
        age(files.path_of(blob.sha256))
        await asyncio.gather(files.delete(blob.sha256, idle_s=HOUR_S), *(other.put([b"value"]) for other in others))
        assert await files.size(blob.sha256) == 5
