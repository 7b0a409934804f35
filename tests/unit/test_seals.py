"""Checksums of rows: nothing that is stored is left out, and one flipped bit is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from itertools import combinations

import pytest

from perdure.storage.rows import RUN_COLUMNS, TaskRow
from perdure.storage.sqlite.seals import (
    EVENT,
    INPUT,
    RUN_CODE,
    RUN_FIXED,
    RUN_STATE,
    RUN_SUMMED,
    RUN_UNSEALED,
    TASK,
    UNSEALABLE,
    name_flipped,
    seal,
    seal_of_code,
    seal_of_event,
    seal_of_run,
    seal_of_state,
    seal_of_task,
)

SEALINGS: dict[str, tuple[tuple[str, ...], Callable[..., int]]] = {
    "run": (RUN_FIXED, seal_of_run),
    "state": (RUN_STATE, seal_of_state),
    "code": (RUN_CODE, seal_of_code),
    "task": (TASK, seal_of_task),
    "event": (EVENT, seal_of_event),
    "input": (INPUT, seal),
}
NUMBERS = {"seq", "attempt", "failures", "change", "output_bytes", "output_wraps", "sequence", "priority"}
BYTES = {"failure", "payload", "data"}


def value_of(column: str, number: int) -> str | int | bytes:
    if column in BYTES:
        return b"bytes %d" % number
    return number if column in NUMBERS or column.endswith("_ms") else f"text {number}"


@pytest.mark.parametrize("table", SEALINGS)
def test_a_seal_is_of_every_column_and_its_place(table: str) -> None:
    columns, sealing = SEALINGS[table]
    values = [value_of(column, number) for number, column in enumerate(columns)]
    seals = {sealing(*values)}
    for place, column in enumerate(columns):
        changed = list(values)
        changed[place] = value_of(column, 99)
        seals.add(sealing(*changed))
    for place, other in combinations(range(len(columns)), 2):
        if type(values[place]) is type(values[other]):
            changed = list(values)
            changed[place], changed[other] = changed[other], changed[place]
            seals.add(sealing(*changed))
    pairs = sum(type(one) is type(other) for one, other in combinations(values, 2))
    assert len(seals) == 1 + len(columns) + pairs


@pytest.mark.parametrize("table", ["run", "state", "task", "event"])
def test_a_value_of_another_type_has_no_seal(table: str) -> None:
    columns, sealing = SEALINGS[table]
    values = [value_of(column, number) for number, column in enumerate(columns)]
    for place, value in enumerate(values):
        for other in (1.5, "text" if isinstance(value, int | bytes) else b"bytes"):
            with pytest.raises(UNSEALABLE):
                sealing(*values[:place], other, *values[place + 1 :])


def test_what_is_missing_has_another_seal_than_nothing() -> None:
    state = ("r", "FAILED", 1, None, "", 0, None)
    assert len({seal_of_state(*state), seal_of_state(*state[:-1], b""), seal_of_state(*state[:3], 0, *state[4:])}) == 3


def test_only_other_modules_have_a_seal_of_their_own() -> None:
    assert seal_of_code("r", "") == 0
    assert seal_of_code("r", "a") not in (0, seal_of_code("q", "a"), seal_of_code("r", "b"))


def test_every_column_is_sealed_once() -> None:
    sealed = [*RUN_FIXED, *RUN_STATE, *RUN_CODE, *RUN_SUMMED, *RUN_UNSEALED]
    assert sorted(set(sealed)) == sorted({*RUN_COLUMNS, "is_current"})
    assert len(sealed) == len(set(sealed)) + 2, "but for the run id, which is in three seals"
    assert {*TASK, "output"} == {field.name for field in fields(TaskRow)}


@pytest.mark.parametrize(
    ("values", "column"),
    [(("xD", 5, b"\x00\xff"), "text"), (("xé", 5 ^ 1 << 40, b"\x00\xff"), "number"), (("xé", 5, b"\x01\xff"), "data")],
)
def test_one_flipped_bit_names_its_column(values: tuple[object, ...], column: str) -> None:
    columns = ("text", "number", "data")
    before = ("xé" if column != "text" else "xE", 5, b"\x00\xff")
    assert seal(*values) != seal(*before)
    assert name_flipped(columns, values, seal(*before)) == column


def test_more_than_one_flipped_bit_names_all_columns() -> None:
    assert name_flipped(("a", "b"), ("other", 1), seal("text", 1)) == "one of a, b"


def test_a_flipped_bit_of_the_checksum_is_told_apart() -> None:
    assert name_flipped(("a",), ("text",), seal("text") ^ 4) == "the checksum itself"
