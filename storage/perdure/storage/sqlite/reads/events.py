"""Events of runs, and the tombstones that deleted ones leave."""

from __future__ import annotations

import sqlite3
from typing import Final

from perdure.storage.damage import implausible
from perdure.storage.rows import CALL_KEY, EventName, EventRow, Tombstone
from perdure.storage.sqlite.connected import Connected
from perdure.storage.sqlite.rows import EVENT_SELECTED, event_of
from perdure.storage.sqlite.seals import TOMBSTONE, seal

_EVENT: Final = f"SELECT {', '.join(EVENT_SELECTED)} FROM events"


def _find_event(sql: sqlite3.Connection, run_id: str, key: str, event_id: str) -> int | None:
    where = "run_id = ? AND key = ? AND event_id = ?"
    found = sql.execute(f"SELECT sequence FROM events WHERE {where}", (run_id, key, event_id)).fetchone()
    return None if found is None else int(found[0])


def _count_calls(sql: sqlite3.Connection, run_id: str) -> int:
    # Other indexes seem as good, but have all calls of the run.
    statement = (
        f"SELECT count(*) FROM events INDEXED BY events_calls "
        f"WHERE run_id = ? AND key = '{CALL_KEY}' AND consumed_by = ''"
    )
    (count,) = sql.execute(statement, (run_id,)).fetchone()
    return int(count)


def read_events(sql: sqlite3.Connection, run_id: str, after: int) -> list[EventRow]:
    # Events whose two columns differ are read too, because they are damaged.
    where = "run_id = ? AND (consumed_by = '' OR is_taken IS NOT 1) AND sequence > ? ORDER BY sequence"
    return [event_of(values) for values in sql.execute(f"{_EVENT} WHERE {where}", (run_id, after))]


def _read_tombstone(sql: sqlite3.Connection, key: str) -> Tombstone | None:
    found = sql.execute(f"SELECT {', '.join(TOMBSTONE)}, seal FROM tombstones WHERE key = ?", (key,)).fetchone()
    if found is None:
        return None
    *values, expected = found
    return Tombstone(*values) if not implausible(TOMBSTONE, values) and seal(*values) == expected else None


def _latest_events(sql: sqlite3.Connection, run_id: str, limit: int) -> list[EventName]:
    found = sql.execute(f"{_EVENT} WHERE run_id = ? ORDER BY sequence DESC LIMIT ?", (run_id, limit))
    events = (event_of(values) for values in found)
    return [EventName(event.sequence, event.key, event.event_id, event.arrived_ms) for event in events]


class EventReads(Connected):
    """Implements EventStore."""

    async def find_event(self, run_id: str, key: str, event_id: str) -> int | None:
        return await self._look(lambda connection: _find_event(connection, run_id, key, event_id))

    async def count_calls(self, run_id: str) -> int:
        return await self._read(lambda connection: _count_calls(connection, run_id))

    async def read_events(self, run_id: str, *, after: int) -> list[EventRow]:
        return await self._read(lambda connection: read_events(connection, run_id, after))


class TombstoneReads(Connected):
    """Implements TombstoneStore."""

    async def read_tombstone(self, key: str) -> Tombstone | None:
        return await self._look(lambda connection: _read_tombstone(connection, key))

    async def latest_events(self, run_id: str, *, limit: int) -> list[EventName]:
        return await self._read(lambda connection: _latest_events(connection, run_id, limit))
