"""Putting, renewing and deleting one blob at the same time, in every order that chance finds.

The service is an object in memory whose requests take effect at a moment of chance, each whole, as S3
promises; its clock is the test's. Deleters die on the way, and answers get lost.
"""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from perdure.model import BlobRef
from perdure.storage.blobs.s3 import S3BlobStore
from perdure.storage.ports import BlobNotFound, StorageUnavailable

START_S = 1_700_000_000
IDLE_S = 100.0
OLD_S = 10_000
DAY_S = 24 * 3600
DATA = b"the bytes"
SEEDS = 1500


class Service:
    """The requests that the store makes, on a dict of key: (bytes, second of the last change)."""

    def __init__(self, chance: random.Random) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.now_s = START_S
        self._chance = chance

    async def _pass(self) -> None:
        for _ in range(self._chance.randrange(6)):
            await asyncio.sleep(0)
        self.now_s += self._chance.randrange(2)

    async def put_object(self, *, Key: str, Body: bytes, IfNoneMatch: str = "", **_rest: Any) -> Any:
        await self._pass()
        if IfNoneMatch and Key in self.objects:
            raise _error("PreconditionFailed", 412)
        self.objects[Key] = (bytes(Body), self.now_s)
        await self._pass()

    async def get_object(self, *, Key: str, **_rest: Any) -> Any:
        await self._pass()
        if Key not in self.objects:
            raise _error("NoSuchKey", 404)
        data = self.objects[Key][0]
        return {"ContentRange": f"bytes 0-{len(data) - 1}/{len(data)}", "Body": _Body(data), "ETag": "x"}

    async def copy_object(self, *, Key: str, CopySource: dict[str, str], **_rest: Any) -> Any:
        await self._pass()
        if CopySource["Key"] not in self.objects:
            raise _error("NoSuchKey", 404)
        self.objects[Key] = (self.objects[CopySource["Key"]][0], self.now_s)
        await self._pass()

    async def delete_object(self, *, Key: str, **_rest: Any) -> Any:
        await self._pass()
        self.objects.pop(Key, None)
        await self._pass()

    async def list_objects_v2(self, *, Prefix: str, **_rest: Any) -> Any:
        await self._pass()
        found = [
            {"Key": key, "Size": len(data), "LastModified": datetime.fromtimestamp(changed_s, UTC)}
            for key, (data, changed_s) in sorted(self.objects.items())
            if key.startswith(Prefix)
        ]
        date = format_datetime(datetime.fromtimestamp(self.now_s, UTC), usegmt=True)
        await self._pass()
        return {"Contents": found, "ResponseMetadata": {"HTTPHeaders": {"date": date}}}


class _Body:
    """What the store takes from an answer's body."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.content = self

    async def __aenter__(self) -> _Body:
        return self

    async def __aexit__(self, *_error: object) -> None:
        pass

    async def iter_chunked(self, _size: int) -> Any:
        yield self._data


def _error(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "request")  # type: ignore[typeddict-item]


class _Clients:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def get(self) -> Any:
        return self._service


def store_over(service: Service) -> S3BlobStore:
    store = S3BlobStore("bucket")
    store._clients = _Clients(service)  # type: ignore[assignment]
    return store


async def has(store: S3BlobStore, blob: BlobRef) -> bool:
    try:
        return bytes(await store.get(blob.sha256)) == DATA
    except BlobNotFound:
        return False


async def act(store: S3BlobStore, what: str, blob: BlobRef) -> bool:
    """Whether the blob must be there afterwards, whatever else happened."""
    match what:
        case "put":
            await store.put([DATA])
            return True
        case "renew":
            return await store.renew(blob.sha256) is not None
        case _:
            await store.delete(blob.sha256, idle_s=IDLE_S)
            return False


async def world(seed: int) -> None:
    chance = random.Random(seed)
    service = Service(chance)
    store = store_over(service)
    blob = await store.put([DATA])
    for _ in range(chance.randrange(1, 4)):
        service.now_s += chance.choice([1, OLD_S, OLD_S, 2 * DAY_S])
        names = chance.choices(["put", "renew", "delete", "delete", "dies"], k=chance.randrange(2, 6))
        tasks = [asyncio.ensure_future(act(store_over(service), name, blob)) for name in names]
        for name, task in zip(names, tasks, strict=True):
            if name == "dies":
                for _ in range(chance.randrange(30)):
                    await asyncio.sleep(0)
                task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for name, outcome in zip(names, done, strict=True):
            died = name == "dies" and isinstance(outcome, asyncio.CancelledError)
            assert died or isinstance(outcome, bool), (seed, name, outcome)
        if True in done:
            assert await has(store, blob), (seed, names)
    service.now_s += 3 * DAY_S
    assert await store.delete(blob.sha256, idle_s=IDLE_S)
    assert not await has(store, blob)
    assert await store.delete(blob.sha256, idle_s=IDLE_S)
    assert service.objects == {}, (seed, service.objects)


@pytest.mark.parametrize("start", range(0, SEEDS, 250))
async def test_a_blob_exists_after_its_put_despite_concurrent_deletions(start: int) -> None:
    for seed in range(start, start + 250):
        await world(seed)


async def test_a_deleter_that_looked_too_long_ago_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(random.Random(1))
    store = store_over(service)
    blob = await store.put([DATA])
    service.now_s += OLD_S
    monkeypatch.setattr("perdure.storage.blobs.s3.DELETE_S", -1.0)
    assert await store.delete(blob.sha256, idle_s=IDLE_S) is False
    assert await has(store, blob)


async def test_an_answer_without_a_date_is_refused() -> None:
    """Ages are told by the service's clock alone."""

    class Dateless(Service):
        async def list_objects_v2(self, **request: Any) -> Any:
            answer = await super().list_objects_v2(**request)
            return {**answer, "ResponseMetadata": {"HTTPHeaders": {}}}

    with pytest.raises(StorageUnavailable, match="without a date"):
        await store_over(Dateless(random.Random(1))).delete("0" * 64)
