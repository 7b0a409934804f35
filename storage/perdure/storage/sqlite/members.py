"""The only engine over the file: it needs no membership."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from perdure.storage.rows import EngineRow, MailRow, RunRow
from perdure.storage.sqlite.connected import Connected


def _read_mail(sql: sqlite3.Connection, limit: int) -> list[MailRow]:
    statement = "SELECT number, run_id, kind, data FROM mail ORDER BY number LIMIT ?"
    return [MailRow(*values) for values in sql.execute(statement, (limit,))]


class EmbeddedMember(Connected):
    """Implements MemberStore and MailStore."""

    async def join(self, engine: EngineRow, lease_ms: int) -> None:
        """Nothing to do: the file lock keeps other engines out."""

    async def renew(self, lease_ms: int) -> None:
        """Nothing to do: there are no other members."""

    async def leave(self) -> None:
        """Nothing to do: closing releases the lock."""

    async def engines(self) -> list[EngineRow]:
        return []

    async def bury(self) -> list[str]:
        return []

    async def take_over(self, limit: int) -> list[RunRow]:
        return []

    async def read_mail(self, *, limit: int) -> list[MailRow]:
        return await self._read(lambda connection: _read_mail(connection, limit))

    async def listen(self, heard: Callable[[], None]) -> None:
        """Nothing to do: no other engine commits."""
