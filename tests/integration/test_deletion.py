"""Deleting a run removes its rows and frees its blobs, except those that another run uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import perdure
from integration.engine_settings import settings_on
from patience import PATIENCE_S
from perdure import errors
from perdure.model import INLINE_BYTES_MAX
from perdure.service.app import RunningServer, running_server
from perdure.storage.blobs.filesystem import FilesystemBlobStore
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.storage.ports import BlobStore, StorageUnavailable
from perdure.v1 import blob_service_pb2, payload_pb2, workflow_service_pb2

LARGE = INLINE_BYTES_MAX * 2


class Blobs(MemoryBlobStore):
    """Tells when it removes something, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.removed = asyncio.Event()
        self.trouble = 0

    async def delete(self, sha256: str, *, idle_s: float = 0) -> bool:
        if self.trouble:
            self.trouble -= 1
            raise StorageUnavailable("no answer")
        is_gone = await super().delete(sha256, idle_s=idle_s)
        if is_gone:
            self.removed.set()
        return is_gone


async def names(blobs: BlobStore) -> set[str]:
    return {blob.sha256 async for blob in blobs.list()}


@pytest.fixture
def blobs() -> Blobs:
    return Blobs()


@asynccontextmanager
async def serving(
    storage: str, blobs: BlobStore | None, grace_s: float = 0
) -> AsyncIterator[tuple[RunningServer, perdure.Client]]:
    settings = settings_on(storage, blob_grace_s=grace_s)
    async with (
        running_server(settings, blobs=blobs) as server,
        perdure.Client(server.address, patience=PATIENCE_S) as client,
    ):
        yield server, client


async def swept(server: RunningServer) -> bool:
    """Do now what the engine does in the background. Gives whether marks are left."""
    assert server.kernel.sweeper is not None
    return await server.kernel.sweeper.sweep()


@perdure.task
def make(letter: str, size: int = LARGE) -> str:
    return letter * size


@perdure.task
def length(text: str) -> int:
    return len(text)


@perdure.task
def lengths(texts: list[str]) -> Any:
    return length.bind("x" * LARGE + "".join(text[0] for text in texts))


async def test_a_deleted_run_frees_outputs_and_inputs(storage: str, blobs: Blobs) -> None:
    async with serving(storage, blobs) as (server, client):
        graph = lengths.bind([make.bind("a"), perdure.input("text")])
        handle = await client.start(graph, inputs={"text": "b" * LARGE})
        assert await handle.output() == LARGE + 2
        assert len(await names(blobs)) == 3  # an output, an input and an argument of the returned graph
        await client.delete(handle.workflow_id)
        with pytest.raises(errors.WorkflowNotFoundError):
            await handle.status()
        assert not await swept(server)
        assert await names(blobs) == set()


async def test_it_happens_by_itself(storage: str, blobs: Blobs) -> None:
    async with serving(storage, blobs) as (_, client):
        handle = await client.start(make.bind("a"))
        await handle.output()
        assert not blobs.removed.is_set()
        await client.delete(handle.workflow_id)
        await asyncio.wait_for(blobs.removed.wait(), PATIENCE_S)
        assert await names(blobs) == set()


async def test_what_another_run_uses_stays(storage: str, blobs: Blobs) -> None:
    async with serving(storage, blobs) as (server, client):
        runs = [await client.start(make.bind("a")) for _ in range(2)]
        user = await client.start(length.bind("a" * LARGE))
        for run in (*runs, user):
            await run.output()
        shared = await names(blobs)
        await client.delete(runs[0].workflow_id)
        assert not await swept(server)
        assert await names(blobs) == shared
        assert await runs[1].output() == "a" * LARGE
        await client.delete(user.workflow_id)
        await swept(server)
        assert await runs[1].output() == "a" * LARGE
        await client.delete(runs[1].workflow_id)
        await swept(server)
        assert await names(blobs) == set()


async def test_events_are_freed_whether_they_were_taken_or_not(storage: str, blobs: Blobs) -> None:
    async with serving(storage, blobs) as (server, client):
        waits = await client.start(length.bind(perdure.event("text")))
        await waits.send_event("text", "e" * LARGE)
        assert await waits.output() == LARGE
        unread = await client.start(perdure.event("never"))
        await unread.send_event("other", "u" * LARGE)
        await unread.cancel()
        assert len(await names(blobs)) == 2
        for handle in (waits, unread):
            await client.delete(handle.workflow_id)
        assert not await swept(server)
        assert await names(blobs) == set()


