"""Columns of PostgreSQL's tables, and how records become rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from perdure.model import RunStatus, TaskStatus
from perdure.storage.rows import RunRow, TaskRow

RUN_COLUMNS: Final = tuple(field.name for field in fields(RunRow))
TASK_COLUMNS: Final = tuple(field.name for field in fields(TaskRow) if field.name != "output")
"""All but the output, which has a table of its own."""

_TYPES: Final = {"is_dormant": "boolean", "failure": "bytea", "priority": "bigint", "change": "bigint"} | {
    name: "bigint" for name in RUN_COLUMNS if name.endswith(("_ms", "_count", "_wraps"))
}
RUN_TYPES: Final = tuple(_TYPES.get(name, "text") for name in RUN_COLUMNS)

_STATUS, _LABELS = RUN_COLUMNS.index("status"), RUN_COLUMNS.index("labels")
_RUN_STATUS: Final = {status.value: status for status in RunStatus}
_TASK_STATUS: Final = {status.value: status for status in TaskStatus}


def run_of(values: Sequence[Any]) -> RunRow:
    """From values in the order of RUN_COLUMNS."""
    made = list(values)
    made[_STATUS] = _RUN_STATUS[made[_STATUS]]
    made[_LABELS] = json.loads(made[_LABELS]) if made[_LABELS] != "{}" else {}
    return RunRow(*made)


def task_of(values: Sequence[Any]) -> TaskRow:
    """From values in the order of TASK_COLUMNS."""
    named = dict(zip(TASK_COLUMNS, values, strict=True))
    named["status"] = _TASK_STATUS[named["status"]]
    return TaskRow(**named)
