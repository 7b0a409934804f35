"""Finds the field of an entry that no store can take, for the text of an error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final

from perdure.storage.ports import Entry

INTEGER_MAX: Final = 2**63 - 1
BYTES_MAX: Final = 10**9
"""The largest field that every store takes: SQLite's limit, which is below PostgreSQL's."""

_NEVER: Final = re.compile("[\0\ud800-\udfff]")


def fault_of(entries: Sequence[Entry]) -> str:
    """The first field with a NUL, half of a surrogate pair, an integer beyond 64 bits, or too many bytes, such as
    "PutTask.row.task_id"; "" if there is none."""
    for entry in entries:
        for write in entry:
            if fault := _fault(write, type(write).__name__):
                return fault
    return ""


def _fault(value: Any, where: str) -> str:
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, str):
        return where if _NEVER.search(value) is not None or len(value) > BYTES_MAX else ""
    if isinstance(value, bytes):
        return where if len(value) > BYTES_MAX else ""
    if isinstance(value, int):
        return "" if -INTEGER_MAX - 1 <= value <= INTEGER_MAX else where
    if isinstance(value, Mapping):
        return next((where for item in value.items() for part in item if _fault(part, where)), "")
    if isinstance(value, tuple):
        return next((found for part in value if (found := _fault(part, where))), "")
    if is_dataclass(value):
        inner = (_fault(getattr(value, field.name), f"{where}.{field.name}") for field in fields(value))
        return next((found for found in inner if found), "")
    return ""
