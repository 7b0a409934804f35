"""A real server over real sockets, in the test's own process: local executor, every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

import perdure
from integration.wire_calls import Stubs, output_of, pickle_of, run_request, sum_of
from perdure.service.app import RunningServer, running_server
from perdure.service.settings import Settings


@pytest.fixture(params=["memory", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else str(tmp_path / "storage")


@pytest.fixture
async def server(storage: str) -> AsyncIterator[RunningServer]:
    settings = Settings(listen="127.0.0.1:0", storage=storage, executor="local", drain_s=2.0)
    async with running_server(settings) as server:
        yield server


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[perdure.Client]:
    async with perdure.Client(server.address, patience=2.0) as client:
        yield client


@pytest.fixture
async def channel(server: RunningServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
async def stubs(channel: grpc.aio.Channel) -> Stubs:
    return Stubs.on(channel)


@pytest.fixture
async def goes_on_serving(stubs: Stubs) -> AsyncIterator[None]:
    """After the test, whatever it did, new work is done."""
    yield
    await stubs.workflows.Run(run_request(sum_of(20, 22), "afterwards"))
    assert (await output_of(stubs, "afterwards")).output.data == pickle_of(42)
