"""A disk that is really full: of the database, and of the blobs. A small file system is mounted for it, where that is
allowed; nothing is lost, and what works without room goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import perdure
from perdure import errors
from perdure.service.app import running_server
from perdure.service.common.settings import Settings
from perdure.storage.postgres.schema import migrate
from postgres import PostgresServer, running_postgres

SIZE_MIB = 48
LARGE = 60_000
"""Bytes that are inline, and need pages of their own."""
MANY = 2_000


class Disk:
    """A small file system. `fill` leaves nothing, `empty` gives it all back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass

    def empty(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk() -> Iterator[Disk]:
    folder = Path(tempfile.mkdtemp(prefix="full-", dir="/tmp"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=777", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("no file system may be mounted here")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


@pytest.fixture
async def database(disk: Disk) -> AsyncIterator[str]:
    """A database on the small disk; the server's own files are elsewhere."""
    with running_postgres() as server:
        place = disk.folder / "tables"
        place.mkdir()
        _give_to(server, place)
        await server.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
        await server.execute("CREATE DATABASE small TEMPLATE template0 TABLESPACE small")
        await migrate(server.url("small"))
        yield server.url("small")


def _give_to(server: PostgresServer, folder: Path) -> None:
    if server._user is not None:
        os.chown(folder, server._user.pw_uid, server._user.pw_gid)


@perdure.task
def wait_for(path: str, size: int) -> bytes:
    while not Path(path).exists():
        time.sleep(0.02)
    return bytes(size)


@perdure.task
def length(data: bytes) -> int:
    return len(data)


@asynccontextmanager
async def serving(storage: str, blobs: Path) -> AsyncIterator[perdure.Client]:
    settings = Settings(listen="127.0.0.1:0", storage=storage, blobs=str(blobs), executor="local", drain_s=2.0)
    async with running_server(settings) as server, perdure.Client(server.address, patience=0) as client:
        yield client


async def start_until_refused(client: perdure.Client, accepted: list[str]) -> None:
    for number in range(MANY):
        body = os.urandom(LARGE // 2).hex()  # which hardly gets smaller
        await client.start(perdure.event("go"), workflow_id=f"w{number}", metadata={"body": body})
        accepted.append(f"w{number}")


async def test_the_disk_of_the_database(disk: Disk, database: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with serving(database, tmp_path / "blobs") as client:
        running = await client.start(wait_for.bind(str(gate), LARGE), workflow_id="running")
        accepted: list[str] = []
        disk.fill()
        with pytest.raises(errors.StorageFullError):
            await start_until_refused(client, accepted)
        assert {run.workflow_id async for run in client.list()} >= {"running"}
        gate.touch()
        assert (await running.status()).status is perdure.RunStatus.RUNNING
        disk.empty()
        assert await running.output() == bytes(LARGE)
        assert [task.attempts async for task in running.tasks()] == [1]
        names = {run.workflow_id async for run in client.list(page_size=1000)}
        assert names >= {"running", *accepted}
        assert await client.run(length.bind(b"again")) == 5


async def test_the_disk_of_the_blobs(disk: Disk, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with serving(str(tmp_path / "runs"), disk.folder / "blobs") as client:
        assert await client.run(length.bind(wait_for.bind(str(tmp_path), 200_000))) == 200_000
        running = await client.start(length.bind(wait_for.bind(str(gate), 300_000)), workflow_id="running")
        disk.fill()
        gate.touch()
        with pytest.raises(errors.StorageFullError):
            await client.run(length.bind(bytes(400_000)))
        assert await client.run(length.bind(b"small")) == 5
        assert (await running.status()).status is perdure.RunStatus.RUNNING
        disk.empty()
        assert await running.output() == 300_000
        assert [task.attempts async for task in running.tasks()] == [1, 1]
        assert await client.run(length.bind(bytes(400_000))) == 400_000
