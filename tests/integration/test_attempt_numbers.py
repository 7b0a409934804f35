"""The number that a task sees grows with every attempt that may have run, whatever became of the engine."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import perdure
from patience import PATIENCE_S
from services import Service, running

KILLS = 3


@perdure.task
def first(folder: str) -> str:
    """Publish the number of the attempt, and wait for "go"."""
    Path(folder, f"first-{perdure.context().attempt}").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    return folder


@perdure.task
async def second(folder: str) -> int:
    Path(folder, f"second-{perdure.context().attempt}").touch()
    return perdure.context().attempt


async def appears(path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not path.exists():
            await asyncio.sleep(0.01)


async def test_an_attempt_that_the_engines_death_cut_off_keeps_its_number(tmp_path: Path) -> None:
    """And costs no retry: this task has none."""
    seen = tmp_path / "seen"
    seen.mkdir()
    service = Service(tmp_path, "--executor", "local")
    with running(service):
        service.up()
        async with perdure.Client(service.address) as client:
            dag = second.bind(first.options(max_retries=0).bind(str(seen)))
            handle = await client.start(dag, workflow_id="cut", request_id="once")
            for kill in range(KILLS):
                await appears(seen / f"first-{kill + 1}")
                service.kill()
                service.up()
            await appears(seen / f"first-{KILLS + 1}")
            (seen / "go").touch()
            assert await handle.output() == 1, "nothing of the second task began before"
            tasks = {task.task_id.rpartition(".")[2]: task async for task in handle.tasks()}
            assert tasks["first"].attempts == KILLS + 1


async def test_a_run_that_waited_in_the_queue_begins_with_number_one(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    service = Service(tmp_path, "--executor", "local", "--max-running-workflows", "1")
    with running(service):
        service.up()
        async with perdure.Client(service.address) as client:
            blocks = await client.start(first.bind(str(seen)), workflow_id="blocks")
            waits = await client.start(second.bind(str(seen)), workflow_id="waits")
            await appears(seen / "first-1")
            (seen / "go").touch()
            await blocks.output()
            assert await waits.output() == 1
