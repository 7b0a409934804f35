"""Checksums of the rows of an embedded database, which show flipped bits.

SQLite has no checksums (PostgreSQL has checksums of pages), and most flipped bits leave a readable row: a text with
another letter, a number with another digit. A seal is the CRC-32 of the values of some columns. It is computed on
every write and compared on every read.

The numbers of a row are packed, its texts are joined by NULs, which no text contains, and the CRC-32 is taken of both
at once. Commits compute several seals per row, so each table has its own function, without a loop over columns.

Columns that are written together have one seal. Columns of a run that change one by one, by statements that do not
read the row first, have a weighted sum. Each change adds the difference, so a later change never hides damage.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final
from zlib import crc32

from perdure.storage.rows import GRAPH

RUN_FIXED: Final = (
    "run_id", "namespace", "workflow_id", "spec_key", "create_ms", "name", "request_id", "request_digest", "labels",
    "metadata", "queue", "priority", "created_by", "kind",
)  # fmt: skip
"""Columns of a run that never change."""
RUN_STATE: Final = ("run_id", "status", "update_ms", "end_ms", "output_task", "output_wraps", "failure")
"""Columns that every state change writes."""
RUN_CODE: Final = ("run_id", "code_version")
"""Columns that resuming with other modules writes."""
RUN_SUMMED: Final = {"is_current": 3, "is_dormant": 5, "resume_count": 7, "change": 11, "start_ms": 13}
"""Columns that change one by one, with their weights in the sum. Weights are odd, so that every bit has an effect."""
RUN_UNSEALED: Final = ("owner",)
"""An embedded database has one engine, which owns all runs, whatever this column says."""
TASK: Final = (
    "run_id", "task_id", "seq", "status", "attempt", "failures", "wake_ms", "started_ms", "ended_ms", "change",
    "output_bytes", "output_blob", "spec_key", "failure",
)  # fmt: skip
EVENT: Final = ("run_id", "sequence", "event_id", "key", "arrived_ms", "payload")
INPUT: Final = ("run_id", "name", "data")
BLOB_USE: Final = ("run_id", "task_id", "sha256")
BLOB_MARK: Final = ("sha256", "change")
MAIL: Final = ("run_id", "kind", "data")
TOMBSTONE: Final = ("key", "data", "expires_ms")
FUNCTION: Final = ("name", "version", "info", "announce_ms")

SEARCHED_BYTES_MAX: Final = 4096
"""The most bytes in which a flipped bit is searched: that takes a checksum per bit."""
INTEGER_BITS: Final = 64
UNSEALABLE: Final = (TypeError, ValueError, struct.error)
"""Errors for values of another type than sealed ones have."""
_ENCODING: Final = ("utf-8", "surrogateescape")
_pack_2, _pack_4, _pack_9 = (struct.Struct(f"<{count}q").pack for count in (2, 4, 9))


def seal_of_run(
    run_id: str, namespace: str, workflow_id: str, spec_key: str, create_ms: int, name: str, request_id: str,
    request_digest: str, labels: str, metadata: str, queue: str, priority: int, created_by: str, kind: str,
) -> int:  # fmt: skip
    """The seal of RUN_FIXED. Raises one of UNSEALABLE for a value of another type. The kind is left out if it is that
    of rows that were sealed before there was one, so that their seals stay valid."""
    texts: tuple[str, ...] = (
        run_id, namespace, workflow_id, spec_key, name, request_id, request_digest, labels, metadata, queue, created_by,
    )  # fmt: skip
    if kind != GRAPH:
        texts += (kind,)
    return crc32(_pack_2(create_ms, priority) + "\0".join(texts).encode(*_ENCODING))


def seal_of_state(
    run_id: str, status: str, update_ms: int, end_ms: int | None, output_task: str, output_wraps: int,
    failure: bytes | None,
) -> int:  # fmt: skip
    """The seal of RUN_STATE. Raises one of UNSEALABLE for a value of another type."""
    numbers = _pack_4(
        update_ms, -1 if end_ms is None else end_ms, output_wraps, -1 if failure is None else crc32(failure)
    )
    return crc32(numbers + "\0".join((run_id, status, output_task)).encode(*_ENCODING))


def seal_of_code(run_id: str, code_version: str) -> int:
    """The seal of RUN_CODE. It is 0 for the many runs that were never resumed with other modules."""
    return 0 if code_version == "" else seal(run_id, code_version)


def seal_of_task(
    run_id: str, task_id: str, seq: int, status: str, attempt: int, failures: int, wake_ms: int | None,
    started_ms: int | None, ended_ms: int | None, change: int, output_bytes: int, output_blob: str, spec_key: str,
    failure: bytes | None,
) -> int:  # fmt: skip
    """The seal of TASK. Raises one of UNSEALABLE for a value of another type."""
    numbers = _pack_9(
        seq,
        attempt,
        failures,
        -1 if wake_ms is None else wake_ms,
        -1 if started_ms is None else started_ms,
        -1 if ended_ms is None else ended_ms,
        change,
        output_bytes,
        -1 if failure is None else crc32(failure),
    )
    return crc32(numbers + "\0".join((run_id, task_id, status, output_blob, spec_key)).encode(*_ENCODING))


def seal_of_event(run_id: str, sequence: int, event_id: str, key: str, arrived_ms: int, payload: bytes) -> int:
    """The seal of EVENT. Raises one of UNSEALABLE for a value of another type."""
    numbers = _pack_4(sequence, arrived_ms, crc32(payload), 0)
    return crc32(numbers + "\0".join((run_id, event_id, key)).encode(*_ENCODING))


def seal_of_use(run_id: str, task_id: str, sha256: str) -> int:
    """The seal of BLOB_USE. A task is left out if there is none, so that the seals of rows stay valid that were sealed
    before tasks used blobs."""
    return seal(run_id, task_id, sha256) if task_id != "" else seal(run_id, sha256)


def seal(*values: object) -> int:
    """The seal of a row of any other table. Bytes enter by their own checksum."""
    texts = [f"{crc32(value) if type(value) is bytes else value}" for value in values]
    return crc32("\0".join(texts).encode(*_ENCODING))


def seal_of_value(data: bytes | None) -> int | None:
    """The checksum of a value that is read without the rest of its row."""
    return None if data is None else crc32(data)


def name_flipped(
    columns: Sequence[str], values: Sequence[object], expected: object, seal: Callable[..., int] = seal
) -> str:
    """The damaged column, if one flipped bit explains the damage; otherwise all columns that it may be."""
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
