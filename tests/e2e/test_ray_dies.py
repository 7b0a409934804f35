"""A part of the service's own Ray dies by SIGKILL, and the service recovers without help."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import psutil
import pytest

import perdure
from services import Service, running

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

HARNESS_S = 300


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, "--ray-cpus", "1", "--lease-idle-s", "0.5")
    with running(service):
        service.up()
        yield service


@perdure.task(max_retries=0)
def where(*before: Any) -> tuple[int, int]:
    """An attempt that costs anything fails the run."""
    return os.getpid(), perdure.context().attempt


@perdure.task(max_retries=1)
def stay_once(path: str) -> int:
    """The first attempt does not end by itself."""
    attempt = perdure.context().attempt
    Path(f"{path}.{attempt}").touch()
    while attempt == 1:
        time.sleep(0.02)
    return attempt


async def idle(pid: int) -> None:
    """Until the lease of a worker process has ended. Ray says so in the title of the process."""
    async with asyncio.timeout(HARNESS_S):
        while "IDLE" not in " ".join(psutil.Process(pid).cmdline()):
            await asyncio.sleep(0.05)


async def appears(path: Path) -> None:
    async with asyncio.timeout(HARNESS_S):
        while not path.exists():
            await asyncio.sleep(0.02)


def victim(service: Service, kind: str) -> psutil.Process:
    """Of the processes that the service started."""
    (agent,) = psutil.Process(service.pid).children()
    if kind == "agent":
        return agent
    (found,) = [child for child in agent.children() if child.name() == kind]
    return found


@pytest.mark.parametrize("kind", ["raylet", "gcs_server", "agent"])
async def test_runs_wait_for_the_next_ray_at_no_cost(world: Service, kind: str) -> None:
    async with perdure.Client(world.address) as client:
        pid, _ = await client.run(where.bind())
        await idle(pid)
        since = world.said()
        victim(world, kind).kill()
        assert (await client.run(where.bind(where.bind())))[1] == 1
    said = world.log_path.read_text()[since:]
    assert said.count("another one is started") == 1, said
    if kind != "agent":
        causes = {f"its {kind} (process "}
        if kind == "raylet":  # a lease may have met its death before the agent looked
            causes.add("is dead: ray.exceptions.LocalRayletDiedError")
        assert any(cause in said for cause in causes), said


async def test_an_attempt_that_ray_dies_under_is_tried_again(world: Service, tmp_path: Path) -> None:
    async with perdure.Client(world.address) as client:
        handle = await client.start(stay_once.bind(str(tmp_path / "stay")))
        await appears(tmp_path / "stay.1")
        victim(world, "raylet").kill()
        assert await handle.output(timeout=HARNESS_S) == 2
