"""One Ray cluster for the session; engines and agents come and go as the tests need them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from rays import start_cluster
from services import Process, Service, running


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A cluster of two CPUs and a GPU that exists by name only, in processes of its own, ended with the session."""
    cluster = start_cluster(num_cpus=2, num_gpus=1)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """An engine without an agent of its own, on a folder that survives it."""
    service = Service(tmp_path, "--executor", "agents", "--lease-idle-s", "2")
    with running(service):
        service.up()
        yield service


@pytest.fixture
def agent(service: Service, ray_address: str, tmp_path: Path) -> Iterator[Process]:
    """An agent of the session's cluster for this test's engine; it dials again when the engine is back."""
    arguments = ("--address", service.address, "--ray-address", ray_address)
    agent = Process("-m", "perdure.worker.agent", *arguments, log=tmp_path / "agent.log")
    with running(agent):
        agent.start()
        agent.wait_for("agent serves")
        yield agent


@pytest.fixture(scope="session")
def steady(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An engine with an agent, for all the tests that kill neither."""
    folder = tmp_path_factory.mktemp("steady")
    service = Service(folder, "--executor", "agents", "--lease-idle-s", "2")
    arguments = ("--address", service.address, "--ray-address", ray_address)
    agent = Process("-m", "perdure.worker.agent", *arguments, log=folder / "agent.log")
    with running(service), running(agent):
        service.up()
        agent.start()
        agent.wait_for("agent serves")
        with started_again(agent):
            yield service


@contextmanager
def started_again(process: Process) -> Iterator[None]:
    """Start a process again whenever it dies, as whatever runs an agent does: checks in Ray's own code may end it."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.5):
            if process.code() is not None:
                process.start()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
