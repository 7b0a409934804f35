"""Commits to PostgreSQL, fenced and in few round trips.

A commit that need not read first is one statement, which checks the fence, writes and notifies in one round trip. Any
other is a transaction of about six round trips. If the one statement finds the ids of a new run taken, the commit is
repeated as such a transaction. The meaning of entries is in `plan`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import asyncpg

from perdure.model import RunStatus
from perdure.storage.ports import Entry
from perdure.storage.postgres.connections import Connection
from perdure.storage.postgres.gathered import DeletedRuns, EventKey, Forgetting, Found, Needed, Rows, RunState
from perdure.storage.postgres.plan import CommitPlan, is_simple, mentions
from perdure.storage.postgres.rows import OF_WORKFLOWS, run_of
from perdure.storage.postgres.statements import ALIVE, SPECS, TELL, columns, parts_of, statement
from perdure.storage.rows import RUN_COLUMNS
from perdure.storage.writes import NO_RUN, TOLD, Committed, DeleteRun, DropTasks, EntryResult, Limit, SetAsideRuns


class Raced(Exception):
    """After the read, another member added a run with the same ids. The transaction must begin anew."""


class NotAlive(Exception):
    """The fence did not hold: nothing was written."""


@dataclass(frozen=True, slots=True)
class Fence:
    """The member that commits, and the number of its connection. "": a member that has not joined."""

    engine_id: str = ""
    session: int = 0


_NOTHING, _SHARED, _EXCLUSIVE = range(3)
# Deleting an unused graph excludes new references to it. This lock, and that of namespaces, is taken before all locks
# of rows, so that there is no deadlock.
_BEGIN: Final = f"""
    WITH {ALIVE.format(lock="")} SELECT is_alive, change, CASE $3::int
        WHEN {_SHARED} THEN pg_advisory_xact_lock_shared({SPECS})::text
        WHEN {_EXCLUSIVE} THEN pg_advisory_xact_lock({SPECS})::text
    END FROM fence, number"""
_LOCK_NAMESPACES: Final = """
    SELECT pg_advisory_xact_lock(hashtextextended(namespace, 7233))::text FROM (
        SELECT unnest($1::text[]) AS namespace ORDER BY 1
    ) AS limited"""

# The runs are locked, so no other commit adds events to them.
_EVENTS: Final = """
    WITH given AS MATERIALIZED (
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bigint[])
            WITH ORDINALITY AS given(run_id, key, event_id, payload, arrived_ms, place)
    ), old AS MATERIALIZED (
        SELECT run_id, key, event_id, known.sequence FROM given CROSS JOIN LATERAL (
            SELECT sequence FROM events
            WHERE (events.run_id, events.key, events.event_id) = (given.run_id, given.key, given.event_id) OFFSET 0
        ) AS known
    ), new AS (
        INSERT INTO events (run_id, sequence, event_id, key, payload, arrived_ms, consumed_by)
        SELECT run_id, nextval('event_sequence'), event_id, key, payload, arrived_ms, '' FROM (
            SELECT * FROM given
            WHERE NOT EXISTS (
                SELECT 1 FROM old
                WHERE (old.run_id, old.key, old.event_id) = (given.run_id, given.key, given.event_id)
            ) ORDER BY place
        ) AS unknown RETURNING run_id, key, event_id, sequence
    )
    SELECT run_id, key, event_id, sequence, FALSE FROM old UNION ALL
    SELECT run_id, key, event_id, sequence, TRUE FROM new
