"""Virtual actors on workers of Ray: the objects in their state, what `activate` builds, methods that are stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
import ray

import perdure
from patience import PATIENCE_S
from perdure import errors
from perdure.actors import class_of
from services import Service

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

pytestmark = [pytest.mark.ray]


def note(path: str, line: str) -> None:
    with open(path, "a") as file:
        file.write(f"{line}\n")


@perdure.task(num_cpus=0.5)
def double(number: int) -> int:
    return 2 * number


@perdure.actor(num_cpus=0.5)
class Keeper(perdure.Actor):
    def __init__(self, notes: str) -> None:
        self.notes = notes
        self.total = 0
        self.rows = ray.put(list(range(50_000)))

    def activate(self) -> None:
        self.pid = os.getpid()
        note(self.notes, "activated")

    @perdure.method
    def add(self, number: int) -> int:
        self.total += number
        return self.total

    @perdure.method
    def add_double(self, number: int) -> int:
        return self.add.bind(double.bind(number))

    @perdure.readonly
    def process(self) -> int:
        return self.pid

    @perdure.method
    def last_row(self) -> int:
        rows: list[int] = ray.get(self.rows)
        return rows[-1]

    @perdure.method
    async def hang(self) -> None:
        self.total += 1_000
        note(self.notes, "hangs")
        await asyncio.sleep(PATIENCE_S)


async def until(notes: Path, line: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while line not in notes.read_text():
            await asyncio.sleep(0.02)


async def test_an_actor_outlives_its_worker(steady: Service, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with perdure.Client(steady.address) as client, asyncio.timeout(2 * PATIENCE_S):
        keeper = client.actor(Keeper, "keeper", str(notes))
        assert [await keeper.add(1), await keeper.add_double(2), await keeper.last_row()] == [1, 5, 49_999]
        os.kill(await keeper.process(), signal.SIGKILL)
        assert [await keeper.add(1), await keeper.add_double(2), await keeper.last_row()] == [6, 10, 49_999]


async def test_a_worker_keeps_what_activate_has_built(steady: Service, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with perdure.Client(steady.address) as client, asyncio.timeout(2 * PATIENCE_S):
        alone = class_of(Keeper).options(num_cpus=2)  # there is room for one worker of this shape
        keeper = client.actor(alone, "warm", str(notes))
        processes = set()
        for _ in range(20):
            await keeper.add(1)
            processes.add(await keeper.process())
        assert len(notes.read_text().splitlines()) == len(processes)


@perdure.actor(num_cpus=0.5, keep_warm=60)
class Warm(perdure.Actor):
    def __init__(self, notes: str) -> None:
        self.notes = notes

    def activate(self) -> None:
        note(self.notes, "activated")

    @perdure.method
    def process(self, takes_s: float) -> int:
        time.sleep(takes_s)
        return os.getpid()


async def test_calls_of_warm_actors_go_to_the_worker_that_has_the_object(steady: Service, tmp_path: Path) -> None:
    async with perdure.Client(steady.address) as client, asyncio.timeout(2 * PATIENCE_S):
        one, two = (client.actor(Warm, name, str(tmp_path / name)) for name in ("one", "two"))
        while True:  # until each has a worker of its own
            first, second = await asyncio.gather(one.process(0.3), two.process(0.3))
            if first != second:
                break
        before = [(tmp_path / name).read_text() for name in ("one", "two")]
        for _ in range(5):
            assert [await two.process(0), await one.process(0)] == [second, first]
        assert [(tmp_path / name).read_text() for name in ("one", "two")] == before


async def test_a_dropped_method_is_stopped_and_its_changes_are_gone(steady: Service, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with perdure.Client(steady.address) as client, asyncio.timeout(2 * PATIENCE_S):
        keeper = client.actor(Keeper, "hanging", str(notes))
        await keeper.add(1)
        hanging: Any = await keeper.hang.start()
        await until(notes, "hangs")
        assert await hanging.drop()
        with pytest.raises(errors.ActorCallError, match="was dropped"):
            await hanging.output()
        assert await keeper.add(1) == 2
