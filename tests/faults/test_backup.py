"""Backups made while runs are at work, by the means that the documentation names; what is restored goes on."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import perdure
from perdure import RunStatus
from perdure.service.app import running_server
from perdure.service.common.settings import Settings
from postgres import PostgresServer, programs

LARGE = 100_000
RUNS = 12


@perdure.task
def make(number: int) -> bytes:
    return bytes([number]) * LARGE


@perdure.task
def measure(data: bytes, factor: int) -> int:
    return data[0] * len(data) * factor


@perdure.task
async def slowly(value: int) -> int:
    await asyncio.sleep(0.01)
    return value


def graph(number: int) -> object:
    """Some wait for an event, with a large value recorded; some are chains at work."""
    if number % 2:
        return measure.bind(make.bind(number), perdure.event("go"))
    node = slowly.bind(number)
    for _ in range(30):
        node = slowly.bind(node)
    return node


def expected(number: int) -> int:
    return number * LARGE * 3 if number % 2 else number


@asynccontextmanager
async def serving(storage: str, blobs: Path) -> AsyncIterator[perdure.Client]:
    settings = Settings(
        listen="127.0.0.1:0", storage=storage, blobs=str(blobs), executor="local", engine_lease_s=5.0, drain_s=1.0
    )
    async with running_server(settings) as server, perdure.Client(server.address) as client:
        yield client


async def begin(client: perdure.Client) -> None:
    """Several runs, some of which have ended and some of which are at work when this returns."""
    for number in range(RUNS):
        await client.start(graph(number), workflow_id=f"w{number}")
    for number in range(1, RUNS, 2):
        async for update in client.handle(f"w{number}").watch():
            if update.task is not None and update.task.status is perdure.TaskStatus.SUCCESSFUL:
                break
    await client.handle("w1").send_event("go", 3, event_id="first")
    assert await client.handle("w1").output() == expected(1)


async def finish(client: perdure.Client) -> None:
    """All of them end as they should."""
    for number in range(3, RUNS, 2):
        await client.handle(f"w{number}").send_event("go", 3, event_id="first")
    for number in range(RUNS):
        assert await client.handle(f"w{number}").output() == expected(number), number


def by_api(source: Path, target: Path) -> None:
    with sqlite3.connect(source) as original, sqlite3.connect(target) as copy:
        original.backup(copy, pages=5)
    original.close()
    copy.close()


def by_vacuum(source: Path, target: Path) -> None:
    connection = sqlite3.connect(source, timeout=10)
    connection.execute("VACUUM INTO ?", (str(target),))
    connection.close()


@pytest.mark.parametrize("copy", [by_api, by_vacuum])
async def test_sqlite(tmp_path: Path, copy: Callable[[Path, Path], None]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    async with serving(str(first), first / "blobs") as client:
        await begin(client)
        second.mkdir()
        await asyncio.to_thread(copy, first / "perdure.db", second / "perdure.db")
        await asyncio.to_thread(shutil.copytree, first / "blobs", second / "blobs")
        await finish(client)  # the original goes on meanwhile
    shutil.rmtree(first)
    async with serving(str(second), second / "blobs") as client:
        assert (await client.handle("w1").status()).status is RunStatus.SUCCESSFUL
        assert (await client.handle("w3").status()).status is RunStatus.RUNNING
        await finish(client)
        assert await client.run(measure.bind(make.bind(1), 1)) == LARGE


async def test_postgres(postgres_server: PostgresServer, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    async with postgres_server.database() as original, postgres_server.database(is_migrated=False) as restored:
        async with serving(original, first) as client:
            await begin(client)
            dump = tmp_path / "perdure.dump"
            await run_program("pg_dump", "--format=custom", f"--file={dump}", original)
            await asyncio.to_thread(shutil.copytree, first, second)
            await finish(client)
        shutil.rmtree(first)
        await run_program("pg_restore", "--no-owner", f"--dbname={restored}", str(dump))
        async with serving(restored, second) as client:
            assert (await client.handle("w1").status()).status is RunStatus.SUCCESSFUL
            await finish(client)
            assert await client.run(measure.bind(make.bind(1), 1)) == LARGE


async def run_program(name: str, *arguments: str) -> None:
    if not (programs() / name).exists():
        pytest.skip(f"there is no {name} here")
    await asyncio.to_thread(
        subprocess.run, [programs() / name, *arguments], check=True, capture_output=True, env=dict(os.environ)
    )
