"""Functions that workers have announced."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from perdure.storage.damage import implausible
from perdure.storage.ports import StorageUnavailable
from perdure.storage.rows import FunctionRow
from perdure.storage.sqlite.connected import Connected
from perdure.storage.sqlite.seals import FUNCTION, seal

_READ: Final = f"SELECT {', '.join(FUNCTION)}, seal FROM functions ORDER BY name, version"
_WRITE: Final = f"INSERT OR REPLACE INTO functions ({', '.join(FUNCTION)}, seal) VALUES (?, ?, ?, ?, ?)"


def _read(sql: sqlite3.Connection) -> list[FunctionRow]:
    return [
        FunctionRow(*values)
        for *values, expected in sql.execute(_READ)
        if not implausible(FUNCTION, values) and seal(*values) == expected
    ]


def _write(sql: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> None:
    sql.execute("BEGIN IMMEDIATE")
    try:
        sql.executemany(_WRITE, rows)
        sql.execute("COMMIT")
    except BaseException:
        if sql.in_transaction:
            sql.execute("ROLLBACK")
        raise


class Functions(Connected):
    """Implements FunctionStore."""

    async def read_functions(self) -> list[FunctionRow]:
        return await self._read(_read)

    async def write_functions(self, functions: Sequence[FunctionRow]) -> None:
        if self._write_connection is None:
            raise StorageUnavailable("the store is not open")
        connection = self._write_connection
        values = [(each.name, each.version, each.info, each.announce_ms) for each in functions]
        await self._run(self._writer, lambda: _write(connection, [(*row, seal(*row)) for row in values]))
