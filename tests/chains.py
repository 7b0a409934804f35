"""Actors and tasks that wait for each other in a row, for workers that cannot import tests."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]

import perdure
from patience import PATIENCE_S

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def arrive(folder: str, name: str) -> None:
    """Note which process is here."""
    path = Path(folder, name)
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)


def wait_for(folder: str, name: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not Path(folder, name).exists():
        assert time.monotonic() < until_s, f"{name} did not come"
        time.sleep(0.02)


@perdure.actor
class Caller(perdure.Actor):
    """The last one of a row waits for the file "go"."""

    def __init__(self) -> None:
        self.calls = 0

    @perdure.method
    async def call(self, folder: str, others: list[str]) -> list[str]:
        self.calls += 1
        arrive(folder, f"{len(others)}")
        if not others:
            wait_for(folder, "go")
            return list(perdure.context().chain)
        return await Caller.get(others[0]).call(folder, others[1:])

    @perdure.method
    def call_blocking(self, folder: str, others: list[str]) -> list[str]:
        self.calls += 1
        arrive(folder, f"{len(others)}")
        if not others:
            wait_for(folder, "go")
            return list(perdure.context().chain)
        return Caller.get(others[0]).call_blocking.run(folder, others[1:])

    @perdure.readonly
    def read(self) -> int:
        return self.calls


@perdure.task
def call_from_task(folder: str, others: list[str]) -> list[str]:
    return Caller.get(others[0]).call_blocking.run(folder, others[1:])


async def check_a_long_row(client: perdure.Client, folder: Path, method: str, length: int) -> None:
    """A row of calls ends, however many workers there are."""
    (folder / "go").touch()
    names = [f"{method}-{number}" for number in range(length)]
    async with asyncio.timeout(4 * PATIENCE_S):
        first = getattr(client.actor(Caller, names[0]), method)
        assert await first(str(folder), names[1:]) == [f"default/{name}" for name in names]


async def check_a_row_whose_worker_is_killed(client: perdure.Client, folder: Path, length: int) -> None:
    """A worker in the middle of a row, which waits, is killed while the last one runs. No call is lost, and none that
    has a result runs again."""
    names = [f"killed-{number}" for number in range(length)]
    async with asyncio.timeout(6 * PATIENCE_S):
        row = asyncio.create_task(client.run(call_from_task.bind(str(folder), names), workflow_id="row"))
        await asyncio.to_thread(wait_for, str(folder), "0")
        os.kill(int((folder / f"{length // 2}").read_text()), signal.SIGKILL)
        (folder / "go").touch()
        assert await row == ["default/row", *(f"default/{name}" for name in names)]
        calls = [await client.actor(Caller, name).read() for name in names]
    middle = length - 1 - length // 2
    assert calls[: middle + 1] == [1] * (middle + 1)
    assert calls[middle + 1] == 2  # the repeated attempt calls again
