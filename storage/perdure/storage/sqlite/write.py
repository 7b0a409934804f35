"""Writes to SQLite. Runs in the writer's thread, one transaction per call."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Final, assert_never

from perdure.model import RunStatus
from perdure.storage.damage import run_status
from perdure.storage.ports import Entry
from perdure.storage.rows import TaskRow
from perdure.storage.sqlite.many import inserting, into, marks
from perdure.storage.sqlite.runs import OF_WORKFLOWS, RunRows
from perdure.storage.sqlite.seals import (
    BLOB_USE,
    RUN_SUMMED,
    TASK,
    TOMBSTONE,
    seal,
    seal_of_event,
    seal_of_task,
    seal_of_use,
    seal_of_value,
)
from perdure.storage.writes import (
    NO_RUN,
    AddEvent,
    AddRun,
    Committed,
    ConsumeEvent,
    DeleteRun,
    DropMail,
    DropTasks,
    DropTombstones,
    EntryResult,
    KeepTombstones,
    Limit,
    Mail,
    MarkBlobs,
    PutSpec,
    PutTask,
    SetAsideRuns,
    SetDormant,
    SetRun,
    Unmark,
    UseBlobs,
    Write,
    runs_of,
)

TASK_COLUMNS: Final = tuple(field.name for field in fields(TaskRow))


_PUT_TASKS: Final = inserting("INSERT OR REPLACE", "tasks", (*TASK, "seal", "output", "output_seal"))
_EVENT_COLUMNS: Final = (
    "run_id", "sequence", "event_id", "key", "payload", "arrived_ms", "consumed_by", "seal", "is_taken",
)  # fmt: skip
_ADD_EVENT: Final = f"{into('INSERT', 'events', _EVENT_COLUMNS)} VALUES {marks(len(_EVENT_COLUMNS))}"
_DROP_TASK: Final = "DELETE FROM tasks WHERE run_id = ? AND task_id = ?"
_DROP_SPEC: Final = """
    DELETE FROM specs WHERE key = :key
        AND NOT EXISTS (SELECT 1 FROM runs WHERE substr(spec_key, 1, 16) = substr(:key, 1, 16) AND spec_key = :key)
        AND NOT EXISTS (SELECT 1 FROM tasks WHERE spec_key = :key AND spec_key <> '')
"""
_USE: Final = inserting("INSERT OR IGNORE", "blob_uses", (*BLOB_USE, "seal"))
_USE_OF_TASK: Final = "SELECT 1 FROM blob_uses WHERE run_id = ? AND task_id = ? LIMIT 1"
_OF_TASKS: Final = "run_id = ? AND task_id IN (SELECT value FROM json_each(?))"
_DROP_EVENTS: Final = "DELETE FROM events WHERE run_id = ? AND consumed_by IN (SELECT value FROM json_each(?))"
_MARK: Final = "INSERT OR REPLACE INTO blob_marks (sha256, change, seal) VALUES (?, ?, ?)"
_KEEP_TOMBSTONES: Final = inserting("INSERT OR REPLACE", "tombstones", (*TOMBSTONE, "seal"))
_DROP_TOMBSTONES: Final = (
    "DELETE FROM tombstones WHERE rowid IN "
    "(SELECT rowid FROM tombstones WHERE expires_ms < ? ORDER BY expires_ms LIMIT ?)"
)
_COUNT: Final = "UPDATE counters SET value = value + 1, mirror = mirror - 1 WHERE name = ? RETURNING value"
_SET_DORMANT: Final = (
    f"UPDATE runs SET is_dormant = :is_dormant, sum_seal = sum_seal + {RUN_SUMMED['is_dormant']} "
    "* (:is_dormant - is_dormant) WHERE run_id = :run_id AND is_dormant <> :is_dormant"
)
_REPLACED: Final = (
    f"UPDATE runs SET is_current = 0, sum_seal = sum_seal - {RUN_SUMMED['is_current']} "
    "WHERE namespace = ? AND workflow_id = ? AND is_current = 1"
)
_SET_ASIDE: Final = """
    UPDATE runs SET status = 'RESUMABLE', update_ms = :at_ms, change = :change,
        sum_seal = sum_seal + :factor * (:change - change),
        state_seal = iif(
            state_seal = perdure_seal_of_state(run_id, status, update_ms, end_ms, output_task, output_wraps, failure),
            perdure_seal_of_state(run_id, 'RESUMABLE', :at_ms, end_ms, output_task, output_wraps, failure),
            state_seal
        )
    WHERE status IN ('RUNNING', 'PENDING') AND (
        kind <> 'actor' OR is_dormant = 0
        OR run_id IN (SELECT run_id FROM events WHERE key = '.call' AND consumed_by = '')
        OR run_id IN (
            SELECT run_id FROM tasks
            WHERE wake_ms IS NOT NULL AND status IN ('RUNNING', 'BACKING_OFF') AND task_id <> '.idle'
        )
    )
