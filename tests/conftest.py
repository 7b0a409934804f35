"""Shared fixtures of several folders: a Ray cluster that this process is a driver of, an S3 service, and
a PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from postgres import PostgresServer, running_postgres
from rays import init_ray, shut_down_ray
from s3 import CREDENTIALS, S3Server, running_s3
from transitions import each_transition, refuse_unknown

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # by default, workers get almost nothing of a busy machine's CPUs
os.environ.setdefault("PERDURE_MODULES", "off")  # engines of this process import tests as they are; some tests say else
os.environ |= CREDENTIALS  # now, for the workers of a cluster know what it was started with

settings.register_profile("same", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("explore", settings.get_profile("same"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))  # the machine may be busy: no time is asserted


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from lanes import LaneScheduling

    return LaneScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def _only_known_transitions() -> Iterator[None]:
    with each_transition(refuse_unknown):
        yield


@pytest.fixture(scope="session")
def driver_of_ray() -> Iterator[None]:
    """Two CPUs, and three GPUs and a disk that Ray takes our word for, as long as the session lasts."""
    init_ray("local", num_cpus=2, num_gpus=3, resources={"disk": 2})
    try:
        yield
    finally:
        shut_down_ray()


@pytest.fixture(scope="session")
def storage_of_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture
def own_ray(driver_of_ray: None, storage_of_engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that this process is a driver of, without an engine: the first call of `perdure.workflow` starts
    it, as for any program. It is there for the tests that follow, too."""
    monkeypatch.setenv("PERDURE_STORAGE", str(storage_of_engine))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A process of its own, started by the first test that asks for it. Tests take a bucket each."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A process of its own, started by the first test that asks for it. Tests take a database each."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """Not that of the session: tests of the module may stop, pause and kill this one."""
    with running_postgres() as server:
        yield server