async def test_outputs_without_checkpoint_are_freed_too(storage: str, blobs: Blobs) -> None:
    async with serving(storage, blobs) as (server, client):
        graph = length.bind(make.options(checkpoint=False).bind("v"))
        handle = await client.start(graph)
        assert await handle.output() == LARGE
        await client.delete(handle.workflow_id)
        assert not await swept(server)
        assert await names(blobs) == set()


async def test_a_graph_that_came_as_a_blob_is_freed(storage: str, blobs: Blobs) -> None:
    async with serving(storage, blobs) as (server, client):
        texts = [str(number) * 1000 for number in range(1500)]
        handle = await client.start(lengths.bind([make.bind(text, 1) for text in texts]))
        await handle.output()
        assert await names(blobs)
        await client.delete(handle.workflow_id)
        await swept(server)
        assert await names(blobs) == set()


async def test_a_blob_that_was_put_lately_stays_for_now(storage: str, blobs: Blobs) -> None:
    async with serving(storage, blobs, grace_s=3600) as (server, client):
        handle = await client.start(make.bind("a"))
        await handle.output()
        await client.delete(handle.workflow_id)
        assert await swept(server)
        assert len(await names(blobs)) == 1
        again = await client.start(make.bind("a"))
        await again.output()
        assert not await swept(server)  # a run uses it: the mark is gone
        assert await again.output() == "a" * LARGE


async def test_uploading_or_naming_what_is_there_renews_it(blobs: Blobs) -> None:
    async with serving("memory:", blobs) as (server, client):
        blob = await client._values.blobs.upload((b"x" * LARGE,))
        blobs._puts[blob.sha256] -= 7200
        header = blob_service_pb2.UploadBlobHeader(sha256=blob.sha256, size_bytes=blob.size)
        stream = client._transport.blobs.UploadBlob()
        await stream.write(blob_service_pb2.UploadBlobRequest(header=header))
        await stream.done_writing()
        assert (await stream).existed
        assert not await blobs.delete(blob.sha256, idle_s=3600)
        blobs._puts[blob.sha256] -= 7200
        assert await client.has_blob(blob)
        assert not await blobs.delete(blob.sha256, idle_s=3600)
        blobs._puts[blob.sha256] -= 7200
        payload = payload_pb2.Payload(encoding="binary/plain")
        payload.blob.sha256, payload.blob.size_bytes = blob.sha256, blob.size
        handle = await client.start(perdure.event("text"))
        await client._transport.workflows.SendEvent(
            workflow_service_pb2.SendEventRequest(
                workflow_id=handle.workflow_id, event_key="text", event_id="1", payload=payload
            )
        )
        assert await handle.output() == b"x" * LARGE
        assert not await blobs.delete(blob.sha256, idle_s=3600)
        blobs._puts[blob.sha256] -= 7200
        await client.delete(handle.workflow_id)
        assert not await swept(server)
        assert await names(blobs) == set()


async def test_trouble_with_the_blob_store_passes(storage: str, blobs: Blobs) -> None:
    async with serving(storage, blobs, grace_s=3600) as (server, client):
        handle = await client.start(make.bind("a"))
        await handle.output()
        (name,) = await names(blobs)
        blobs._puts[name] -= 7200
        blobs.trouble = 3
        await client.delete(handle.workflow_id)
        while await swept(server):
            assert await names(blobs) == {name}
        assert await names(blobs) == set()


async def test_a_blob_that_is_gone_already_is_no_trouble(storage: str, blobs: Blobs) -> None:
    async with serving(storage, blobs) as (server, client):
        handle = await client.start(make.bind("a"))
        await handle.output()
        for name in await names(blobs):
            await blobs.delete(name)
        await client.delete(handle.workflow_id)
        assert not await swept(server)


async def test_marks_survive_the_engine(tmp_path: Path) -> None:
    storage = str(tmp_path / "storage")
    async with serving(storage, None, grace_s=3600) as (_, client):
        handle = await client.start(make.bind("a"))
        kept = await client.start(make.bind("k"))
        await handle.output()
        await kept.output()
        await client.delete(handle.workflow_id)
    blobs = FilesystemBlobStore(tmp_path / "storage" / "blobs")
    assert len(await names(blobs)) == 2
    async with serving(storage, None, grace_s=0) as (server, client):
        assert not await swept(server)
        assert len(await names(blobs)) == 1
        assert await client.handle(kept.workflow_id).output() == "k" * LARGE
