"""Members of a PostgreSQL store: leases by the database's clock, fencing by a lock on one row per member.

A commit holds a shared lock on its member's row until it ends. Declaring the member dead needs an exclusive lock and
waits for none: a member whose commit or renewal is under way is passed over. A statement that waited could take effect
after its caller gave it up, when the member has renewed. Two numbers in the row make repetitions safe.
`session` grows with each committing connection: a commit that was sent on an earlier connection, and may still arrive,
finds its number outdated. `call` grows with each takeover, and `taken` keeps the runs of the last one, in case its
answer was lost.
"""

from __future__ import annotations

from typing import Final

from perdure.storage.ports import Fenced
from perdure.storage.postgres.connections import CHANNEL, Connection
from perdure.storage.postgres.rows import run_of
from perdure.storage.rows import DEAD_KEPT_MS, RUN_COLUMNS, EngineRow, RunRow

_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"


async def join(connection: Connection, engine: EngineRow, knows: int, lease_ms: int) -> None:
    joined = await connection.fetchval(
        "INSERT INTO engines (engine_id, name, address, version, knows, started_ms, expires_ms, is_dead) "
        f"SELECT $1, $2, $3, $4, $5, now_ms, now_ms + $6, FALSE FROM (SELECT {_NOW} AS now_ms) AS clock "
        "ON CONFLICT (engine_id) DO UPDATE SET expires_ms = excluded.expires_ms WHERE NOT engines.is_dead RETURNING 1",
        engine.engine_id,
        engine.name,
        engine.address,
        engine.version,
        knows,
        lease_ms,
    )
    if joined is None:
        raise fenced(engine.engine_id)


async def renew(connection: Connection, engine_id: str, lease_ms: int) -> None:
    renewed = await connection.fetchval(
        f"UPDATE engines SET expires_ms = {_NOW} + $2 WHERE engine_id = $1 AND NOT is_dead RETURNING 1",
        engine_id,
        lease_ms,
    )
    if renewed is None:
        raise fenced(engine_id)


async def leave(connection: Connection, engine_id: str) -> None:
    await connection.execute(
        f"WITH gone AS (DELETE FROM engines WHERE engine_id = $1 RETURNING 1) "
        f"SELECT pg_notify('{CHANNEL}', $1) FROM gone",
        engine_id,
    )


async def is_member(connection: Connection, engine_id: str) -> bool:
    statement = "SELECT EXISTS (SELECT 1 FROM engines WHERE engine_id = $1 AND NOT is_dead)"
    return bool(await connection.fetchval(statement, engine_id))


async def begin_session(connection: Connection, engine_id: str) -> int:
    """Give a committing connection its number. Waits for commits under way on earlier connections."""
    session = await connection.fetchval(
        "WITH mine AS (SELECT engine_id FROM engines WHERE engine_id = $1 AND NOT is_dead FOR UPDATE) "
        "UPDATE engines SET session = session + 1 FROM mine WHERE engines.engine_id = mine.engine_id "
        "RETURNING session",
        engine_id,
    )
    if session is None:
        raise fenced(engine_id)
    return int(session)


async def bury(connection: Connection) -> list[str]:
    await connection.execute(f"DELETE FROM engines WHERE is_dead AND expires_ms <= {_NOW} - $1::bigint", DEAD_KEPT_MS)
    records = await connection.fetch(
        "WITH ended AS ("
        f"SELECT engine_id FROM engines WHERE NOT is_dead AND expires_ms <= {_NOW} ORDER BY engine_id "
        "FOR UPDATE SKIP LOCKED"
        ") UPDATE engines SET is_dead = TRUE FROM ended WHERE engines.engine_id = ended.engine_id "
        "RETURNING engines.engine_id"
    )
    return sorted(engine_id for (engine_id,) in records)


