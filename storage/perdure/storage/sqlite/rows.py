"""How rows of SQLite become values, and what of them is not what was written (see `seals`, `damage`)."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

from perdure.model import RunStatus, TaskStatus
from perdure.storage.damage import about, damaged_run, implausible, labels_of, run_status, shown, task_status
from perdure.storage.ports import CorruptData
from perdure.storage.rows import RUN_COLUMNS, EventRow, RunRow, TaskRow
from perdure.storage.sqlite.runs import DORMANT, LABELS, STATUS, code_of, fixed_of, state_of
from perdure.storage.sqlite.seals import (
    EVENT,
    RUN_CODE,
    RUN_FIXED,
    RUN_STATE,
    RUN_SUMMED,
    TASK,
    name_flipped,
    seal,
    sum_of,
)
from perdure.storage.sqlite.write import TASK_COLUMNS

RUN_SELECTED: Final = (*RUN_COLUMNS, "is_current", "fixed_seal", "state_seal", "code_seal", "sum_seal")
TASK_SELECTED: Final = (*(name for name in TASK_COLUMNS if name != "output"), "seal")
EVENT_SELECTED: Final = (
    "run_id", "sequence", "event_id", "key", "payload", "arrived_ms", "consumed_by", "seal", "is_taken",
)  # fmt: skip

_COUNT: Final = len(RUN_COLUMNS)
_RESUMES, _CHANGE, _START = map(RUN_COLUMNS.index, ("resume_count", "change", "start_ms"))
_CURRENT: Final = _COUNT
_CURRENT_X, _DORMANT_X, _RESUMES_X, _CHANGE_X, _START_X = RUN_SUMMED.values()
_task_sealed: Final = itemgetter(*map(TASK_SELECTED.index, TASK))
_TASK_FIELDS: Final = TASK_SELECTED[:-1]


def run_of(values: Sequence[Any]) -> RunRow:
    """From RUN_SELECTED. One that is damaged has `damage`."""
    *_, fixed_seal, state_seal, code_seal, sum_seal = values
    try:
        is_good = (
            (fixed_seal is None or fixed_seal == seal(*fixed_of(values)))
            and (state_seal is None or state_seal == seal(*state_of(values)))
            and (code_seal is None or code_seal == seal(*code_of(values)))
            and (
                sum_seal is None
                or sum_seal
                == _CURRENT_X * values[_CURRENT]
                + _DORMANT_X * values[DORMANT]
                + _RESUMES_X * values[_RESUMES]
                + _CHANGE_X * values[_CHANGE]
                + _START_X * (values[_START] or 0)
            )
        )
        if is_good and fixed_seal is not None and state_seal is not None:
            made = list(values[:_COUNT])
            made[STATUS] = RunStatus(made[STATUS])
            made[LABELS] = _labels(made[LABELS])
            made[DORMANT] = bool(made[DORMANT])
            return RunRow(*made)
    except (TypeError, ValueError):
        pass
    return _doubtful_run(values)


def _labels(text: str) -> Any:
    labels = {} if text == "{}" else labels_of(text)
    if labels is None:
        raise ValueError
    return labels


def _doubtful_run(values: Sequence[Any]) -> RunRow:
    """One that has no seals, or other ones."""
    column = damaged_column_of_run(values)
    if column:
        return damaged_run(RUN_COLUMNS, values[:_COUNT], column)
    made = list(values[:_COUNT])
    made[STATUS] = RunStatus(made[STATUS])
    made[LABELS] = _labels(made[LABELS])
    made[DORMANT] = bool(made[DORMANT])
    return RunRow(*made)


def damaged_column_of_run(values: Sequence[Any]) -> str:
    """Of RUN_SELECTED; "" if all is as it was written."""
    if run_status(values[STATUS]) is None:
        return "status"
    if column := implausible(RUN_SELECTED[: _COUNT + 1], values[: _COUNT + 1]):
        return column
    *_, fixed_seal, state_seal, code_seal, sum_seal = values
    for columns, sealed, expected in (
        (RUN_FIXED, fixed_of(values), fixed_seal),
        (RUN_STATE, state_of(values), state_seal),
        (RUN_CODE, code_of(values), code_seal),
    ):
        if expected is not None and seal(*sealed) != expected:
            return name_flipped(columns, sealed, expected)
    summed = sum_of(dict(zip(RUN_SELECTED, values, strict=True)))
    if sum_seal is not None and summed != sum_seal:
        return "one of " + ", ".join(RUN_SUMMED)
    return ""


def task_of(values: Sequence[Any]) -> TaskRow:
    """From TASK_SELECTED. Raises CorruptData."""
    expected = values[-1]
    is_good = expected is not None and expected == seal(*_task_sealed(values))
    if not is_good and (column := damaged_column_of_task(values)):
        raise corrupt("tasks", values[0], values[1], column)
    named = dict(zip(_TASK_FIELDS, values[:-1], strict=True))
    named["status"] = TaskStatus(named["status"])
    return TaskRow(**named)


def damaged_column_of_task(values: Sequence[Any]) -> str:
    """Of TASK_SELECTED."""
    if task_status(values[TASK_SELECTED.index("status")]) is None:
        return "status"
    if column := implausible(_TASK_FIELDS, values[:-1]):
        return column
    sealed, expected = _task_sealed(values), values[-1]
    return "" if expected is None or seal(*sealed) == expected else name_flipped(TASK, sealed, expected)


def event_of(values: Sequence[Any]) -> EventRow:
    """From EVENT_SELECTED. Raises CorruptData."""
    if column := damaged_column_of_event(values):
        raise corrupt("events", values[0], values[1], column)
    return EventRow(*values[:-2])


def damaged_column_of_event(values: Sequence[Any]) -> str:
    """Of EVENT_SELECTED."""
    if column := implausible(EVENT_SELECTED[:-2], values[:-2]):
        return column
    run_id, sequence, event_id, key, payload, arrived_ms, consumed_by, expected, is_taken = values
    if is_taken != (consumed_by != ""):
        return "consumed_by"
    sealed = (run_id, sequence, event_id, key, arrived_ms, payload)
    return "" if expected is None or seal(*sealed) == expected else name_flipped(EVENT, sealed, expected)


def corrupt(table: str, run_id: object, row: object, column: str) -> CorruptData:
    """What is raised for a row that belongs to a run."""
    place = f"{run_id!r} {row!r}" if row != "" else f"{run_id!r}"
    return CorruptData(about(table, place, column), subject=shown(run_id))
