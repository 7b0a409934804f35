"""This engine among those that share the database, and the letters to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from perdure.storage.postgres import members, schema
from perdure.storage.postgres.connected import Connected
from perdure.storage.postgres.connections import Connection, Listener
from perdure.storage.rows import EngineRow, MailRow, RunRow

T = TypeVar("T")

MEMBER_S: Final = 5.0


async def _engines(connection: Connection) -> list[EngineRow]:
    statement = (
        "SELECT engine_id, name, address, version, started_ms, expires_ms, is_dead FROM engines "
        "ORDER BY started_ms, engine_id"
    )
    return [EngineRow(*record) for record in await connection.fetch(statement)]


async def _read_mail(connection: Connection, me: str, limit: int) -> list[MailRow]:
    statement = (
        "SELECT number, run_id, kind, data FROM mail "
        "WHERE (SELECT $1 IN ('', runs.owner) FROM runs WHERE runs.run_id = mail.run_id) ORDER BY number LIMIT $2"
    )
    return [MailRow(*record) for record in await connection.fetch(statement, me, limit)]


class Members(Connected):
    """Implements MemberStore and MailStore."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._call = 0
        self._doubtful_call = 0

    async def join(self, engine: EngineRow, lease_ms: int) -> None:
        async with self._renewals.use(MEMBER_S) as (connection, _):
            await members.join(connection, engine, schema.known(), lease_ms)
        self._engine_id = engine.engine_id

    async def renew(self, lease_ms: int) -> None:
        if self._engine_id:
            async with self._renewals.use(MEMBER_S) as (connection, _):
                await members.renew(connection, self._engine_id, lease_ms)

    async def leave(self) -> None:
        if self._engine_id:
            await self._as_member(lambda connection: members.leave(connection, self._engine_id))

    async def engines(self) -> list[EngineRow]:
        return await self._read(_engines)

    async def bury(self) -> list[str]:
        return await self._as_member(members.bury)

    async def take_over(self, limit: int) -> list[RunRow]:
        if not self._engine_id:
            return []
        return await self._as_member(lambda connection: self._take_over(connection, limit))

    async def _take_over(self, connection: Connection, limit: int) -> list[RunRow]:
        if self._doubtful_call:
            lost, self._call = self._doubtful_call, self._call + 1
            rows = await members.taken_by(connection, self._engine_id, lost, self._call)
            self._doubtful_call = 0
            if rows:
                return rows
        self._call += 1
        self._doubtful_call = self._call
        rows = await members.take_over(connection, self._engine_id, self._call, limit)
        self._doubtful_call = 0
        return rows

    async def read_mail(self, *, limit: int) -> list[MailRow]:
        return await self._read(lambda connection: _read_mail(connection, self._engine_id, limit))

    async def listen(self, heard: Callable[[], None]) -> None:
        def heard_of(engine_id: str) -> None:
            if not engine_id or engine_id != self._engine_id:
                heard()

        if self._listener is not None:
            await self._listener.stop()
        self._listener = Listener(self._url, heard_of)
        await self._listener.start()

    async def _as_member(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        return await self._members.call(lambda connection, _is_new: work(connection), MEMBER_S)