"""

# ------------------------------------------------------------------------------ commits


async def commit(connection: Connection, fence: Fence, entries: Sequence[Entry]) -> Committed:
    """Commit all entries, or on any error none. Raises Raced, NotAlive, and errors of the driver."""
    if all(is_simple(write) for entry in entries for write in entry):
        plan = CommitPlan(None, 0)
        plan.add(entries)
        plan.finish()
        if len(plan.steps) <= 1:
            with suppress(asyncpg.UniqueViolationError):
                return await _commit_alone(connection, fence, plan, entries)
    await connection.execute("BEGIN")
    try:
        committed = await _commit_planned(connection, fence, entries)
        await connection.execute("COMMIT")
    except (Raced, NotAlive, asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
        await connection.execute("ROLLBACK")
        raise
    return committed


def _tells(entries: Sequence[Entry]) -> bool:
    return any(type(write) in TOLD for entry in entries for write in entry)


def _mentions(entries: Sequence[Entry]) -> bool:
    return any(mentions(write) for entry in entries for write in entry)


def _drops_graphs(entries: Sequence[Entry]) -> bool:
    writes = (write for entry in entries for write in entry)
    return any(type(write) is DeleteRun or (isinstance(write, DropTasks) and write.and_graphs) for write in writes)


async def _commit_alone(connection: Connection, fence: Fence, plan: CommitPlan, entries: Sequence[Entry]) -> Committed:
    rows = plan.steps[0] if plan.steps else Rows()
    assert isinstance(rows, Rows)
    parts = list(parts_of(rows))
    text = statement(tuple(name for name, _ in parts), True, _tells(entries), _mentions(entries))
    arguments = [values for _, part in parts for values in part]
    is_alive, change, _ = await connection.fetchrow(text, fence.engine_id, fence.session, *arguments)
    if not is_alive:
        raise NotAlive
    return Committed(change, tuple(plan.results))


async def _commit_planned(connection: Connection, fence: Fence, entries: Sequence[Entry]) -> Committed:
    kinds = {type(write) for entry in entries for write in entry}
    lock = _EXCLUSIVE if _drops_graphs(entries) else _SHARED if _mentions(entries) else _NOTHING
    is_alive, change, _ = await connection.fetchrow(_BEGIN, fence.engine_id, fence.session, lock)
    if not is_alive:
        raise NotAlive
    if Limit in kinds:
        await connection.execute(_LOCK_NAMESPACES, sorted({namespace for namespace, _ in Needed.of(entries).counts}))
    results: list[EntryResult] = []
    tells = _tells(entries)
    for chunk in _chunks(entries):
        plan = CommitPlan(await _find(connection, Needed.of(chunk)), change)
        plan.add(chunk)
        plan.finish()
        outcomes: dict[tuple[int, EventKey], tuple[int, bool]] = {}
        for number, step in enumerate(plan.steps):
            match step:
                case Rows():
                    outcomes |= await _write_events(connection, number, step)
                    await _write_rows(connection, fence, step, change, tells)
                case Forgetting():
                    keys = [key for (key,) in await connection.fetch(_SPECS_OF_TASKS, step.run_id, step.task_ids)]
                    await _write_rows(connection, fence, step.rows, change, tells=False)
                    await connection.execute(_DELETE_SPECS, keys, change)
                case DeletedRuns(run_ids=run_ids):
                    await _delete(connection, run_ids, change)
                case SetAsideRuns():
                    await connection.execute(_SET_ASIDE, step.at_ms, change, fence.engine_id)
            tells = tells and not isinstance(step, Rows)
        for place, event in plan.events_of.items():
            plan.results[place] = plan.event_result(place, *outcomes[event])
        results += plan.results
    if tells:
        await connection.execute(TELL, fence.engine_id)
    return Committed(change, tuple(results))


def _chunks(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Entries up to each SetAsideRuns, after which everything must be read anew."""
    start = 0
    for place, entry in enumerate(entries, 1):
        if any(type(write) is SetAsideRuns for write in entry):
            yield entries[start:place]
            start = place
    if start < len(entries):
        yield entries[start:]


_FIND_RUNS: Final = (
    f"SELECT {', '.join(RUN_COLUMNS)}, is_current FROM runs WHERE run_id = ANY ($1::text[]) "
    "ORDER BY run_id FOR NO KEY UPDATE"
)
_LAST_EVENTS: Final = """
    SELECT given.run_id, (
        SELECT sequence FROM events WHERE events.run_id = given.run_id ORDER BY sequence DESC LIMIT 1
    ) FROM unnest($1::text[]) AS given(run_id)
"""
_FIND_TAKEN: Final = r"""
    SELECT given.namespace, workflow_id, (
        SELECT run_id FROM runs
        WHERE runs.namespace || E'\n' || runs.workflow_id = given.namespace || E'\n' || given.workflow_id
            AND runs.is_current
    ), TRUE FROM unnest($1::text[], $2::text[]) AS given(namespace, workflow_id)
    UNION ALL
    SELECT given.namespace, request_id, (
        SELECT run_id FROM runs
        WHERE runs.namespace || E'\n' || runs.request_id = given.namespace || E'\n' || given.request_id
            AND runs.request_id <> ''
    ), FALSE FROM unnest($3::text[], $4::text[]) AS given(namespace, request_id)
"""
_COUNT: Final = f"""
    SELECT namespace, status, (
        SELECT count(*) FROM runs
        WHERE runs.is_current AND {OF_WORKFLOWS} AND runs.namespace = given.namespace AND runs.status = given.status
    ) FROM unnest($1::text[], $2::text[]) AS given(namespace, status)
"""


