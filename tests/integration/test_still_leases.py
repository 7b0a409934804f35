"""Leases and engines that stand still, and leases that only seem to: real processes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]
import grpc
import grpc.aio
import pytest

import perdure
from patience import PATIENCE_S
from perdure import connection
from perdure.service import app
from perdure.service.common.settings import Settings
from perdure.v1 import worker_service_pb2 as pb
from perdure.v1 import worker_service_pb2_grpc
from services import Service, running

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the engine's processes cannot import tests

PINGS_S = 0.5, 4.0
"""The wait for an answer is long enough for a busy machine."""
HELD_S = 10
"""Longer than some pings and the wait for their answers."""


@pytest.fixture
async def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[perdure.Client]:
    """Of an engine that notices sooner, and whose idle leases stay."""
    options = {**dict(app.OPTIONS), **dict(connection.pings(*PINGS_S))}
    monkeypatch.setattr(app, "OPTIONS", tuple(options.items()))
    settings = Settings(listen="127.0.0.1:0", storage=str(tmp_path), executor="local", lease_idle_s=3600.0)
    async with app.running_server(settings, isolates=True) as server, perdure.Client(server.address) as client:
        yield client


@perdure.task
def process() -> int:
    return os.getpid()


@perdure.task(max_retries=0)
def hold() -> int:
    ctypes.PyDLL(None).sleep(HELD_S)  # this holds the GIL: no other Python thread runs
    return os.getpid()


async def test_work_leaves_a_lease_that_was_stopped_before_it_began(client: perdure.Client) -> None:
    """The stream of a stopped process does not break by itself."""
    stopped = await client.run(process.bind())
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert await client.run(process.bind()) != stopped
    finally:
        with suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGCONT)


async def test_a_lease_whose_code_holds_the_gil_lives(client: perdure.Client) -> None:
    """gRPC answers pings in threads of its own, without the GIL."""
    first = await client.run(process.bind())
    assert await client.run(hold.bind()) == first


async def test_a_stream_to_an_engine_that_stands_still_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WORKER_PINGS_S", PINGS_S)
    service = Service(tmp_path, "--executor", "agents", "--blobs", str(tmp_path / "blobs"))
    with running(service):
        service.up()
        async with connection.worker_channel(service.address) as channel, asyncio.timeout(PATIENCE_S):
            stream = worker_service_pb2_grpc.WorkerServiceStub(channel).ServeAgent()
            await stream.write(pb.ServeAgentRequest(hello=pb.AgentHello(agent_id="a", cluster_id="c")))
            assert (await stream.read()).HasField("welcome")
            service.pause()
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stream.read()
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
