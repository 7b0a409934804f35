"""A real server over real sockets, in the test's own process: local executor, every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

import perdure
from integration.engine_settings import settings_on
from integration.wire_calls import Stubs, json_of, output_of, run_request, sum_of
from perdure.service.app import RunningServer, running_server


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    match request.param:
        case "memory":
            yield "memory:"
        case "sqlite":
            yield str(tmp_path / "storage")
        case _:
            async with request.getfixturevalue("postgres_server").database() as url:
                yield url


@pytest.fixture
async def server(storage: str) -> AsyncIterator[RunningServer]:
    async with running_server(settings_on(storage)) as server:
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
    assert (await output_of(stubs, "afterwards")).output.data == json_of(42)
