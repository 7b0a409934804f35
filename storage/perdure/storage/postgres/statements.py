"""The statement that writes to PostgreSQL: one for the rows of all tables, with columns as arrays.

A statement is put together from the parts that have rows. Alone, it checks the fence and is its own transaction.
Otherwise it is part of a transaction that has checked the fence before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from perdure.storage.postgres.connections import CHANNEL
from perdure.storage.postgres.gathered import Rows, RunState
from perdure.storage.postgres.rows import RUN_TYPES
from perdure.storage.rows import RUN_COLUMNS
from perdure.storage.writes import NO_RUN

SPECS: Final = 7_233_001
"""An advisory lock: commits that refer to graphs share it, commits that delete graphs hold it exclusively."""
ALIVE: Final = """
    fence AS MATERIALIZED (
        SELECT $1 = '' OR EXISTS (
            SELECT 1 FROM engines WHERE engine_id = $1 AND session = $2 AND NOT is_dead FOR KEY SHARE
        ) AS is_alive{lock}
    ), number AS MATERIALIZED (
        SELECT pg_current_xact_id()::text::bigint + shift AS change FROM numbering
    )"""
TELL: Final = f"""
    SELECT count(pg_notify('{CHANNEL}', $1)) FROM (
        SELECT 1 FROM engines WHERE NOT is_dead AND engine_id <> $1 LIMIT 1
    ) AS others"""
_RUN_UNNEST: Final = ", ".join(f"%{n}::{kind}[]" for n, kind in enumerate(RUN_TYPES, 1))
_RUN_NAMES: Final = ", ".join(RUN_COLUMNS)
_RUN_VALUES: Final = ", ".join("{change}" if name == "change" else name for name in RUN_COLUMNS)
_SET: Final = (
    ("status", "text"), ("update_ms", "bigint"), ("start_ms", "bigint"), ("end_ms", "bigint"), ("output_task", "text"),
    ("output_wraps", "bigint"), ("failure", "bytea"), ("resume_count", "bigint"), ("owner", "text"),
    ("is_dormant", "boolean"), ("code_version", "text"),
)  # fmt: skip
_TASK: Final = (
    ("seq", "bigint"), ("status", "text"), ("attempt", "bigint"), ("failures", "bigint"), ("output_bytes", "bigint"),
    ("output_blob", "text"), ("failure", "bytea"), ("spec_key", "text"), ("wake_ms", "bigint"),
    ("started_ms", "bigint"), ("ended_ms", "bigint"),
)  # fmt: skip
_TASK_NAMES: Final = ", ".join(name for name, _ in _TASK)
_EXISTS: Final = "(given.is_known OR EXISTS (SELECT 1 FROM runs WHERE runs.run_id = given.run_id))"
_MARK: Final = (
    "INSERT INTO blob_marks (sha256, change) SELECT sha256, {change} FROM ("
    "SELECT sha256 FROM unnest(%2::text[], %3::text[], %4::boolean[]) AS given(run_id, sha256, is_known) "
    f"WHERE NOT {_EXISTS} UNION SELECT unnest(%1::text[]) {{released}}ORDER BY 1) AS marks WHERE {{alive}} "
    "ON CONFLICT (sha256) DO UPDATE SET change = excluded.change"
)
"""One part marks all: an insertion of a row and its update cannot be of one statement."""

# {alive} is the fence condition, {change} the number of the commit, {taken} the handling of new runs whose ids are
# taken, %n the n-th argument of the part. Parts write different rows, because they do not see each other's.
_PARTS: Final[dict[str, tuple[int, str]]] = {
    "added": (
        len(RUN_COLUMNS) + 1,
        f"INSERT INTO runs ({_RUN_NAMES}, is_current) SELECT {_RUN_VALUES}, is_current "
        f"FROM unnest({_RUN_UNNEST}, %{len(RUN_COLUMNS) + 1}::boolean[]) AS given({_RUN_NAMES}, is_current) "
        "WHERE {alive} {taken} RETURNING 1",
    ),
    "labels": (
        4,
        "INSERT INTO labels (namespace, key, value, run_id) "
        "SELECT * FROM unnest(%1::text[], %2::text[], %3::text[], %4::text[]) WHERE {alive}",
    ),
    "inputs": (
        3,
        "INSERT INTO inputs (run_id, name, data) "
        "SELECT * FROM unnest(%1::text[], %2::text[], %3::bytea[]) WHERE {alive}",
    ),
    "specs": (
        2,
        "INSERT INTO specs (key, data) SELECT * FROM unnest(%1::text[], %2::bytea[]) WHERE {alive} "
        "ON CONFLICT DO NOTHING",
    ),
    "changed": (
        len(_SET) + 1,
        f"UPDATE runs SET change = {{change}}, {', '.join(f'{name} = given.{name}' for name, _ in _SET)} "
        f"FROM unnest(%1::text[], {', '.join(f'%{n}::{kind}[]' for n, (_, kind) in enumerate(_SET, 2))}) "
        f"AS given(run_id, {', '.join(name for name, _ in _SET)}) WHERE runs.run_id = given.run_id",
    ),
    "ended": (
        7,
        "UPDATE runs SET change = {change}, status = given.status, update_ms = given.at_ms, end_ms = given.at_ms, "
        "output_task = given.output_task, output_wraps = given.output_wraps, failure = given.failure, "
        "is_dormant = coalesce(given.is_dormant, runs.is_dormant) "
        "FROM unnest(%1::text[], %2::text[], %3::bigint[], %4::text[], %5::bigint[], %6::bytea[], %7::boolean[]) "
        "AS given(run_id, status, at_ms, output_task, output_wraps, failure, is_dormant) "
        "WHERE runs.run_id = given.run_id AND {alive}",
    ),
    "dormant": (
        2,
        "UPDATE runs SET is_dormant = given.is_dormant FROM unnest(%1::text[], %2::boolean[]) "
        "AS given(run_id, is_dormant) "
        "WHERE runs.run_id = given.run_id AND runs.is_dormant <> given.is_dormant AND {alive}",
    ),
    "tasks": (
        len(_TASK) + 3,
        f"INSERT INTO tasks (run_id, task_id, {_TASK_NAMES}, change) "
        f"SELECT run_id, task_id, {_TASK_NAMES}, {{change}} FROM unnest(%1::text[], %2::text[], %3::boolean[], "
        f"{', '.join(f'%{n}::{kind}[]' for n, (_, kind) in enumerate(_TASK, 4))}) "
        f"AS given(run_id, task_id, is_known, {_TASK_NAMES}) WHERE {_EXISTS} AND {{alive}} "
        "ON CONFLICT (run_id, task_id) DO UPDATE SET change = excluded.change, "
        f"{', '.join(f'{name} = excluded.{name}' for name, _ in _TASK)}",
    ),
    "outputs": (
        4,
        "INSERT INTO outputs (run_id, task_id, data) SELECT run_id, task_id, data "
        "FROM unnest(%1::text[], %2::text[], %3::boolean[], %4::bytea[]) AS given(run_id, task_id, is_known, data) "
        f"WHERE {_EXISTS} AND {{alive}} ON CONFLICT (run_id, task_id) DO UPDATE SET data = excluded.data",
    ),
    "no_outputs": (
        2,
        "DELETE FROM outputs USING unnest(%1::text[], %2::text[]) AS given(run_id, task_id) "
        "WHERE outputs.run_id = given.run_id AND outputs.task_id = given.task_id AND {alive}",
    ),
    "consumed": (
        3,
        "UPDATE events SET consumed_by = given.task_id FROM unnest(%1::text[], %2::bigint[], %3::text[]) "
        "AS given(run_id, sequence, task_id) "
        "WHERE events.run_id = given.run_id AND events.sequence = given.sequence AND {alive}",
    ),
    "forgotten": (
        2,
        "DELETE FROM tasks USING unnest(%1::text[], %2::text[]) AS given(run_id, task_id) "
        "WHERE tasks.run_id = given.run_id AND tasks.task_id = given.task_id AND {alive}",
    ),
    "taken": (
        4,  # an event that another task consumes in the same statement stays
        "DELETE FROM events USING ("
        "SELECT run_id, array_agg(task_id) AS task_ids FROM unnest(%1::text[], %2::text[]) AS taken(run_id, task_id) "
        "GROUP BY run_id) AS given WHERE events.run_id = given.run_id AND events.consumed_by = ANY (given.task_ids) "
        "AND (events.run_id, events.sequence) NOT IN (SELECT * FROM unnest(%3::text[], %4::bigint[])) AND {alive}",
    ),
    "unread": (
        2,
        "DELETE FROM events USING unnest(%1::text[], %2::bigint[]) AS given(run_id, sequence) "
        "WHERE events.run_id = given.run_id AND events.sequence = given.sequence AND {alive}",
    ),
    "spent": (
        2,
        "DELETE FROM inputs USING unnest(%1::text[], %2::text[]) AS given(run_id, name) "
        "WHERE inputs.run_id = given.run_id AND inputs.name = given.name AND {alive}",
    ),
    "released": (
        2,
        "DELETE FROM blob_uses USING unnest(%1::text[], %2::text[]) AS given(run_id, task_id) "
        "WHERE blob_uses.run_id = given.run_id AND blob_uses.task_id = given.task_id AND {alive} RETURNING sha256",
    ),
    "uses": (
        4,
        "INSERT INTO blob_uses (run_id, task_id, sha256) SELECT run_id, task_id, sha256 "
        "FROM unnest(%1::text[], %2::text[], %3::text[], %4::boolean[]) AS given(run_id, task_id, sha256, is_known) "
        f"WHERE {_EXISTS} AND {{alive}} ON CONFLICT DO NOTHING",
    ),
    "marks": (4, _MARK.replace("{released}", "")),
    "marks_and_released": (4, _MARK.replace("{released}", "UNION SELECT sha256 FROM write_released ")),
    "unmarks": (
        2,
        "DELETE FROM blob_marks USING unnest(%1::text[], %2::bigint[]) AS given(sha256, change) "
        "WHERE blob_marks.sha256 = given.sha256 AND blob_marks.change = given.change AND {alive}",
    ),
    "mail": (
        4,
        "INSERT INTO mail (run_id, kind, data) SELECT run_id, kind, data FROM ("
        "SELECT * FROM unnest(%1::text[], %2::text[], %3::bytea[], %4::boolean[]) "
        "WITH ORDINALITY AS given(run_id, kind, data, is_known, place) "
        f"WHERE {_EXISTS} AND {{alive}} ORDER BY place) AS letters",
    ),
    "tombstones": (
        3,
        "INSERT INTO tombstones (key, data, expires_ms) "
        "SELECT * FROM unnest(%1::text[], %2::bytea[], %3::bigint[]) WHERE {alive} "
        "ON CONFLICT (key) DO UPDATE SET data = excluded.data, expires_ms = excluded.expires_ms",
    ),
    "expired": (
        3,  # a tombstone that is written by the same statement stays
        "DELETE FROM tombstones WHERE {alive} AND key IN (SELECT key FROM tombstones WHERE expires_ms < %1::bigint "
        "AND key <> ALL (%3::text[]) ORDER BY expires_ms LIMIT %2::bigint FOR UPDATE SKIP LOCKED)",
    ),
    "dropped": (1, "DELETE FROM mail WHERE number = ANY (%1::bigint[]) AND {alive}"),
}


def columns(count: int, rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    return columns or [[] for _ in range(count)]


def parts_of(rows: Rows) -> Iterator[tuple[str, list[Any]]]:
    """The parts that have rows, with their arguments. Rows are sorted by key, so that members lock them in the same
    order and do not deadlock."""
    known = rows.known
    if rows.added:
        states = sorted(rows.added.values(), key=lambda state: (state.row.namespace, state.row.workflow_id))
        yield "added", columns(0, (_run_values(state) for state in states))
        labels = [
            (state.row.namespace, key, value, state.row.run_id)
            for state in states
            for key, value in state.row.labels.items()
        ]
        if labels:
            yield "labels", columns(4, labels)
    if rows.inputs:
        yield "inputs", columns(3, rows.inputs)
    if rows.specs:
        yield "specs", columns(2, sorted(rows.specs.items()))
    if rows.changed:
        yield "changed", columns(
            0,
            (
                (
                    run_id, row.status.value, row.update_ms, row.start_ms, row.end_ms, row.output_task,
                    row.output_wraps, row.failure, row.resume_count, row.owner, row.is_dormant,
                    row.code_version,
                )
                for run_id, state in sorted(rows.changed.items())
                for row in (state.row,)
            ),
        )  # fmt: skip
    if rows.ended:
        yield (
            "ended",
            columns(
                0,
                (
                    (run_id, end.status.value, end.at_ms, end.output_task, end.output_wraps, end.failure, is_dormant)
                    for run_id, (end, is_dormant) in sorted(rows.ended.items())
                ),
            ),
        )
    if rows.dormant:
        yield "dormant", columns(2, sorted(rows.dormant.items()))
    if rows.tasks:
        yield from _task_parts(rows)
    if rows.forgotten:
        yield "forgotten", columns(2, rows.forgotten)
    no_outputs = [key for key, row in rows.tasks.items() if row.output is None] + list(rows.forgotten)
    if no_outputs:
        yield "no_outputs", columns(2, no_outputs)
    if rows.consumed:
        yield "consumed", columns(3, ((*key, task_id) for key, task_id in rows.consumed.items()))
    if rows.taken:
        taken = [(run_id, task_id) for run_id, task_ids in sorted(rows.taken.items()) for task_id in sorted(task_ids)]
        also = [key for key in rows.consumed if key[0] in rows.taken]
        yield "taken", [*columns(2, taken), *columns(2, also)]
    if rows.unread:
        yield "unread", columns(2, rows.unread)
    if rows.spent:
        yield "spent", columns(2, rows.spent)
    if rows.released:
        yield "released", columns(2, rows.released)
    if rows.uses or rows.marks or rows.released:
        yield from _use_parts(rows)
    if rows.unmarks:
        yield "unmarks", columns(2, rows.unmarks)
    if rows.mail:
        yield "mail", columns(4, ((mail.run_id, mail.kind, mail.data, mail.run_id in known) for mail in rows.mail))
    if rows.dropped:
        yield "dropped", [rows.dropped]
    if rows.tombstones:
        kept = (rows.tombstones[key] for key in sorted(rows.tombstones))
        yield "tombstones", columns(3, ((tombstone.key, tombstone.data, tombstone.expires_ms) for tombstone in kept))
    if rows.expired:
        before_ms, most = max(write.before_ms for write in rows.expired), sum(write.most for write in rows.expired)
        yield "expired", [before_ms, most, list(rows.tombstones)]


def _task_parts(rows: Rows) -> Iterator[tuple[str, list[Any]]]:
    known = rows.known
    yield "tasks", columns(
        0,
        [
            (
                row.run_id, row.task_id, row.run_id in known, row.seq, row.status.value, row.attempt, row.failures,
                row.output_bytes, row.output_blob, row.failure, row.spec_key, row.wake_ms, row.started_ms, row.ended_ms,
            )
            for row in rows.tasks.values()
        ],
    )  # fmt: skip
    outputs = [
        (row.run_id, row.task_id, row.run_id in known, row.output)
        for row in rows.tasks.values()
        if row.output is not None
    ]
    if outputs:
        yield "outputs", columns(4, outputs)


def _use_parts(rows: Rows) -> Iterator[tuple[str, list[Any]]]:
    uses = [
        (run_id, task_id, sha256, run_id in rows.known or run_id == NO_RUN)
        for (run_id, task_id), blobs in sorted(rows.uses.items())
        for sha256 in sorted(blobs)
    ]
    run_ids, task_ids, sha256s, are_known = columns(4, uses)
    if uses:
        yield "uses", [run_ids, task_ids, sha256s, are_known]
    name = "marks_and_released" if rows.released else "marks"
    yield name, [list(rows.marks), run_ids, sha256s, are_known]


def _run_values(state: RunState) -> tuple[Any, ...]:
    row = state.row
    values = [getattr(row, name) for name in RUN_COLUMNS]
    values[_STATUS] = row.status.value
    values[_LABELS] = json.dumps(dict(row.labels)) if row.labels else "{}"
    return (*values, state.is_current)


_STATUS: Final = RUN_COLUMNS.index("status")
_LABELS: Final = RUN_COLUMNS.index("labels")


@lru_cache(maxsize=512)
def statement(parts: tuple[str, ...], is_alone: bool, tells: bool, mentions: bool = False) -> str:
    """The text of a statement. Its arguments are the member and its session (alone) or the number of the commit (in a
    transaction), then those of the parts. Alone, it holds the lock of graphs if it `mentions` any, and a new run whose
    ids are taken is an error."""
    used = 2
    bodies = []
    for name in parts:
        count, text = _PARTS[name]
        for number in range(count, 0, -1):
            text = text.replace(f"%{number}::", f"${used + number}::")
        text = text.replace("{alive}", "(SELECT is_alive FROM fence)" if is_alone else "TRUE")
        text = text.replace("{change}", "(SELECT change FROM number)" if is_alone else "$2::bigint")
        text = text.replace("{taken}", "" if is_alone else "ON CONFLICT DO NOTHING")
        bodies.append(f"write_{name} AS ({text})")
        used += count
    if is_alone:
        told = f"CASE WHEN is_alive THEN ({TELL}) END" if tells else "NULL"
        alive = ALIVE.format(lock=f", pg_advisory_xact_lock_shared({SPECS})::text" if mentions else "")
        return f"WITH {', '.join([alive, *bodies])} SELECT is_alive, change, {told} FROM fence, number"
    added = "(SELECT count(*) FROM write_added)" if "added" in parts else "0"
    return f"WITH {', '.join(bodies)} SELECT {added}, ({TELL if tells else 'SELECT $1::text'}), $2::bigint"
