"""The cost of actors: idle ones are a few rows, and a large field is not written again by calls that leave it alone."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import perdure
from integration.engine_settings import settings_on
from perdure.service.app import running_server

MIB = 1 << 20
CALL_BYTES_MAX = 16 * 1024


@perdure.actor
class Heavy:
    """A counter beside a large field, as a model's training steps beside its weights."""

    def __init__(self, mib: int) -> None:
        self.weights = os.urandom(MIB) * mib
        self.steps = 0

    @perdure.method
    def step(self) -> int:
        self.steps += 1
        return self.steps

    @perdure.method
    def forget(self) -> int:
        del self.weights
        return self.steps

    @perdure.readonly
    def size(self) -> int:
        return len(self.weights)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "storage"


async def test_call_beside_a_large_field_writes_little(folder: Path) -> None:
    async with running_server(settings_on(str(folder))) as server, perdure.Client(server.address) as client:
        heavy = client.actor(Heavy, "h", 32)
        await heavy.step()
        (blob,) = blobs_in(folder)
        before = table_bytes(folder)

        for _ in range(20):
            await heavy.step()

        assert (table_bytes(folder) - before) / 20 < CALL_BYTES_MAX
        assert blobs_in(folder) == [blob]
        assert blob.stat().st_size >= 32 * MIB
        assert await heavy.size() == 32 * MIB
        assert await heavy.forget() == 21


def blobs_in(folder: Path) -> list[Path]:
    return [path for path in (folder / "blobs").rglob("*") if path.is_file() and path.stat().st_size > MIB]


async def test_idle_actor_takes_less_than_a_kibibyte(folder: Path) -> None:
    count = 1_000
    async with running_server(settings_on(str(folder))) as server, perdure.Client(server.address) as client:
        await client.actor(Heavy, "first", 0).step()
        before = table_bytes(folder)
        for start in range(0, count, 50):
            made = (
                client.actors.get_or_create(Heavy.definition, f"{start + number}", (0,), waits=True)
                for number in range(50)
            )
            await asyncio.gather(*made)

        assert (table_bytes(folder) - before) / count < 1024


def table_bytes(folder: Path) -> int:
    path = folder / "perdure.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(PASSIVE)")
        (pages,), (free,), (size,) = (
            database.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * size)
