"""Blobs on an S3 service that fails, stalls, breaks off and damages."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from faults.s3_proxy import Proxy, proxied
from patience import PATIENCE_S
from perdure.model import BlobRef
from perdure.storage.blobs import s3
from perdure.storage.blobs.cached import CachedBlobStore
from perdure.storage.blobs.s3 import S3BlobStore
from perdure.storage.blobs.s3_client import Endpoint
from perdure.storage.ports import BlobNotFound, CorruptData, StorageDenied, StorageFull, StorageUnavailable
from perdure.storage.urls import blob_store
from s3 import S3Server

MIB = 1024 * 1024
NOWHERE = "0" * 64
LARGE = os.urandom(20 * MIB)
SMALL = b"small" * 1000


@pytest.fixture
async def proxy(s3_server: S3Server) -> AsyncIterator[Proxy]:
    async with proxied(s3_server.url) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy: Proxy, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3BlobStore]:
    """Waits for answers as long as a busy machine needs."""
    monkeypatch.setattr(s3, "READ_PAUSE_S", 0.001)
    store = S3BlobStore(s3_server.bucket(), "blobs", Endpoint(proxy.url, "us-east-1", read_s=PATIENCE_S, tries=2))
    yield store
    await store.close()


@pytest.fixture
async def hasty(proxy: Proxy, store: S3BlobStore) -> AsyncIterator[S3BlobStore]:
    """The same blobs, for tests of a service that never answers."""
    hasty = S3BlobStore(store._bucket, "blobs", Endpoint(proxy.url, "us-east-1", read_s=0.5, tries=2))
    yield hasty
    await hasty.close()


@pytest.fixture
def cached(store: S3BlobStore, tmp_path: Path) -> CachedBlobStore:
    return CachedBlobStore(store, tmp_path / "cache")


async def client_of(store: S3BlobStore) -> Any:
    return await store._clients.get()


async def uploads(store: S3BlobStore) -> list[Any]:
    answer = await (await client_of(store)).list_multipart_uploads(Bucket=store._bucket)
    return list(answer.get("Uploads", []))


async def overwrite(store: S3BlobStore, blob: BlobRef, data: bytes) -> None:
    await (await client_of(store)).put_object(Bucket=store._bucket, Key=store._key(blob.sha256, "data"), Body=data)


async def listed(store: S3BlobStore) -> list[BlobRef]:
    return [blob async for blob in store.list()]


Call = Callable[[S3BlobStore, BlobRef], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "put": lambda store, blob: store.put([SMALL]),
    "put large": lambda store, blob: store.put([LARGE]),
    "get": lambda store, blob: store.get(blob.sha256),
    "size": lambda store, blob: store.size(blob.sha256),
    "renew": lambda store, blob: store.renew(blob.sha256),
    "delete": lambda store, blob: store.delete(blob.sha256),
    "list": lambda store, blob: listed(store),
}


@pytest.mark.parametrize("kind", ["500 InternalError", "503 SlowDown", "drop"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_service_that_does_not_answer(store: S3BlobStore, proxy: Proxy, call: Call, kind: str) -> None:
    blob = await store.put([b"there"])
    proxy.fail(kind)
    with pytest.raises(StorageUnavailable, match="S3"):
        await call(store, blob)
    proxy.heal()
    await call(store, blob)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_service_that_hangs(store: S3BlobStore, hasty: S3BlobStore, proxy: Proxy, call: Call) -> None:
    blob = await store.put([b"there"])
    proxy.fail("hang")
    with pytest.raises(StorageUnavailable, match="S3"):
        await call(hasty, blob)
    proxy.heal()
    assert await as_soon_as_it_answers(hasty, blob) == len(b"there")
    await call(store, blob)


async def as_soon_as_it_answers(store: S3BlobStore, blob: BlobRef) -> int | None:
    """The size of a blob. On a busy machine a service may be slower than a hasty store waits."""
    while True:
        with suppress(StorageUnavailable):
            return await store.size(blob.sha256)


@pytest.mark.parametrize("kind", ["500 InternalError", "503 SlowDown", "drop"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_service_that_answers_at_the_second_try(
    store: S3BlobStore, proxy: Proxy, call: Call, kind: str
) -> None:
    blob = await store.put([b"there"])
    fault = proxy.fail(kind, times=1)
    await call(store, blob)
    assert fault.hits == 1


@pytest.mark.parametrize("kind", ["403 AccessDenied", "403 InvalidAccessKeyId", "404 NoSuchBucket"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_service_that_does_not_let_us_in(store: S3BlobStore, proxy: Proxy, call: Call, kind: str) -> None:
    blob = await store.put([b"there"])
    proxy.fail(kind)
    with pytest.raises(StorageDenied, match=f"(?s)look at the bucket.*{kind[4:]}"):
        await call(store, blob)


async def test_no_credentials(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    store = S3BlobStore(s3_server.bucket(), "", Endpoint(s3_server.url, "us-east-1"))
    with pytest.raises(StorageDenied, match="no credentials"):
        await store.put([b"x"])
    await store.close()


async def test_a_service_without_room(store: S3BlobStore, proxy: Proxy) -> None:
    proxy.fail("507 InsufficientStorage", method="PUT")
    with pytest.raises(StorageFull, match="no room"):
        await store.put([SMALL])


# ------------------------------------------------------------------------------ bodies


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("times", [1, 3])
async def test_reading_goes_on_where_it_broke_off(store: S3BlobStore, proxy: Proxy, data: bytes, times: int) -> None:
    blob = await store.put([data])
    fault = proxy.fail("cut", method="GET", text="/data", times=times)
    assert await store.get(blob.sha256) == data
    assert fault.hits == times


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_answers_that_always_break_off(store: S3BlobStore, proxy: Proxy, data: bytes) -> None:
    blob = await store.put([data])
    proxy.fail("cut", method="GET", text="/data")
    with pytest.raises(StorageUnavailable, match="breaks off"):
        await store.get(blob.sha256)


async def test_bytes_that_were_damaged_once_on_their_way(store: S3BlobStore, proxy: Proxy) -> None:
    blob = await store.put([LARGE])
    fault = proxy.fail("flip", method="GET", text="/data", times=1)
    assert await store.get(blob.sha256) == LARGE
    assert fault.hits == 1


async def test_bytes_that_are_always_damaged_on_their_way(store: S3BlobStore, proxy: Proxy) -> None:
    blob = await store.put([SMALL])
    proxy.fail("flip", method="GET", text="/data")
    with pytest.raises(CorruptData, match=blob.sha256) as caught:
        await store.get(blob.sha256)
    assert caught.value.subject == blob.sha256


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"!",
    "emptied": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_damage_is_named_and_not_read(
    store: S3BlobStore, cached: CachedBlobStore, damage: Callable[[bytes], bytes]
) -> None:
    whole, blob = await store.put([b"whole"]), await store.put([LARGE])
    await overwrite(store, blob, damage(LARGE))
    for each in (store, cached):
        with pytest.raises(CorruptData, match=blob.sha256) as caught:
            await each.get(blob.sha256)
        assert caught.value.subject == blob.sha256
        assert await each.get(whole.sha256) == b"whole"


@pytest.mark.parametrize("damage", ["cut", "longer", "emptied"])
async def test_putting_again_replaces_a_blob_of_wrong_length(store: S3BlobStore, damage: str) -> None:
    blob = await store.put([LARGE])
    await overwrite(store, blob, DAMAGES[damage](LARGE))
    assert await store.put([LARGE]) == blob
    assert await store.get(blob.sha256) == LARGE
    assert await listed(store) == [blob]
    assert await store.delete(blob.sha256)
    with pytest.raises(BlobNotFound):
        await store.get(blob.sha256)


# ------------------------------------------------------------------------------ in parts


async def test_a_large_blob_travels_in_parts(store: S3BlobStore, cached: CachedBlobStore, proxy: Proxy) -> None:
    data = os.urandom(64 * MIB)
    blob = await store.put([memoryview(data)[: 5 * MIB + 3], b"", memoryview(data)[5 * MIB + 3 :]])
    assert blob == BlobRef(hashlib.sha256(data).hexdigest(), len(data))
    parts = [path.rpartition("partNumber=")[2] for method, path in proxy.seen if method == "PUT" and "?" in path]
    assert sorted(parts) == [str(number) for number in range(1, 9)]
    # The time of the put is that of the completion, not that of the begin of the upload.
    marks = [number for number, (method, path) in enumerate(proxy.seen) if method == "PUT" and path.endswith("/put")]
    ends = [number for number, (method, path) in enumerate(proxy.seen) if method == "POST" and "uploadId=" in path]
    assert marks[-1] < ends[0]
    proxy.seen.clear()
    assert await cached.get(blob.sha256) == data
    assert len([path for method, path in proxy.seen if method == "GET" and "/data" in path]) >= 8
    proxy.seen.clear()
    assert await cached.get(blob.sha256) == data
    assert proxy.seen == []
    assert await store.put([data]) == blob
    assert not [path for method, path in proxy.seen if "partNumber=" in path]
    assert await uploads(store) == []


@pytest.mark.parametrize("text", ["partNumber=2", "uploadId="])
async def test_an_upload_that_fails_leaves_nothing(store: S3BlobStore, proxy: Proxy, text: str) -> None:
    proxy.fail("500 InternalError", method="PUT" if "part" in text else "POST", text=text)
    with pytest.raises(StorageUnavailable):
        await store.put([LARGE])
    assert await uploads(store) == []
    assert await listed(store) == []


async def test_a_service_that_knows_no_conditions(store: S3BlobStore, proxy: Proxy) -> None:
    fault = proxy.fail("501 NotImplemented", method="PUT", times=1)
    blob = await store.put([SMALL])
    assert fault.hits == 1
    assert await store.get(blob.sha256) == SMALL
    await store.put([LARGE])
    assert len(await listed(store)) == 2


async def test_a_failed_precondition_means_another_writer_stored_the_blob(store: S3BlobStore, proxy: Proxy) -> None:
    blob = await store.put([SMALL])
    proxy.fail("412 PreconditionFailed", method="PUT", text="/data", times=1)
    other = await store.put([b"other"])
    assert await store.get(other.sha256) == b"other"
    assert await store.get(blob.sha256) == SMALL


# ------------------------------------------------------------------------------ the cache


def file_of(folder: Path, blob: BlobRef) -> Path:
    return folder / "cache" / blob.sha256[:2] / blob.sha256


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_file_of_the_cache_is_fetched_again(
    store: S3BlobStore, cached: CachedBlobStore, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    blob = await cached.put([LARGE])
    path = file_of(tmp_path, blob)
    path.write_bytes(damage(LARGE))
    os.utime(path, (1, 1))
    for each in (cached, CachedBlobStore(store, tmp_path / "cache")):
        assert await each.get(blob.sha256) == LARGE
        assert path.read_bytes() == LARGE


async def test_a_file_of_the_cache_that_vanished(cached: CachedBlobStore, tmp_path: Path) -> None:
    blob = await cached.put([LARGE])
    view = await cached.get(blob.sha256)
    for path in sorted((tmp_path / "cache").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "cache").rmdir()
    assert await cached.get(blob.sha256) == LARGE
    assert file_of(tmp_path, blob).read_bytes() == LARGE
    assert view == LARGE


async def test_a_fetch_that_fails_leaves_nothing(cached: CachedBlobStore, proxy: Proxy, tmp_path: Path) -> None:
    blob = await cached.put([LARGE])
    file_of(tmp_path, blob).unlink()
    proxy.fail("drop", method="GET", text="/data")
    with pytest.raises(StorageUnavailable):
        await cached.get(blob.sha256)
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []
    assert not file_of(tmp_path, blob).exists()


async def test_the_cache_has_its_bounds(store: S3BlobStore, tmp_path: Path) -> None:
    """The cache is LRU: mapped blobs stay readable after eviction, and too large ones are not cached."""
    cached = CachedBlobStore(store, tmp_path / "cache", 10 * MIB)
    blobs = [await cached.put([bytes([number]) * MIB]) for number in range(9)]
    for age, blob in enumerate(reversed(blobs)):
        path = file_of(tmp_path, blob)
        os.utime(path, ns=(path.stat().st_mtime_ns - (age + 100) * 10**9, path.stat().st_mtime_ns))
    mapped = await cached.get(blobs[0].sha256)  # the oldest is used now
    for number in range(10, 14):
        await cached.put([bytes([number]) * MIB])
    kept = list((tmp_path / "cache").glob("??/*"))
    assert sum(path.stat().st_size for path in kept) <= 10 * MIB
    assert file_of(tmp_path, blobs[0]).exists()
    assert not file_of(tmp_path, blobs[1]).exists()
    assert await cached.get(blobs[1].sha256) == bytes([1]) * MIB
    assert mapped == bytes([0]) * MIB
    large = await cached.put([LARGE])
    assert not file_of(tmp_path, large).exists()
    assert await cached.get(large.sha256) == LARGE
    assert not file_of(tmp_path, large).exists()


async def test_a_disk_without_room_for_the_cache(
    cached: CachedBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = await cached.put([LARGE])
    file_of(tmp_path, blob).unlink()

    def refuse(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert await cached.get(blob.sha256) == LARGE
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []


async def test_a_cache_that_cannot_be(store: S3BlobStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cached = CachedBlobStore(store, tmp_path / "file" / "cache")
    blob = await cached.put([LARGE])
    assert await cached.get(blob.sha256) == LARGE


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://", "expected s3://bucket"),
        ("s3://key:secret@bucket", "credentials belong in the environment"),
        ("s3://bucket?endpiont=x", "unknown option 'endpiont'"),
    ],
)
def test_urls_that_mean_nothing(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        blob_store(url)
