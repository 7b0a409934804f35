"""Functions that workers have announced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from perdure.storage.postgres.connected import Connected
from perdure.storage.postgres.connections import Connection
from perdure.storage.rows import FunctionRow

_WRITE: Final = """
    INSERT INTO functions (name, version, info, announce_ms)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[])
    ORDER BY 1, 2
    ON CONFLICT (name, version) DO UPDATE SET info = excluded.info, announce_ms = excluded.announce_ms"""
"""In one order, so that two engines that write the same functions do not wait for each other in a circle."""


async def _read(connection: Connection) -> list[FunctionRow]:
    found = await connection.fetch("SELECT name, version, info, announce_ms FROM functions ORDER BY name, version")
    return [FunctionRow(*record) for record in found]


class Functions(Connected):
    """Implements FunctionStore."""

    async def read_functions(self) -> list[FunctionRow]:
        return await self._read(_read)

    async def write_functions(self, functions: Sequence[FunctionRow]) -> None:
        columns = zip(*((each.name, each.version, each.info, each.announce_ms) for each in functions), strict=True)
        arrays = [list(column) for column in columns] or [[], [], [], []]
        await self._read(lambda connection: connection.execute(_WRITE, *arrays))
