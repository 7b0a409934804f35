"""A service with limits that is killed again and again: no slot is lost, none is leaked, everybody's turn comes."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import perdure
from perdure import RunStatus
from services import Service, running

RUNS = 24
MAX_RUNNING = 2
KILLS = 4


@perdure.task
def add_line(path: str, *_: object) -> str:
    with open(path, "a") as file:
        file.write("x\n")
    return path


async def test_kills_lose_no_slot_and_leak_none(tmp_path: Path) -> None:
    service = Service(tmp_path, "--executor", "local", "--max-running-workflows", str(MAX_RUNNING))
    with running(service):
        service.up()
        async with perdure.Client(service.address) as client:
            handles = [
                await client.start(
                    add_line.bind(str(tmp_path / f"after-{number}"), add_line.bind(str(tmp_path / f"{number}"))),
                    workflow_id=f"{number:02}",
                    request_id=f"request-{number}",
                )
                for number in range(RUNS)
            ]
            outputs = asyncio.gather(*(handle.output() for handle in handles))
            watched = asyncio.create_task(watch(client))
            for kill in range(KILLS):
                with contextlib.suppress(perdure.WorkflowExecutionError):
                    await handles[(kill + 1) * RUNS // (KILLS + 2)].output()
                service.kill()
                service.up()
            assert await outputs == [str(tmp_path / f"after-{number}") for number in range(RUNS)]
            watched.cancel()
            assert await watched <= MAX_RUNNING
            assert {run.status async for run in client.list()} == {RunStatus.SUCCESSFUL}
            for handle in [await client.start(perdure.event("go"), workflow_id=name) for name in ("a", "b", "c")]:
                expected = RunStatus.PENDING if handle.workflow_id == "c" else RunStatus.RUNNING
                assert (await handle.status()).status is expected
    for number in range(RUNS):  # what had ended before a kill was not run again; what was cut off may have been
        lines = (tmp_path / f"after-{number}").read_text().count("x")
        assert 1 <= lines <= 1 + KILLS


async def watch(client: perdure.Client) -> int:
    """The most runs that were ever seen at work at a time."""
    most = 0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            most = max(most, len([run async for run in client.list("status = RUNNING")]))
            await asyncio.sleep(0.005)
    return most
