"""Housekeeping over gRPC: orphans are found and removed, values come as blobs where that was asked for."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import grpc
import grpc.aio
import pytest

import perdure
from integration.wire_calls import Stubs, json_of, output_of, refused, run_request, sum_of
from perdure.service.app import running_server
from perdure.service.common.settings import Settings
from perdure.storage.blobs.filesystem import FilesystemBlobStore
from perdure.v1 import blob_service_pb2, system_service_pb2
from perdure.v1 import workflow_service_pb2 as pb

LARGE = 100_000


@perdure.task
def large(letter: str) -> bytes:
    return letter.encode() * LARGE


async def names(folder: Path) -> set[str]:
    return {blob.sha256 async for blob in FilesystemBlobStore(folder).list()}


async def until(folder: Path, expected: set[str]) -> None:
    while await names(folder) != expected:
        await asyncio.sleep(0.01)


async def is_there(run: perdure.Handle[object]) -> bool:
    try:
        await run.status()
    except perdure.errors.WorkflowNotFoundError:
        return False
    return True


@pytest.mark.parametrize("by_itself", [False, True])
async def test_unused_blobs_are_removed(tmp_path: Path, by_itself: bool) -> None:
    folder = tmp_path / "blobs"
    settings = Settings(
        listen="127.0.0.1:0",
        storage=str(tmp_path),
        executor="local",
        blob_grace_s=5 if by_itself else 0,  # the output is not to be removed before its record is durable
        collect_s=0.05 if by_itself else 0,
    )
    orphan = await FilesystemBlobStore(folder).put([b"of a receipt that was lost"])
    async with running_server(settings) as server, perdure.Client(server.address) as client:
        assert await client.run(large.bind("x"), workflow_id="w") == b"x" * LARGE
        if not by_itself:
            assert await client.collect_blobs() == (2, 1)
        while orphan.sha256 in await names(folder):
            await asyncio.sleep(0.01)
        assert len(await names(folder)) == 1
        assert await client.handle("w").output() == b"x" * LARGE
        await client.delete("w")
        await until(folder, set())


async def test_blobs_within_the_grace_period_stay(tmp_path: Path) -> None:
    settings = Settings(listen="127.0.0.1:0", storage=str(tmp_path), executor="local")
    orphan = await FilesystemBlobStore(tmp_path / "blobs").put([b"about to be used"])
    async with running_server(settings) as server, perdure.Client(server.address) as client:
        assert await client.collect_blobs() == (1, 1)
        assert await client.collect_blobs() == (1, 0)
        assert server.kernel.sweeper is not None
        assert await server.kernel.sweeper.sweep() is True
        assert await names(tmp_path / "blobs") == {orphan.sha256}


async def test_finished_workflows_go_after_their_time(tmp_path: Path) -> None:
    settings = Settings(
        listen="127.0.0.1:0", storage=str(tmp_path), executor="local", keep_finished="0.2s", blob_grace_s=0
    )
    async with running_server(settings) as server, perdure.Client(server.address) as client:
        finished = await client.start(large.bind("x"))
        waiting = await client.start(large.bind(perdure.event("go")))
        while await is_there(finished):
            await asyncio.sleep(0.01)
        await until(tmp_path / "blobs", set())
        assert (await waiting.status()).status is perdure.RunStatus.RUNNING


# ------------------------------------------------------------------------------ outputs as blobs


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return str(tmp_path / "storage")


async def test_an_output_above_the_limit_comes_as_a_blob(stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(sum_of(20, 22), "w"))
    expected = json_of(42)
    whole = (await output_of(stubs, "w")).output
    assert whole.data == expected
    for limit in (0, len(expected) - 1):
        answer = await stubs.workflows.GetOutput(pb.GetOutputRequest(workflow_id="w", max_inline_bytes=limit))
        output = answer.outcome.output
        assert output.WhichOneof("body") == "blob"
        assert (output.blob.sha256, output.blob.size_bytes) == (hashlib.sha256(expected).hexdigest(), len(expected))
        assert output.encoding == whole.encoding
        request = blob_service_pb2.DownloadBlobRequest(sha256=output.blob.sha256)
        assert b"".join([part.chunk.data async for part in stubs.blobs.DownloadBlob(request)]) == expected
    answer = await stubs.workflows.GetOutput(pb.GetOutputRequest(workflow_id="w", max_inline_bytes=len(expected)))
    assert answer.outcome.output.data == expected
    await stubs.system.CollectBlobs(system_service_pb2.CollectBlobsRequest())


async def test_a_limit_below_zero(stubs: Stubs) -> None:
    await stubs.workflows.Run(run_request(sum_of(20, 22), "w"))
    request = pb.GetOutputRequest(workflow_id="w", max_inline_bytes=-1)
    await refused(stubs.workflows.GetOutput(request), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
