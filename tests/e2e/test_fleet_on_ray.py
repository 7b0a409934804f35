"""Two engines, each with an agent, on one Ray cluster: neither keeps it for itself."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest

import perdure
from fleet import engines
from perdure.model import RunStatus, TaskStatus
from postgres import PostgresServer
from services import Process, running

pytestmark = [pytest.mark.ray]


@perdure.task
def nap(seconds: float, number: int) -> int:
    time.sleep(seconds)
    return number


@perdure.task
def count(numbers: list[int]) -> int:
    return len(numbers)


async def test_an_engine_gets_its_turn_while_another_has_work_for_all_cpus(
    postgres_server: PostgresServer, ray_address: str, tmp_path: Path
) -> None:
    blobs = (tmp_path / "blobs").as_uri()
    async with postgres_server.database() as database, AsyncExitStack() as clients:
        with ExitStack() as stack:
            flags = ("--executor", "agents", "--lease-idle-s", "2")
            fleet = stack.enter_context(engines(tmp_path, database, blobs, ("a", "b"), *flags))
            for engine in fleet:
                arguments = ("--address", engine.address, "--ray-address", ray_address)
                agent = Process("-m", "perdure.worker.agent", *arguments, log=tmp_path / f"{engine.name}.agent.log")
                stack.enter_context(running(agent))
                agent.start()
                agent.wait_for("agent serves")
            busy, other = [await clients.enter_async_context(perdure.Client(engine.address)) for engine in fleet]
            wide = await busy.start(count.bind([nap.bind(0.3, number) for number in range(2_000)]))  # 5 min of two CPUs
            async for update in wide.watch():
                if update.task is not None and update.task.status is TaskStatus.RUNNING:
                    break
            assert await other.run(nap.bind(0.0, 7)) == 7
            assert (await wide.status()).status is RunStatus.RUNNING, "it had its turn before the others were done"
            await wide.cancel()
            with pytest.raises(perdure.WorkflowCancellationError):
                await wide.output()
