"""The rows of runs, many in one statement.

A commit of many runs looks up all their ids at once, and writes many rows per statement (see `many`). The rows gathered
here must be written before anything else reads them; `write` sees to that.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final, TypeAlias

from perdure.model import RunStatus
from perdure.storage.ports import Entry
from perdure.storage.rows import RUN_COLUMNS, RunRow
from perdure.storage.sqlite.many import ManyRows, marks
from perdure.storage.sqlite.seals import (
    RUN_CODE,
    RUN_FIXED,
    RUN_STATE,
    RUN_SUMMED,
    seal_of_code,
    seal_of_run,
    seal_of_state,
)
from perdure.storage.writes import AddRun, SetRun

RunValues: TypeAlias = list[Any]
"""By column."""

MANY: Final = 8
"""From this number of new runs in a commit, their ids are looked up together."""

OF_WORKFLOWS: Final = "kind <> 'actor'"
OF_ACTORS: Final = "kind = 'actor'"
"""Conditions of indexes, which a query must repeat to be answered by them."""
STATUS, LABELS, DORMANT, FAILURE, CHANGE = map(
    RUN_COLUMNS.index, ("status", "labels", "is_dormant", "failure", "change")
)
_ADD: Final = ManyRows(
    f"INSERT INTO runs ({', '.join(RUN_COLUMNS)}, is_current, fixed_seal, state_seal, code_seal, sum_seal)",
    f"({', '.join('?' * len(RUN_COLUMNS))}, 1, ?, ?, ?, ?)",
)
_RESUMED: Final = (
    "(new.column10 AND NOT (status = new.column2 AND update_ms = new.column3 AND new.column11 IN ('', owner)))"
)
_SET: Final = ManyRows(
    f"""
    UPDATE runs SET status = new.column2, update_ms = new.column3, start_ms = coalesce(start_ms, new.column4),
        end_ms = new.column5, output_task = new.column6, output_wraps = new.column7, failure = new.column8,
        change = new.column9, resume_count = resume_count + {_RESUMED},
        owner = CASE new.column11 WHEN '' THEN owner ELSE new.column11 END, state_seal = new.column13,
        sum_seal = sum_seal + {RUN_SUMMED["change"]} * (new.column9 - change)
            + {RUN_SUMMED["resume_count"]} * {_RESUMED}
            + {RUN_SUMMED["start_ms"]} * iif(start_ms IS NULL, coalesce(new.column4, 0), 0),
        code_version = CASE new.column12 WHEN '' THEN code_version ELSE new.column12 END,
        code_seal = CASE new.column12 WHEN '' THEN code_seal ELSE new.column14 END
    FROM (""",
    marks(14),
    ") AS new WHERE run_id = new.column1",
)


class RunRows:
    """Gathers the changes that one transaction makes to rows of runs, and writes them together."""

    def __init__(self, sql: sqlite3.Connection, entries: Sequence[Entry], change: int) -> None:
        self._sql = sql
        self._change = change
        self._added: dict[str, RunValues] = {}
        self._set: dict[str, RunValues] = {}
        rows = [write.row for entry in entries for write in entry if type(write) is AddRun]
        self._taken = _Taken(sql, rows) if len(rows) >= MANY else None

    def is_free(self, row: RunRow) -> bool:
        """Whether certainly no row has any of its ids, neither a stored one nor one that is gathered here."""
        return self._taken is not None and self._taken.has_none_of(row)

    def is_added(self, run_id: str) -> bool:
        return run_id in self._added

    def settle(self, run_id: str) -> None:
        """Write what is gathered of this run, so that its row can be read."""
        if run_id in self._added or run_id in self._set:
            self.store()

    def add(self, row: RunRow) -> None:
        self.settle(row.run_id)
        values: RunValues = list(_columns_of(vars(row)))
        values[STATUS] = row.status.value
        values[LABELS] = json.dumps(dict(row.labels)) if row.labels else "{}"
        values[DORMANT] = int(row.is_dormant)
        values[CHANGE] = self._change
        code_seal = seal_of_code(row.run_id, row.code_version)
        values += seal_of_run(*fixed_of(values)), seal_of_state(*state_of(values)), code_seal, sum_seal(values, 1)
        self._added[row.run_id] = values
        if self._taken is not None:
            self._taken.add(row)

    def set_dormant(self, run_id: str, is_dormant: bool) -> None:
        """Change a run that was added in this transaction."""
        values = self._added[run_id]
        values[DORMANT] = int(is_dormant)
        values[-1] = sum_seal(values, 1)

    def set(self, write: SetRun) -> None:
        self.settle(write.run_id)
        end_ms = write.at_ms if write.status.is_final else None
        self._set[write.run_id] = [
            write.run_id,
            write.status.value,
            write.at_ms,
            write.at_ms if write.status is RunStatus.RUNNING else None,
            end_ms,
            write.output_task,
            write.output_wraps,
            write.failure,
            self._change,
            int(write.resumed),
            write.owner,
            write.code,
            seal_of_state(
                write.run_id, write.status.value, write.at_ms, end_ms, write.output_task, write.output_wraps,
                write.failure,
            ),
            seal_of_code(write.run_id, write.code),
        ]  # fmt: skip

    def store(self) -> None:
        """Write what was gathered: at most one change per row."""
        for statement, gathered in ((_ADD, self._added), (_SET, self._set)):
            if gathered:
                statement.execute(self._sql, list(gathered.values()))
                gathered.clear()


_columns_of: Final = itemgetter(*RUN_COLUMNS)
fixed_of: Final = itemgetter(*map(RUN_COLUMNS.index, RUN_FIXED))
code_of: Final = itemgetter(*map(RUN_COLUMNS.index, RUN_CODE))
state_of: Final = itemgetter(*map(RUN_COLUMNS.index, RUN_STATE))
_START, _RESUMES = RUN_COLUMNS.index("start_ms"), RUN_COLUMNS.index("resume_count")
_CURRENT_X, _DORMANT_X, _RESUMES_X, _CHANGE_X, _START_X = RUN_SUMMED.values()


def sum_seal(values: Sequence[Any], is_current: int) -> int:
    """The sum of the columns of a run that change one by one. Raises TypeError if one is not a number."""
    summed: int = (
        _CURRENT_X * is_current
        + _DORMANT_X * values[DORMANT]
        + _RESUMES_X * values[_RESUMES]
        + _CHANGE_X * values[CHANGE]
        + _START_X * (values[_START] or 0)
    )
    return summed


class _Taken:
    """The unique keys of current runs (run ids, workflow ids, request ids) that are taken: those that stored rows have
    of the new ones of a transaction, and those of the rows that were added since."""

    def __init__(self, sql: sqlite3.Connection, rows: Sequence[RunRow]) -> None:
        spaces: defaultdict[str, list[RunRow]] = defaultdict(list)
        for row in rows:
            spaces[row.namespace].append(row)
        self._runs = _found(sql, _FIND_RUNS, "", [row.run_id for row in rows])
        self._workflows: set[tuple[str, str]] = set()
        self._requests: set[tuple[str, str]] = set()
        for namespace, some in spaces.items():
            workflows = _found(sql, _FIND_WORKFLOWS, namespace, [row.workflow_id for row in some])
            requests = _found(sql, _FIND_REQUESTS, namespace, [row.request_id for row in some if row.request_id])
            self._workflows.update((namespace, name) for name in workflows)
            self._requests.update((namespace, name) for name in requests)

    def has_none_of(self, row: RunRow) -> bool:
        return (
            row.run_id not in self._runs
            and (row.namespace, row.workflow_id) not in self._workflows
            and not (row.request_id and (row.namespace, row.request_id) in self._requests)
        )

    def add(self, row: RunRow) -> None:
        self._runs.add(row.run_id)
        self._workflows.add((row.namespace, row.workflow_id))
        if row.request_id:
            self._requests.add((row.namespace, row.request_id))


def _found(sql: sqlite3.Connection, statement: str, namespace: str, names: Sequence[str]) -> set[str]:
    if not names:
        return set()
    return {name for (name,) in sql.execute(statement, {"namespace": namespace, "names": json.dumps(names)})}


_ASKED: Final = "(SELECT value FROM json_each(:names))"
_FIND_RUNS: Final = f"SELECT run_id FROM runs WHERE run_id IN {_ASKED}"
_FIND_WORKFLOWS: Final = (
    f"SELECT workflow_id FROM runs WHERE namespace = :namespace AND is_current = 1 AND workflow_id IN {_ASKED}"
)
_FIND_REQUESTS: Final = (
    f"SELECT request_id FROM runs WHERE namespace = :namespace AND request_id <> '' AND request_id IN {_ASKED}"
)
