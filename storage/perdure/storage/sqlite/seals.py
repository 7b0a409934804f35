"""Checksums of the rows of an embedded database, so that a bit that flipped on the disk is noticed.

SQLite has no checksums of its own (PostgreSQL has those of its pages), and most flipped bits leave a row that can still
be read: a text with another letter, a number with another digit. A seal is the CRC-32 of the values of some columns. It
is computed when they are written and compared whenever they are read.

Columns that are written together have one seal. Those of a run which are changed one by one, by statements that do not
read the row before, have a sum: each change adds the difference, so that damage is never covered up by a later change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from zlib import crc32

RUN_FIXED: Final = (
    "run_id", "namespace", "workflow_id", "spec_key", "create_ms", "name", "request_id", "request_digest", "labels",
    "metadata", "queue", "priority", "created_by",
)  # fmt: skip
"""Columns of a run that never change."""
RUN_STATE: Final = ("run_id", "status", "update_ms", "end_ms", "output_task", "output_wraps", "failure")
"""Columns that every change of its state writes."""
RUN_CODE: Final = ("run_id", "code_version")
"""Columns that resuming with other modules writes."""
RUN_SUMMED: Final = {"is_current": 3, "is_dormant": 5, "resume_count": 7, "change": 11, "start_ms": 13}
"""Columns that change one by one, and what each is multiplied with: odd, so that every bit of it is in the sum."""
RUN_UNSEALED: Final = ("owner",)
"""An embedded database has one engine, which owns all runs whatever is written there."""
TASK: Final = (
    "run_id", "task_id", "seq", "status", "attempt", "failures", "wake_ms", "started_ms", "ended_ms", "change",
    "output_bytes", "output_blob", "spec_key", "failure",
)  # fmt: skip
EVENT: Final = ("run_id", "sequence", "event_id", "key", "arrived_ms", "payload")
INPUT: Final = ("run_id", "name", "data")
BLOB_USE: Final = ("run_id", "sha256")
BLOB_MARK: Final = ("sha256", "change")
MAIL: Final = ("run_id", "kind", "data")

SEARCHED_BYTES_MAX: Final = 4096
"""Of values in which a flipped bit is looked for: it takes a checksum for each of their bits."""
INTEGER_BITS: Final = 64


def seal(*values: object) -> int:
    """The checksum of values of one row. Bytes enter by their own checksum, so that large ones cost little."""
    return crc32(ascii(tuple([crc32(value) if type(value) is bytes else value for value in values])).encode())


def seal_of_value(data: bytes | None) -> int | None:
    """The checksum of a value that is read without the rest of its row."""
    return None if data is None else crc32(data)


def sum_of(values: Mapping[str, Any]) -> int:
    """The sum of those columns of a run that change one by one."""
    return sum(factor * (values[name] or 0) for name, factor in RUN_SUMMED.items())


def name_flipped(columns: Sequence[str], values: Sequence[object], expected: object) -> str:
    """The column that differs from what was sealed, if one flipped bit explains it; otherwise all that it may be."""
    if isinstance(expected, int) and (seal(*values) ^ expected).bit_count() == 1:
        return "the checksum itself"
    size = sum(_size(value) for value in values)
    if size <= SEARCHED_BYTES_MAX:
        for place, name in enumerate(columns):
            for value in _with_one_bit_flipped(values[place]):
                if seal(*values[:place], value, *values[place + 1 :]) == expected:
                    return name
    return "one of " + ", ".join(columns)


def _size(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))
    return len(value) if isinstance(value, bytes) else INTEGER_BITS // 8


def _with_one_bit_flipped(value: object) -> Iterator[object]:
    match value:
        case bool() | None:
            return
        case int():
            for bit in range(INTEGER_BITS - 1):
                yield value ^ 1 << bit
        case str():
            data = value.encode("utf-8", "surrogateescape")
            for flipped in _flips(data):
                yield flipped.decode("utf-8", "surrogateescape")
        case bytes():
            yield from _flips(value)


def _flips(data: bytes) -> Iterator[bytes]:
    for bit in range(len(data) * 8):
        made = bytearray(data)
        made[bit // 8] ^= 1 << bit % 8
        yield bytes(made)
