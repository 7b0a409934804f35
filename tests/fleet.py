"""Several engines over one PostgreSQL, each a process of its own, for tests that kill, stop and wake them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from services import Service, running

MINE = ("runs", "tasks", "outputs", "events", "inputs")
"""Tables of what runs are and have done."""


class Engine(Service):
    """One `perdure serve` of several. `name` is for people; its folder has nothing but its log."""

    def __init__(self, folder: Path, name: str, database: str, blobs: str, *flags: str) -> None:
        self.name = name
        (folder / name).mkdir()
        super().__init__(folder / name, "--storage", database, "--blobs", blobs, *flags)

    @property
    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def engines(folder: Path, database: str, blobs: str, names: Sequence[str], *flags: str) -> Iterator[tuple[Engine, ...]]:
    """All of them serve when this is entered, and none is there when it is left."""
    with ExitStack() as stack:
        fleet = tuple(Engine(folder, name, database, blobs, *flags) for name in names)
        for engine in fleet:
            stack.enter_context(running(engine))
            engine.up()
        yield fleet


async def rows(database: str, run_ids: Sequence[str]) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that is stored of these runs, as it is."""
    connection = await asyncpg.connect(database)
    try:
        return {
            table: [
                tuple(row)
                for row in await connection.fetch(
                    f"SELECT * FROM {table} WHERE run_id = ANY ($1) ORDER BY {table}::text", list(run_ids)
                )
            ]
            for table in MINE
        }
    finally:
        await connection.close()


async def owners(database: str) -> dict[str, tuple[str, bool]]:
    """Address and death of each engine in the table, by id."""
    connection = await asyncpg.connect(database)
    try:
        found = await connection.fetch("SELECT engine_id, address, is_dead FROM engines")
    finally:
        await connection.close()
    return {engine_id: (address, is_dead) for engine_id, address, is_dead in found}
