"""The suite of the executors, over leases on a real Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from conformance.test_executor import *  # noqa: F403
from conformance.test_executor_hostile import *  # noqa: F403
from conformance.test_executor_limits import *  # noqa: F403
from conformance.workbench import Bench, pool_bench
from patience import PATIENCE_S
from perdure.model import Resources, Shape
from services import Process, free_port, running

pytestmark = [pytest.mark.ray, pytest.mark.slow]

OURS = {"lost_worker", "lost_together", "lost_agent", "is_killed", "streams_and_signals", "alarm_left"}
for name in [name for name in globals() if any(part in name for part in OURS)]:
    del globals()[name]  # they look at the processes of the suite's own agent


@pytest.fixture(scope="module")
def agent_address(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where an agent of the session's cluster dials, again and again."""
    address = f"127.0.0.1:{free_port()}"
    log = tmp_path_factory.mktemp("agent") / "agent.log"
    agent = Process("-m", "perdure.worker.agent", "--address", address, "--ray-address", ray_address, log=log)
    with running(agent):
        agent.start()
        yield address


@pytest.fixture
async def bench(agent_address: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with pool_bench(tmp_path, agent_address) as (bench, _, _):
        bench.shape = Shape(Resources(num_cpus=0.5))  # four of them fit
        async with asyncio.timeout(PATIENCE_S):
            while not bench.executor.python_versions():
                await asyncio.sleep(0.02)
        yield bench
