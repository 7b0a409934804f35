"""Finds the blobs that a record refers to. The journal entry that stores the record also stores that its run uses them.

Nearly all records refer to no blob, and nothing is written for those.
"""

from __future__ import annotations

from collections.abc import Iterable

from perdure.engine.messages import RecordTask
from perdure.model import BlobRef, Failure, Payload
from perdure.storage.rows import ACTOR, RunRow
from perdure.storage.writes import UseBlobs, Write


def names_of(blobs: Iterable[BlobRef]) -> tuple[str, ...]:
    """Their names in the store, each once."""
    return tuple(sorted({blob.sha256 for blob in blobs}))


def use(run_id: str, names: tuple[str, ...], task_id: str = "") -> list[Write]:
    """The write that stores that a task, or the run itself, uses the blobs of these names; none if there are none."""
    return [UseBlobs(run_id, names, task_id)] if names else []


def user(row: RunRow, task_id: str) -> str:
    """The task that uses the blobs of its record, or "": only actors forget tasks, and the many tasks of a graph that
    pass the same blob on need one row together."""
    return task_id if row.kind == ACTOR else ""


def of_record(record: RecordTask, output: Payload | None) -> tuple[BlobRef, ...]:
    """The blobs of a task's output, or of the error that it failed with."""
    if output is not None and (output.blob is not None or output.refs):
        return output.blobs()
    return of_failure(record.failure) if record.failure is not None else ()


def of_failure(failure: Failure) -> tuple[BlobRef, ...]:
    """The blobs of an error and of its causes."""
    found: list[BlobRef] = []
    link: Failure | None = failure
    while link is not None:
        if link.error is not None:
            found += link.error.blobs()
        link = link.cause
    return tuple(found)
