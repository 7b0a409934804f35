"""Checksums of rows: nothing that is stored is left out, and one flipped bit is named."""

from __future__ import annotations

from dataclasses import fields

import pytest

from perdure.storage.rows import RUN_COLUMNS, TaskRow
from perdure.storage.sqlite.seals import (
    RUN_CODE,
    RUN_FIXED,
    RUN_STATE,
    RUN_SUMMED,
    RUN_UNSEALED,
    TASK,
    name_flipped,
    seal,
)


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
