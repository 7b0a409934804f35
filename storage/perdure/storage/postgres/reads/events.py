"""Events of runs, and the tombstones that deleted ones leave."""

from __future__ import annotations

from typing import Final

from perdure.storage.postgres.connected import Connected
from perdure.storage.postgres.connections import Connection
from perdure.storage.postgres.rows import EVENT_COLUMNS, event_of
from perdure.storage.rows import CALL_KEY, EventName, EventRow, Tombstone

EVENT: Final = ", ".join(EVENT_COLUMNS)


async def _find_event(connection: Connection, run_id: str, key: str, event_id: str) -> int | None:
    statement = "SELECT sequence FROM events WHERE run_id = $1 AND key = $2 AND event_id = $3"
    found: int | None = await connection.fetchval(statement, run_id, key, event_id)
    return found


async def _count_calls(connection: Connection, run_id: str) -> int:
    statement = (
        f"SELECT count(*) FROM events WHERE run_id || '{CALL_KEY}' = $1 || '{CALL_KEY}' "
        f"AND key = '{CALL_KEY}' AND consumed_by = ''"
    )
    return int(await connection.fetchval(statement, run_id))


async def _read_events(connection: Connection, run_id: str, after: int) -> list[EventRow]:
    statement = f"SELECT {EVENT} FROM events WHERE run_id = $1 AND consumed_by = '' AND sequence > $2 ORDER BY sequence"
    return [event_of(record) for record in await connection.fetch(statement, run_id, after)]


async def _read_tombstone(connection: Connection, key: str) -> Tombstone | None:
    found = await connection.fetchrow("SELECT key, data, expires_ms FROM tombstones WHERE key = $1", key)
    return None if found is None else Tombstone(*found)


async def _latest_events(connection: Connection, run_id: str, limit: int) -> list[EventName]:
    statement = (
        "SELECT sequence, key, event_id, arrived_ms FROM events WHERE run_id = $1 ORDER BY sequence DESC LIMIT $2"
    )
    return [EventName(*record) for record in await connection.fetch(statement, run_id, limit)]


class EventReads(Connected):
    """Implements EventStore."""

    async def find_event(self, run_id: str, key: str, event_id: str) -> int | None:
        return await self._read(lambda connection: _find_event(connection, run_id, key, event_id))

    async def count_calls(self, run_id: str) -> int:
        return await self._read(lambda connection: _count_calls(connection, run_id))

    async def read_events(self, run_id: str, *, after: int) -> list[EventRow]:
        return await self._read(lambda connection: _read_events(connection, run_id, after))


class TombstoneReads(Connected):
    """Implements TombstoneStore."""

    async def read_tombstone(self, key: str) -> Tombstone | None:
        return await self._read(lambda connection: _read_tombstone(connection, key))

    async def latest_events(self, run_id: str, *, limit: int) -> list[EventName]:
        return await self._read(lambda connection: _latest_events(connection, run_id, limit))