"""
_FITS: Final = """
    SELECT 1 FROM runs WHERE run_id = :run_id AND (is_current = 1 OR :is_final)
        AND (
            (status = :expects AND :expects_change IN (0, change))
            OR (status = :status AND update_ms = :at_ms AND :owner IN ('', owner))
        )
"""


def commit(connection: sqlite3.Connection, entries: Sequence[Entry]) -> Committed:
    """Commit all entries, or on any error none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        commit_ = _Commit(connection, entries)
        results = tuple(commit_.apply(entry) for entry in entries)
        commit_.finish()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return Committed(commit_.change, results)


class _Commit:
    """One transaction. Rows of tasks and runs, and their uses of blobs, are gathered, because they are most of a busy
    engine's writes."""

    def __init__(self, connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
        self._sql = connection
        (self.change,) = connection.execute(_COUNT, ("change",)).fetchone()
        self._tasks: list[tuple[object, ...]] = []
        self._uses: list[tuple[object, ...]] = []
        self._dropped: dict[tuple[object, ...], int] = {}  # tasks, with the number of those gathered before
        self._runs = RunRows(connection, entries, self.change)
        self._repeated: set[str] = set()  # runs that were there already
        self._specs: set[str] = set()  # that are there for certain
        self._spec_uses: set[tuple[str, tuple[str, ...]]] = set()  # that are gathered or stored

    def apply(self, entry: Entry) -> EntryResult:
        for write in entry:
            if type(write) in _MAY_BE_REFUSED and self._is_refused(write, entry):
                return EntryResult(is_refused=True)
        result: EntryResult | None = None
        for write in entry:
            result = self._write(write) or result
        return result or _DONE

    def finish(self) -> None:
        self._runs.store()
        self._store_uses()
        tasks = self._tasks
        if self._dropped:
            self._sql.executemany(_DROP_TASK, self._dropped)
            dropped = self._dropped.get
            tasks = [row for place, row in enumerate(tasks) if dropped(row[:2], 0) <= place]
            self._dropped.clear()
        if tasks:
            _PUT_TASKS.execute(self._sql, tasks)
        self._tasks.clear()

    def _write(self, write: Write) -> EntryResult | None:
        match write:
            case PutTask(row=row):
                sealed = (
                    row.run_id, row.task_id, row.seq, row.status.value, row.attempt, row.failures, row.wake_ms,
                    row.started_ms, row.ended_ms, self.change, row.output_bytes, row.output_blob, row.spec_key,
                    row.failure,
                )  # fmt: skip
                self._tasks.append((*sealed, seal_of_task(*sealed), row.output, seal_of_value(row.output)))
            case AddRun():
                self._add_run(write)
            case SetRun():
                self._runs.set(write)
            case SetAsideRuns(at_ms=at_ms):
                self.finish()
                values = {"at_ms": at_ms, "change": self.change, "factor": RUN_SUMMED["change"]}
                self._sql.execute(_SET_ASIDE, values)
            case SetDormant() if self._runs.is_added(write.run_id):
                self._runs.set_dormant(write.run_id, write.is_dormant)
            case SetDormant():
                self._sql.execute(_SET_DORMANT, {"is_dormant": int(write.is_dormant), "run_id": write.run_id})
            case PutSpec():
                self._put_spec(write.key, write.data)
            case AddEvent():
                return self._add_event(write)
            case ConsumeEvent():
                self._sql.execute(
                    "UPDATE events SET consumed_by = ?, is_taken = 1 WHERE run_id = ? AND sequence = ?",
                    (write.task_id, write.run_id, write.sequence),
                )
            case DropTasks():
                self._drop_tasks(write)
            case UseBlobs():
                self._use(write)
            case MarkBlobs(blobs=blobs):
                self._mark(blobs)
            case Unmark(marks=marks):
                self._sql.executemany(
                    "DELETE FROM blob_marks WHERE sha256 = ? AND change = ?",
                    [(mark.sha256, mark.change) for mark in marks],
                )
            case DeleteRun():
                self._delete(write.run_id)
            case KeepTombstones(tombstones=tombstones):
                rows = [(tombstone.key, tombstone.data, tombstone.expires_ms) for tombstone in tombstones]
                _KEEP_TOMBSTONES.execute(self._sql, [(*values, seal(*values)) for values in rows])
            case DropTombstones():
                self._sql.execute(_DROP_TOMBSTONES, (write.before_ms, write.most))
            case Mail():
                self._runs.store()
                self._sql.execute(
                    "INSERT INTO mail (run_id, kind, data, seal) SELECT run_id, ?, ?, ? FROM runs WHERE run_id = ?",
                    (write.kind, write.data, seal(write.run_id, write.kind, write.data), write.run_id),
                )
            case DropMail(numbers=numbers):
                self._sql.executemany("DELETE FROM mail WHERE number = ?", [(number,) for number in numbers])
            case Limit():
                pass
            case _:
                assert_never(write)
        return None

    def _is_refused(self, write: Write, entry: Entry) -> bool:
        match write:
            case AddRun() if self._runs.is_free(write.row):
                return write.replaces != ""
            case AddRun():
                self._runs.store()
                return self._is_taken(write)
            case SetRun(expects=RunStatus() as expected):
                self._runs.settle(write.run_id)
                values = {
                    "run_id": write.run_id,
                    "is_final": write.status.is_final,
                    "expects": expected.value,
                    "expects_change": write.expects_change,
                    "status": write.status.value,
                    "at_ms": write.at_ms,
                    "owner": write.owner,
                }
                return self._sql.execute(_FITS, values).fetchone() is None
            case DeleteRun(last_event=int(last)):
                newer = "SELECT 1 FROM events WHERE run_id = ? AND sequence > ? LIMIT 1"
                return self._sql.execute(newer, (write.run_id, last)).fetchone() is not None
            case Limit():
                self._runs.store()
                if any(self._has_happened(other) for other in entry):
                    return False
                (count,) = self._sql.execute(
                    f"SELECT count(*) FROM runs WHERE is_current = 1 AND {OF_WORKFLOWS} AND namespace = ? "
                    "AND status = ? AND run_id NOT IN (SELECT value FROM json_each(?))",
                    (write.namespace, write.status.value, json.dumps(sorted(runs_of(entry)))),
                ).fetchone()
                return bool(count >= write.most)
            case _:
                return False

    def _has_happened(self, write: Write) -> bool:
        values: tuple[str | int, ...]
        match write:
            case AddRun():
                where, values = "", (write.row.run_id,)
            case SetRun():
                where = " AND status = ? AND update_ms = ? AND ? IN ('', owner)"
                values = (write.run_id, write.status.value, write.at_ms, write.owner)
            case _:
                return False
        return self._sql.execute(f"SELECT 1 FROM runs WHERE run_id = ?{where}", values).fetchone() is not None

    def _is_there(self, run_id: str) -> bool:
        if self._runs.is_added(run_id):
            return True
        return self._sql.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone() is not None

    def _is_taken(self, write: AddRun) -> bool:
        row = write.row
        found = self._sql.execute(
            "SELECT run_id, workflow_id = :workflow_id AND is_current, request_id, status FROM runs "
            "WHERE run_id = :run_id OR (namespace = :namespace AND workflow_id = :workflow_id AND is_current = 1) "
            "OR (namespace = :namespace AND request_id = :request_id AND request_id <> '')",
            {
                "run_id": row.run_id,
                "namespace": row.namespace,
                "workflow_id": row.workflow_id,
                "request_id": row.request_id,
            },
        ).fetchall()
        if any(run_id == row.run_id for run_id, _, _, _ in found):
            self._repeated.add(row.run_id)
            return False
        if row.request_id and any(request_id == row.request_id for _, _, request_id, _ in found):
            return True
        run_id, status = next(((run_id, status) for run_id, is_current, _, status in found if is_current), ("", ""))
        return not write.may_follow(run_id, run_status(status))

    def _add_run(self, write: AddRun) -> None:
        row = write.row
        if row.run_id in self._repeated:
            return
        if write.replaces:
            self._runs.store()
            self._sql.execute(_REPLACED, (row.namespace, row.workflow_id))
        self._put_spec(row.spec_key, write.spec)
        if write.blobs and (used := (row.spec_key, write.blobs)) not in self._spec_uses:
            self._spec_uses.add(used)
            self._gather_uses(NO_RUN, row.spec_key, write.blobs)
        self._runs.add(row)
        if row.labels:
            self._sql.executemany(
                "INSERT INTO labels (namespace, key, value, run_id) VALUES (?, ?, ?, ?)",
                [(row.namespace, key, value, row.run_id) for key, value in row.labels.items()],
            )
        if write.inputs:
            self._sql.executemany(
                "INSERT INTO inputs (run_id, name, data, seal) VALUES (?, ?, ?, ?)",
                [(row.run_id, name, data, seal(row.run_id, name, data)) for name, data in write.inputs.items()],
            )

    def _put_spec(self, key: str, data: bytes) -> None:
        if key not in self._specs:
            self._sql.execute("INSERT OR IGNORE INTO specs (key, data) VALUES (?, ?)", (key, data))
            self._specs.add(key)

    def _add_event(self, write: AddEvent) -> EntryResult | None:
        if not self._is_there(write.run_id):
            return None
        found = self._sql.execute(
            "SELECT sequence FROM events WHERE run_id = ? AND key = ? AND event_id = ?",
            (write.run_id, write.key, write.event_id),
        ).fetchone()
        if found is not None:
            return EntryResult(sequence=found[0], is_duplicate=True)
        (sequence,) = self._sql.execute(_COUNT, ("sequence",)).fetchone()
        sealed = seal_of_event(write.run_id, sequence, write.event_id, write.key, write.arrived_ms, write.payload)
        self._sql.execute(
            _ADD_EVENT,
            (write.run_id, sequence, write.event_id, write.key, write.payload, write.arrived_ms, "", sealed, 0),
        )
        return EntryResult(sequence=sequence)

    def _drop_tasks(self, write: DropTasks) -> None:
        run_id, names = write.run_id, json.dumps(write.task_ids)
        keys: list[tuple[str]] = []
        if write.and_graphs:
            self.finish()
            statement = f"SELECT DISTINCT spec_key FROM tasks WHERE {_OF_TASKS} AND spec_key <> ''"
            keys = self._sql.execute(statement, (run_id, names)).fetchall()
        self._dropped.update(((run_id, task_id), len(self._tasks)) for task_id in write.task_ids)
        self._store_uses()
        # Most tasks use no blobs, and to see that is cheaper than to delete nothing.
        if any(self._sql.execute(_USE_OF_TASK, (run_id, task_id)).fetchone() for task_id in write.task_ids):
            self._release(run_id, names)
        if write.and_events:
            self._sql.execute(_DROP_EVENTS, (run_id, names))
        if write.inputs:
            self._sql.executemany(
                "DELETE FROM inputs WHERE run_id = ? AND name = ?", [(run_id, name) for name in write.inputs]
            )
        if keys:
            self.finish()
            self._drop_specs(key for (key,) in keys)

    def _drop_specs(self, keys: Iterable[str]) -> None:
        """Remove graphs that neither a run nor a task names, and their uses of blobs."""
        self._specs.clear()
        self._spec_uses.clear()
        for key in keys:
            if self._sql.execute(_DROP_SPEC, {"key": key}).rowcount:
                self._release(NO_RUN, json.dumps([key]))

    def _use(self, write: UseBlobs) -> None:
        if self._is_there(write.run_id):
            self._gather_uses(write.run_id, write.task_id, write.blobs)
        else:
            self._mark(write.blobs)

    def _gather_uses(self, run_id: str, task_id: str, blobs: Iterable[str]) -> None:
        self._uses += [(run_id, task_id, sha256, seal_of_use(run_id, task_id, sha256)) for sha256 in blobs]

    def _release(self, run_id: str, names: str) -> None:
        """Remove uses of blobs by the tasks with these names, as JSON, and mark the blobs."""
        released = self._sql.execute(f"SELECT DISTINCT sha256 FROM blob_uses WHERE {_OF_TASKS}", (run_id, names))
        self._mark([sha256 for (sha256,) in released])
        self._sql.execute(f"DELETE FROM blob_uses WHERE {_OF_TASKS}", (run_id, names))

    def _store_uses(self) -> None:
        if self._uses:
            _USE.execute(self._sql, self._uses)
            self._uses.clear()

    def _mark(self, blobs: Iterable[str]) -> None:
        self._sql.executemany(_MARK, [(sha256, self.change, seal(sha256, self.change)) for sha256 in blobs])

    def _delete(self, run_id: str) -> None:
        self.finish()
        self._repeated.discard(run_id)
        keys = self._sql.execute(
            "SELECT spec_key FROM runs WHERE run_id = :run_id "
            "UNION SELECT spec_key FROM tasks WHERE run_id = :run_id AND spec_key <> ''",
            {"run_id": run_id},
        ).fetchall()
        used = self._sql.execute("SELECT DISTINCT sha256 FROM blob_uses WHERE run_id = ?", (run_id,)).fetchall()
        self._mark(sha256 for (sha256,) in used)
        for table in ("runs", "labels", "inputs", "tasks", "events", "blob_uses", "mail"):
            self._sql.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))
        self._drop_specs(key for (key,) in keys)


_DONE: Final = EntryResult()
_MAY_BE_REFUSED: Final = {AddRun, SetRun, DeleteRun, Limit}
