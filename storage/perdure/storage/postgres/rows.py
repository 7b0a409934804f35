"""Columns of the tables in PostgreSQL, and conversion of records into rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from perdure.storage.damage import about, damaged_run, implausible, labels_of, run_status, task_status
from perdure.storage.ports import CorruptData
from perdure.storage.rows import RUN_COLUMNS, EventRow, RunRow, TaskRow

TASK_SELECTED: Final = tuple(field.name for field in fields(TaskRow) if field.name != "output")
"""All columns but the output, which is in another table."""

EVENT_COLUMNS: Final = tuple(field.name for field in fields(EventRow))

_TYPES: Final = {"is_dormant": "boolean", "failure": "bytea", "priority": "bigint", "change": "bigint"} | {
    name: "bigint" for name in RUN_COLUMNS if name.endswith(("_ms", "_count", "_wraps"))
}
RUN_TYPES: Final = tuple(_TYPES.get(name, "text") for name in RUN_COLUMNS)

_STATUS, _LABELS = RUN_COLUMNS.index("status"), RUN_COLUMNS.index("labels")


OF_WORKFLOWS: Final = "runs.kind <> 'actor'"
OF_ACTORS: Final = "runs.kind = 'actor'"
"""Conditions of indexes, which a query must repeat to be answered by them."""


def run_of(values: Sequence[Any]) -> RunRow:
    """A run from values in the order of RUN_COLUMNS. A damaged one has `damage`."""
    made = list(values)
    status, labels = run_status(made[_STATUS]), labels_of(made[_LABELS]) if made[_LABELS] != "{}" else {}
    column = "status" if status is None else implausible(RUN_COLUMNS, values)
    if column:
        return damaged_run(RUN_COLUMNS, values, column)
    made[_STATUS], made[_LABELS] = status, labels
    return RunRow(*made)


def task_of(values: Sequence[Any]) -> TaskRow:
    """A task from values in the order of TASK_SELECTED. Raises CorruptData."""
    named = dict(zip(TASK_SELECTED, values, strict=True))
    status = task_status(named["status"])
    if column := "status" if status is None else implausible(TASK_SELECTED, values):
        place = f"{named['run_id']!r} {named['task_id']!r}"
        raise CorruptData(about("tasks", place, column), subject=named["run_id"])
    named["status"] = status
    return TaskRow(**named)


def event_of(values: Sequence[Any]) -> EventRow:
    """From values in the order of EVENT_COLUMNS. Raises CorruptData."""
    event = EventRow(*values)
    if column := implausible(EVENT_COLUMNS, values):
        raise CorruptData(about("events", f"{event.run_id!r} {event.sequence!r}", column), subject=event.run_id)
    return event
