"""A service with its values on S3 and its runs in SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest

import perdure
from perdure.service.app import running_server
from perdure.service.common.settings import Settings
from perdure.storage.urls import blob_store
from s3 import S3Server

LARGE = 20 * 1024 * 1024


@perdure.task
def make(letter: str) -> bytes:
    return letter.encode() * LARGE


@perdure.task
def turn(data: bytes) -> bytes:
    return data[::-1] + b"!"


@pytest.mark.parametrize("cache", ["off", "cache"])
async def test_values_on_s3(tmp_path: Path, s3_server: S3Server, cache: str) -> None:
    url = s3_server.blobs_url("off" if cache == "off" else tmp_path / "cache")
    settings = Settings(
        listen="127.0.0.1:0", storage=str(tmp_path / "runs"), blobs=url, executor="local", blob_grace_s=0
    )
    expected = b"x" * LARGE + b"!"
    async with running_server(settings) as server, perdure.Client(server.address) as client:
        assert await client.run(turn.bind(make.bind("x")), workflow_id="w") == expected
        assert await client.run(turn.bind(b"y" * LARGE)) == b"y" * LARGE + b"!"  # an argument that is a blob
    assert not (tmp_path / "runs" / "blobs").exists()
    async with running_server(settings) as server, perdure.Client(server.address) as client:
        assert await client.handle("w").output() == expected
        store = blob_store(url)
        before = {blob.sha256 async for blob in store.list()}
        await client.delete("w")
        assert server.kernel.sweeper is not None
        await server.kernel.sweeper.sweep()
        left = {blob.sha256 async for blob in store.list()}
        assert len(before - left) == 2
        await store.close()


async def test_a_bucket_that_is_not_there(tmp_path: Path, s3_server: S3Server) -> None:
    """Callers learn that it is no trouble of theirs; the log says what it is."""
    url = s3_server.blobs_url().replace("s3://", "s3://not-")
    settings = Settings(listen="127.0.0.1:0", storage=str(tmp_path), blobs=url, executor="local")
    async with running_server(settings) as server, perdure.Client(server.address, patience=0) as client:
        with pytest.raises(perdure.errors.ServiceUnavailableError, match="the storage refuses this service"):
            await client.run(turn.bind(b"y" * LARGE))
        with pytest.raises(perdure.WorkflowExecutionError, match="NoSuchBucket"):
            await client.run(turn.bind(make.options(max_retries=0).bind("x")))