async def _find(connection: Connection, needed: Needed) -> Found:
    found = Found()
    if needed.run_ids:
        for record in await connection.fetch(_FIND_RUNS, sorted(needed.run_ids)):
            *values, is_current = record
            row = run_of(values)
            found.runs[row.run_id] = RunState(row, is_current)
    if needed.last_events:  # the runs are locked, so no other commit adds events to them
        last = await connection.fetch(_LAST_EVENTS, sorted(needed.last_events))
        found.last_events = {run_id: sequence for run_id, sequence in last if sequence is not None}
    if needed.workflow_ids:
        names = columns(2, needed.workflow_ids) + columns(2, needed.request_ids)
        for namespace, name, run_id, is_workflow in await connection.fetch(_FIND_TAKEN, *names):
            if run_id is None:
                continue
            if is_workflow:
                found.current[namespace, name] = run_id
            else:
                found.requests.add((namespace, name))
    if needed.counts:
        pairs = columns(2, ((namespace, status.value) for namespace, status in needed.counts))
        rows = await connection.fetch(_COUNT, *pairs)
        found.counts = Counter({(namespace, RunStatus(status)): count for namespace, status, count in rows})
    return found


async def _write_events(
    connection: Connection, number: int, rows: Rows
) -> dict[tuple[int, EventKey], tuple[int, bool]]:
    """The results of a step's events, by its number and their keys."""
    if not rows.events:
        return {}
    arguments = columns(5, ((*key, event.payload, event.arrived_ms) for key, event in rows.events.items()))
    records = await connection.fetch(_EVENTS, *arguments)
    return {(number, (run_id, key, event_id)): (sequence, new) for run_id, key, event_id, sequence, new in records}


async def _write_rows(connection: Connection, fence: Fence, rows: Rows, change: int, tells: bool) -> None:
    if rows.replaced:
        await connection.execute("UPDATE runs SET is_current = FALSE WHERE run_id = ANY ($1::text[])", rows.replaced)
    parts = list(parts_of(rows))
    if not parts:
        if tells:
            await connection.execute(TELL, fence.engine_id)
        return
    text = statement(tuple(name for name, _ in parts), False, tells)
    arguments = [values for _, part in parts for values in part]
    added, *_ = await connection.fetchrow(text, fence.engine_id, change, *arguments)
    if added != len(rows.added):
        raise Raced


_SET_ASIDE: Final = """
    UPDATE runs SET status = 'RESUMABLE', update_ms = $1, change = $2
    WHERE status IN ('RUNNING', 'PENDING') AND (
        $3 = '' OR owner = $3
        OR NOT EXISTS (SELECT 1 FROM engines WHERE engine_id = runs.owner AND NOT is_dead)
    ) AND (
        kind <> 'actor' OR NOT is_dormant
        OR run_id IN (SELECT run_id FROM events WHERE key = '.call' AND consumed_by = '')
        OR run_id IN (
            SELECT run_id FROM tasks
            WHERE wake_ms IS NOT NULL AND status IN ('RUNNING', 'BACKING_OFF') AND task_id <> '.idle'
        )
    )
"""
_MARK_USED: Final = """
    INSERT INTO blob_marks (sha256, change)
    SELECT sha256, $2 FROM (
        SELECT DISTINCT sha256 FROM blob_uses WHERE run_id = ANY ($1::text[]) ORDER BY 1
    ) AS used ON CONFLICT (sha256) DO UPDATE SET change = excluded.change
"""
_SPECS_OF: Final = """
    SELECT spec_key FROM runs WHERE run_id = ANY ($1::text[])
    UNION SELECT spec_key FROM tasks WHERE run_id = ANY ($1::text[]) AND spec_key <> ''
"""
_SPECS_OF_TASKS: Final = """
    SELECT DISTINCT spec_key FROM tasks WHERE run_id = $1 AND task_id = ANY ($2::text[]) AND spec_key <> ''
"""
_TABLES: Final = ("runs", "labels", "inputs", "tasks", "outputs", "events", "mail", "blob_uses")
_DELETE: Final = (
    f"WITH {', '.join(f'from_{t} AS (DELETE FROM {t} WHERE run_id = ANY ($1::text[]))' for t in _TABLES)} SELECT 1"
)
_DELETE_SPECS: Final = f"""
    WITH gone AS (
        DELETE FROM specs WHERE key = ANY ($1::text[])
            AND NOT EXISTS (SELECT 1 FROM runs WHERE spec_key = key)
            AND NOT EXISTS (SELECT 1 FROM tasks WHERE spec_key = key AND spec_key <> '')
        RETURNING key
    ), released AS (
        DELETE FROM blob_uses USING gone WHERE run_id = '{NO_RUN}' AND task_id = gone.key RETURNING sha256
    )
    INSERT INTO blob_marks (sha256, change) SELECT DISTINCT sha256, $2::bigint FROM released ORDER BY 1
    ON CONFLICT (sha256) DO UPDATE SET change = excluded.change
"""


async def _delete(connection: Connection, run_ids: list[str], change: int) -> None:
    keys = [key for (key,) in await connection.fetch(_SPECS_OF, run_ids)]
    await connection.execute(_MARK_USED, run_ids, change)
    await connection.execute(_DELETE, run_ids)
    await connection.execute(_DELETE_SPECS, keys, change)
