"""A world is the same each time, and ends where a promise is broken."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure.service.executors.port import Attempt
from simulation.clock import VirtualLoop, fail
from simulation.executor import FakeExecutor
from simulation.fleet_world import run_fleet
from simulation.running import run_world
from simulation.world import run_seed

DIGESTS = """
import logging, sys
sys.path.insert(0, sys.argv[1])
from simulation.fleet_world import run_fleet
from simulation.many import LIMITS
from simulation.world import run_seed
logging.getLogger().addHandler(logging.NullHandler())
for seed in (1, 2, 3, 13):
    limits = LIMITS[seed % len(LIMITS)]
    print(run_seed(seed, limits=limits, curious=True).digest)
    print(run_fleet(seed, limits=limits, more=True, curious=True).digest)
"""


@pytest.mark.timeout(900)
def test_a_seed_gives_the_same_world_in_every_process() -> None:
    """Sets of strings have another order in each, and sets of objects have one that follows from addresses."""

    def digests(hash_seed: str) -> list[str]:
        tests = str(Path(__file__).parent.parent)
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", DIGESTS, tests], env=env, check=True, capture_output=True, text=True
        )
        return done.stdout.split()

    found = digests("1")
    assert len(set(found)) == 8
    assert digests("2") == found


@pytest.mark.parametrize("run", [run_seed, run_fleet], ids=["one engine", "several engines"])
def test_an_assertion_in_a_callback_ends_the_world_at_once(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    when: list[float] = []

    def planted(_self: FakeExecutor, _work: Attempt) -> None:
        when.append(asyncio.get_running_loop().time())
        raise AssertionError("planted")

    monkeypatch.setattr(FakeExecutor, "_end", planted)
    with pytest.raises(AssertionError, match="seed 3: planted"):
        run(3)
    assert set(when) == {when[0]}, "the world went on"


@pytest.mark.parametrize("run", [run_seed, run_fleet], ids=["one engine", "several engines"])
def test_what_the_service_catches_and_logs_ends_the_world(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[Attempt] = []

    def planted(_self: FakeExecutor, attempt: Attempt) -> None:
        submitted.append(attempt)
        raise KeyError("planted")

    monkeypatch.setattr(FakeExecutor, "submit", planted)
    with pytest.raises(AssertionError, match="seed 3: KeyError: 'planted'"):
        run(3)
    assert len(submitted) == 1, "the world went on"


def test_what_an_unawaited_task_raises_ends_the_world() -> None:
    async def main(loop: VirtualLoop) -> Any:
        async def forgotten() -> None:
            raise ValueError("planted")

        loop.create_task(forgotten())
        await asyncio.sleep(1_000)

    with pytest.raises(AssertionError, match="w: ValueError: planted"):
        run_world("w", main)


def test_a_world_reports_its_first_failure() -> None:
    async def main(_loop: VirtualLoop) -> Any:
        fail(AssertionError("first"))
        fail(AssertionError("second"))
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    log = logging.getLogger("perdure")
    before = log.level, list(log.handlers)
    with pytest.raises(AssertionError, match="w: first"):
        run_world("w", main)
    assert (log.level, log.handlers) == before, "the world left its handler behind"
