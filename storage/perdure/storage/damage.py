"""Damaged rows: finding values that no version can have written, and reading the rest. Common to all databases.

A run whose row is damaged has FAILED, and `RunRow.damage` says why. Listings contain it like any other run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Final

from perdure.model import RunStatus, TaskStatus
from perdure.storage.rows import RunRow

MOMENT_MS_MAX: Final = 253_402_300_799_999
"""The end of the year 9999, the last moment that messages can hold."""
NUMBER_MAX: Final = (1 << 63) - 1
FOUND_MAX: Final = 50
"""The most findings of each kind that are reported: a lost page makes thousands."""

_RUN_STATUS: Final = {status.value: status for status in RunStatus}
_TASK_STATUS: Final = {status.value: status for status in TaskStatus}
_OPTIONAL: Final = frozenset({"start_ms", "end_ms", "wake_ms", "started_ms", "ended_ms", "failure"})
SMALL_MAX: Final = (1 << 31) - 1
_SMALL: Final = frozenset({"priority", "resume_count", "output_wraps", "attempt", "failures"})
"""Numbers that messages hold in 32 bits."""
_NUMBERS: Final = _SMALL | {"change", "seq", "output_bytes", "sequence"}
_BYTES: Final = frozenset({"failure", "payload", "data", "info"})
_FLAGS: Final = frozenset({"is_dormant", "is_current"})
_UNBOUNDED: Final = frozenset({"wake_ms"})
"""Times that users choose: one in the far future is not damage."""


def implausible(columns: Sequence[str], values: Sequence[Any]) -> str:
    """The first column whose value no version can have written, "" if there is none."""
    for name, value in zip(columns, values, strict=True):
        if not _is_plausible(name, value):
            return name
    return ""


def _is_plausible(name: str, value: Any) -> bool:
    if value is None:
        return name in _OPTIONAL
    if name in _BYTES:
        return type(value) is bytes
    if name in _FLAGS:
        return value in (0, 1)
    if name.endswith("_ms"):
        return type(value) is int and 0 <= value <= (NUMBER_MAX if name in _UNBOUNDED else MOMENT_MS_MAX)
    if name in _NUMBERS:
        least = -SMALL_MAX if name == "priority" else 0
        return type(value) is int and least <= value <= (SMALL_MAX if name in _SMALL else NUMBER_MAX)
    if type(value) is not str or not is_text(value):
        return False
    return name != "labels" or labels_of(value) is not None


def is_text(value: str) -> bool:
    """Whether it is valid Unicode. Bytes that are not UTF-8 are read from a database as lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def labels_of(text: str) -> Mapping[str, str] | None:
    """The labels in a stored text; None: labels are never stored like this."""
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        return None
    return labels


def damaged_labels(written: Set[tuple[Any, ...]], stored: Set[tuple[Any, ...]]) -> Iterator[str]:
    """The differences between the labels table, which is an index, and the labels in the rows of runs (`written`), as
    sentences. Both sets hold (namespace, key, value, run id)."""
    for *_, run_id in sorted(written - stored, key=repr):
        yield f"table labels: one of run {shown(run_id)} is missing"
    for label in sorted(stored - written, key=repr):
        yield about("labels", json.dumps(label), "one of namespace, key, value, run_id")


def run_status(value: object) -> RunStatus | None:
    return _RUN_STATUS.get(value) if isinstance(value, str) else None


def task_status(value: object) -> TaskStatus | None:
    return _TASK_STATUS.get(value) if isinstance(value, str) else None


def about(table: str, row: object, column: str) -> str:
    """A sentence that names the damaged value."""
    return f"table {table}, row {shown(row)}: the value of {column} is not what was written"


def of_missing_graph(key: str) -> str:
    return f"table blob_uses: there are rows of graph {shown(key)}, which is not in table specs"


def of_unknown_kind(run_id: object, kind: object) -> str:
    """A sentence about a run whose kind this version does not know."""
    return f"table runs, row {shown(run_id)}: this version of Perdure does not know the kind {shown(kind)}"


def shown(value: object) -> str:
    """An arbitrary value as a short printable text."""
    text = value if isinstance(value, str) and value.isprintable() else ascii(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def damaged_run(columns: Sequence[str], values: Sequence[Any], column: str) -> RunRow:
    """The run with the values that can still be read. It has FAILED, because it cannot go on."""
    named = {
        name: value if _is_plausible(name, value) else _instead(name, value)
        for name, value in zip(columns, values, strict=True)
        if name not in ("status", "failure", "labels", "is_dormant")
    }
    return RunRow(
        status=RunStatus.FAILED,
        labels=_readable_labels(values[list(columns).index("labels")]),
        damage=about("runs", values[list(columns).index("run_id")], column),
        **named,
    )


def _readable_labels(value: object) -> Mapping[str, str]:
    labels = labels_of(value) if isinstance(value, str) else None
    return {shown(key): shown(text) for key, text in labels.items()} if labels is not None else {}


def _instead(name: str, value: object) -> Any:
    if name in _OPTIONAL:
        return None
    if name.endswith("_ms") or name in _NUMBERS:
        return 0
    return shown(value)