# Owners are found by skipping through the index from one to the next, so that the runs of live members are not read.
# Active runs come first; the others, of which there may be very many, can wait.
_TAKE: Final = f"""
    WITH RECURSIVE mine AS MATERIALIZED (
        SELECT 1 FROM engines WHERE engine_id = $1 AND NOT is_dead AND call < $2 FOR NO KEY UPDATE
    ), owners AS (
        (SELECT owner FROM runs WHERE status IN ('RUNNING', 'PENDING') ORDER BY owner LIMIT 1)
        UNION ALL
        SELECT (
            SELECT runs.owner FROM runs WHERE status IN ('RUNNING', 'PENDING') AND runs.owner > owners.owner
            ORDER BY runs.owner LIMIT 1
        ) FROM owners WHERE owners.owner IS NOT NULL
    ), dead AS MATERIALIZED (
        SELECT owner FROM owners
        WHERE owner IS NOT NULL AND EXISTS (SELECT 1 FROM mine)
            AND NOT EXISTS (SELECT 1 FROM engines WHERE engine_id = owners.owner AND NOT is_dead)
    ), awake AS MATERIALIZED (
        SELECT lost.run_id FROM dead CROSS JOIN LATERAL (
            SELECT run_id FROM runs WHERE status = 'RUNNING' AND NOT is_dormant AND runs.owner = dead.owner
            ORDER BY run_id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED
        ) AS lost LIMIT $3
    ), asleep AS MATERIALIZED (
        SELECT lost.run_id FROM dead CROSS JOIN LATERAL (
            SELECT run_id FROM runs
            WHERE status IN ('RUNNING', 'PENDING') AND runs.owner = dead.owner AND (is_dormant OR status = 'PENDING')
            ORDER BY run_id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED
        ) AS lost WHERE NOT EXISTS (SELECT 1 FROM awake) LIMIT $3
    ), picked AS MATERIALIZED (
        SELECT run_id FROM awake UNION ALL SELECT run_id FROM asleep
    ), taken AS (
        UPDATE runs SET owner = $1 FROM picked WHERE runs.run_id = picked.run_id RETURNING runs.*
    ), noted AS (
        UPDATE engines SET call = $2, taken = ARRAY(SELECT run_id FROM picked)
        WHERE engine_id = $1 AND EXISTS (SELECT 1 FROM mine) RETURNING 1
    )
    SELECT {", ".join(f"taken.{name}" for name in RUN_COLUMNS)} FROM taken ORDER BY run_id
"""


async def take_over(connection: Connection, engine_id: str, call: int, limit: int) -> list[RunRow]:
    """One try of a takeover. A late try with a lower `call` has no effect."""
    rows = [run_of(record) for record in await connection.fetch(_TAKE, engine_id, call, limit)]
    if not rows and not await is_member(connection, engine_id):
        raise fenced(engine_id)
    return rows


async def taken_by(connection: Connection, engine_id: str, call: int, next_call: int) -> list[RunRow]:
    """The runs of a try whose answer was lost. If it had no effect yet, it never will.

    If the answer to this call is lost as well, the next call asks for the same try again and finds a higher number. So
    a higher number means that `taken` holds that try's runs. If the try had no effect, `taken` is emptied here.
    """
    found = await connection.fetchrow(
        "WITH before AS (SELECT call, taken FROM engines WHERE engine_id = $1 AND NOT is_dead FOR NO KEY UPDATE) "
        "UPDATE engines SET call = $2, taken = CASE WHEN before.call >= $3 THEN before.taken ELSE '{}' END "
        "FROM before WHERE engine_id = $1 RETURNING before.call, before.taken",
        engine_id,
        next_call,
        call,
    )
    if found is None:
        raise fenced(engine_id)
    if found[0] < call:
        return []
    records = await connection.fetch(
        f"SELECT {', '.join(RUN_COLUMNS)} FROM runs WHERE run_id = ANY ($1::text[]) AND owner = $2 ORDER BY run_id",
        found[1],
        engine_id,
    )
    return [run_of(record) for record in records]


def fenced(engine_id: str) -> Fenced:
    return Fenced(f"engine {engine_id} is no member any more")
