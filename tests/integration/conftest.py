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
from patience import PATIENCE_S
from perdure.service.app import RunningServer, running_server
from perdure.storage.postgres import commits, connected, connections


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every test runs on every storage, unless it is marked with those that tell as much."""
    left_out = {item for item in items if not _tells(item)}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def _tells(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("storages")
    if marker is None or not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return True
    return item.callspec.params.get("storage", marker.args[0]) in marker.args


@pytest.fixture
def patient_with_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine runs in the process of the test, and a busy machine lets neither run for seconds. A real engine would
    answer UNAVAILABLE, and its clients would ask again."""
    monkeypatch.setattr(commits, "COMMIT_S", float(PATIENCE_S))
    monkeypatch.setattr(connected, "READ_S", float(PATIENCE_S))
    monkeypatch.setitem(connections.SETTINGS, "idle_in_transaction_session_timeout", f"{PATIENCE_S}s")
    monkeypatch.setitem(connections.connect.__kwdefaults__, "timeout_s", PATIENCE_S)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path, patient_with_postgres: None) -> AsyncIterator[str]:
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
