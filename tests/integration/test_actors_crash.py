"""One actor, many callers, and processes that are killed at random: each acknowledged call counts once."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

import perdure
from fleet import Engine, engines
from patience import PATIENCE_S
from perdure import errors
from services import Service, running

CALLERS = 8
CALLS = int(os.environ.get("ACTOR_CALLS", "25"))
"""Of each caller."""
KILLS = 5
LOST = ("perdure.WorkerLost", "perdure.WorkerExited")


@perdure.actor(max_retries=50)
class Ledger:
    def __init__(self) -> None:
        self.entries: list[str] = []

    @perdure.method
    def add(self, entry: str) -> int:
        self.entries.append(entry)
        return len(self.entries)

    @perdure.readonly
    def read(self) -> list[str]:
        return self.entries


async def call_all(client: perdure.Client, caller: int, results: dict[str, int], progress: asyncio.Queue[None]) -> None:
    """Add entries one by one. Each is called twice with one request id, as a caller does who missed the answer."""
    ledger = client.actor(Ledger, "ledger")
    for number in range(CALLS):
        entry = f"{caller}-{number}"
        add = ledger.add.options(request_id=entry)
        results[entry] = await add(entry)
        assert await add(entry) == results[entry]
        progress.put_nowait(None)


async def kill_meanwhile(progress: asyncio.Queue[None], kill: Callable[[int], None]) -> None:
    """Kill something each time when another share of the calls has its results."""
    for number in range(KILLS):
        for _ in range(CALLERS * CALLS // (KILLS + 1)):
            await progress.get()
        await asyncio.to_thread(kill, number)


async def check(client: perdure.Client, results: dict[str, int]) -> None:
    """Every call has counted once, in the place that its caller was told."""
    entries = await client.actor(Ledger, "ledger").read()
    assert len(entries) == CALLERS * CALLS
    assert results == {entry: place for place, entry in enumerate(entries, 1)}


async def press(clients: Sequence[perdure.Client], kill: Callable[[int], None]) -> None:
    results: dict[str, int] = {}
    progress: asyncio.Queue[None] = asyncio.Queue()
    calls = [call_all(clients[caller % len(clients)], caller, results, progress) for caller in range(CALLERS)]
    await asyncio.gather(kill_meanwhile(progress, kill), *calls)
    for client in clients:
        await check(client, results)


def kill_a_worker(of: int, dice: random.Random) -> None:
    children: list[Any] = psutil.Process(of).children(recursive=True)
    if children:
        dice.choice(children).kill()


async def test_one_engine_and_its_workers_are_killed(tmp_path: Path) -> None:
    dice = random.Random(1)
    service = Service(tmp_path, "--executor", "local")

    def kill(number: int) -> None:
        if number % 2:
            kill_a_worker(service.pid, dice)
        else:
            service.kill()
            service.up()

    with running(service):
        service.up()
        async with perdure.Client(service.address, patience=PATIENCE_S) as client:
            await press([client], kill)


async def test_two_engines_and_their_workers_are_killed(postgres_server: Any, tmp_path: Path) -> None:
    dice = random.Random(2)
    async with postgres_server.database() as url:
        blobs = (tmp_path / "blobs").as_uri()
        with engines(tmp_path, url, blobs, ("a", "b"), "--executor", "local") as both:

            def kill(number: int) -> None:
                engine: Engine = both[number % 2]
                if number % 3 == 2:
                    kill_a_worker(engine.pid, dice)
                else:
                    engine.kill()
                    engine.up()

            clients = [perdure.Client(engine.address, patience=PATIENCE_S) for engine in both]
            try:
                await press(clients, kill)
            finally:
                for client in clients:
                    await client.close()


async def test_worker_that_dies_as_often_as_it_is_tried_fails_that_call_only(tmp_path: Path) -> None:
    service = Service(tmp_path, "--executor", "local")
    with running(service):
        service.up()
        async with perdure.Client(service.address, patience=PATIENCE_S) as client:
            deadly = client.actor(Deadly, "d")
            assert await deadly.count() == 1

            with pytest.raises(errors.ActorCallError) as failed:
                await deadly.die()

            assert failed.value.failure.type in LOST
            assert await deadly.count() == 2


@perdure.actor(max_retries=1)
class Deadly:
    def __init__(self) -> None:
        self.calls = 0

    @perdure.method
    def count(self) -> int:
        self.calls += 1
        return self.calls

    @perdure.method
    def die(self) -> None:
        self.calls += 100
        os._exit(3)
