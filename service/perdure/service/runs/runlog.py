"""The log lines of runs: one for each task and run that failed, at WARNING; the other ends at INFO or DEBUG.

A line is written after the commit. If the engine crashes between the two, the line is missing.
"""

from __future__ import annotations

import logging
from typing import Final

from perdure.engine.messages import RecordTask
from perdure.model import Failure, RunStatus, TaskStatus
from perdure.storage.rows import RunRow
from perdure.wire import decode_failure

log = logging.getLogger(__name__)

MESSAGE_CHARS_MAX: Final = 500
_LEVELS: Final = {
    RunStatus.FAILED: logging.WARNING,
    RunStatus.CANCELED: logging.INFO,
    RunStatus.SUCCESSFUL: logging.DEBUG,
}


def log_task(row: RunRow, record: RecordTask) -> None:
    """A task or an attempt of it failed."""
    failure = record.failure
    if failure is None or record.status not in (TaskStatus.FAILED, TaskStatus.BACKING_OFF):
        return
    has_failed = record.status is TaskStatus.FAILED
    log.log(
        logging.WARNING if has_failed else logging.INFO,
        "task failed" if has_failed else "attempt failed and will be repeated",
        extra={**_ids(row), "task_id": record.task_id, "attempt": record.attempt, "error": _text(failure)},
    )


def log_end(row: RunRow) -> None:
    """A run is over."""
    level = _LEVELS[row.status]
    if not log.isEnabledFor(level):
        return
    fields: dict[str, object] = {**_ids(row), "status": str(row.status)}
    if row.resume_count:
        fields["resumes"] = row.resume_count
    if row.start_ms is not None and row.end_ms is not None:
        # The times at which it ended before and was resumed are not stored.
        name = "took_s_since_first_start" if row.resume_count else "took_s"
        fields[name] = (row.end_ms - row.start_ms) / 1000
    if row.failure is not None:
        failure = decode_failure(row.failure)
        fields |= {"task_id": failure.task_id, "error": _text(failure)}
    log.log(level, "run ended", extra=fields)


def _ids(row: RunRow) -> dict[str, str]:
    return {"namespace": row.namespace, "workflow_id": row.workflow_id, "run_id": row.run_id}


def _text(failure: Failure) -> str:
    """The failure on one line, so that a text of the user's cannot look like lines of the log."""
    return f"{failure.type}: {failure.message[:MESSAGE_CHARS_MAX]!r}"
