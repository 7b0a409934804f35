"""Converts rows of SQLite into values, and finds damaged ones (see `seals`, `damage`)."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

from perdure.model import TaskStatus
from perdure.storage.damage import about, damaged_run, implausible, labels_of, run_status, shown, task_status
from perdure.storage.ports import CorruptData
from perdure.storage.rows import RUN_COLUMNS, EventRow, RunRow, TaskRow
from perdure.storage.sqlite.runs import DORMANT, LABELS, STATUS, code_of, fixed_of, state_of, sum_seal
from perdure.storage.sqlite.seals import (
    EVENT,
    RUN_CODE,
    RUN_FIXED,
    RUN_STATE,
    RUN_SUMMED,
    TASK,
    UNSEALABLE,
    name_flipped,
    seal_of_code,
    seal_of_event,
    seal_of_run,
    seal_of_state,
    seal_of_task,
)
from perdure.storage.sqlite.write import TASK_COLUMNS

RUN_SELECTED: Final = (*RUN_COLUMNS, "is_current", "fixed_seal", "state_seal", "code_seal", "sum_seal")
TASK_SELECTED: Final = (*(name for name in TASK_COLUMNS if name != "output"), "seal")
EVENT_SELECTED: Final = (
    "run_id", "sequence", "event_id", "key", "payload", "arrived_ms", "consumed_by", "seal", "is_taken",
)  # fmt: skip

_COUNT: Final = len(RUN_COLUMNS)
_task_sealed: Final = itemgetter(*map(TASK_SELECTED.index, TASK))
_TASK_FIELDS: Final = TASK_SELECTED[:-1]


def run_of(values: Sequence[Any]) -> RunRow:
    """A run from RUN_SELECTED. A damaged one has `damage`."""
    fixed_seal, state_seal, code_seal, summed = values[_COUNT + 1 :]
    try:
        is_good = (
            (fixed_seal is None or fixed_seal == seal_of_run(*fixed_of(values)))
            and (state_seal is None or state_seal == seal_of_state(*state_of(values)))
            and (code_seal is None or code_seal == seal_of_code(*code_of(values)))
            and (summed is None or summed == sum_seal(values, values[_COUNT]))
        )
        if is_good and fixed_seal is not None and state_seal is not None:
            return _made(values)
    except UNSEALABLE:
        pass
    return _doubtful_run(values)


def _labels(text: str) -> Any:
    labels = {} if text == "{}" else labels_of(text)
    if labels is None:
        raise ValueError
    return labels


def _doubtful_run(values: Sequence[Any]) -> RunRow:
    """A run without seals, or whose seals differ."""
    column = damaged_column_of_run(values)
    if column:
        return damaged_run(RUN_COLUMNS, values[:_COUNT], column)
    return _made(values)


def _made(values: Sequence[Any]) -> RunRow:
    """Raises ValueError if the status or the labels are damaged."""
    made = [*values[:_COUNT]]
    made[STATUS] = run_status(made[STATUS])
    if made[STATUS] is None:
        raise ValueError
    made[LABELS] = _labels(made[LABELS])
    made[DORMANT] = bool(made[DORMANT])
    return RunRow(*made)


def damaged_column_of_run(values: Sequence[Any]) -> str:
    """The damaged column of RUN_SELECTED; "" if there is none."""
    if run_status(values[STATUS]) is None:
        return "status"
    if column := implausible(RUN_SELECTED[: _COUNT + 1], values[: _COUNT + 1]):
        return column
    *_, fixed_seal, state_seal, code_seal, summed = values
    for columns, sealed, expected, sealing in (
        (RUN_FIXED, fixed_of(values), fixed_seal, seal_of_run),
        (RUN_STATE, state_of(values), state_seal, seal_of_state),
        (RUN_CODE, code_of(values), code_seal, seal_of_code),
    ):
        if expected is not None and sealing(*sealed) != expected:
            return name_flipped(columns, sealed, expected, sealing)
    if summed is not None and summed != sum_seal(values, values[_COUNT]):
        return "one of " + ", ".join(RUN_SUMMED)
    return ""


def task_of(values: Sequence[Any]) -> TaskRow:
    """A task from TASK_SELECTED. Raises CorruptData."""
    expected = values[-1]
    try:
        is_good = expected is not None and expected == seal_of_task(*_task_sealed(values))
    except UNSEALABLE:
        is_good = False
    if not is_good and (column := damaged_column_of_task(values)):
        raise corrupt("tasks", values[0], values[1], column)
    named = dict(zip(_TASK_FIELDS, values[:-1], strict=True))
    named["status"] = TaskStatus(named["status"])
    return TaskRow(**named)


def damaged_column_of_task(values: Sequence[Any]) -> str:
    """The damaged column of TASK_SELECTED; "" if there is none."""
    if task_status(values[TASK_SELECTED.index("status")]) is None:
        return "status"
    if column := implausible(_TASK_FIELDS, values[:-1]):
        return column
    sealed, expected = _task_sealed(values), values[-1]
    is_good = expected is None or seal_of_task(*sealed) == expected
    return "" if is_good else name_flipped(TASK, sealed, expected, seal_of_task)


def event_of(values: Sequence[Any]) -> EventRow:
    """An event from EVENT_SELECTED. Raises CorruptData."""
    if column := damaged_column_of_event(values):
        raise corrupt("events", values[0], values[1], column)
    return EventRow(*values[:-2])


def damaged_column_of_event(values: Sequence[Any]) -> str:
    """The damaged column of EVENT_SELECTED; "" if there is none."""
    if column := implausible(EVENT_SELECTED[:-2], values[:-2]):
        return column
    run_id, sequence, event_id, key, payload, arrived_ms, consumed_by, expected, is_taken = values
    if is_taken != (consumed_by != ""):
        return "consumed_by"
    sealed = (run_id, sequence, event_id, key, arrived_ms, payload)
    is_good = expected is None or seal_of_event(*sealed) == expected
    return "" if is_good else name_flipped(EVENT, sealed, expected, seal_of_event)


def corrupt(table: str, run_id: object, row: object, column: str) -> CorruptData:
    """The error for a damaged row that belongs to a run."""
    place = f"{run_id!r} {row!r}" if row != "" else f"{run_id!r}"
    return CorruptData(about(table, place, column), subject=shown(run_id))
