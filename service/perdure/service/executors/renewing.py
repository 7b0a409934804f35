"""An executor in front of another one: makes sure that the blobs of late reports still exist.

A blob that no run uses yet is kept for a grace period after it was put. Nearly all attempts report within that time
after they were submitted. A worker may be paused between storing a value and reporting it, for longer than the grace
period. So the blobs of a late report are renewed before the report is passed on. If one of them is gone, the attempt
is reported as lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from perdure.engine.messages import AttemptLost, AttemptStarted, TaskFailed, TaskSucceeded
from perdure.model import BlobRef
from perdure.service.common.uses import of_failure
from perdure.service.executors.port import (
    Attempt,
    ContinuationReturned,
    Executor,
    Functions,
    Report,
    Reports,
    ValueReader,
    Waiting,
    forever,
)
from perdure.storage.ports import BlobStore, StorageError

log = logging.getLogger(__name__)

PAUSE_FIRST_S: Final = 0.2
PAUSE_MAX_S: Final = 5.0


class RenewingExecutor:
    """Implements Executor. Reports of attempts that were submitted less than `late_s` ago are passed on at once.
    `named_by` finds the blobs that a report of a continuation names."""

    def __init__(
        self,
        inner: Executor,
        blobs: BlobStore,
        *,
        late_s: float,
        elapsed_s: Callable[[], float],
        named_by: Callable[[ContinuationReturned], Iterable[BlobRef]],
    ) -> None:
        self._inner = inner
        self._blobs = blobs
        self._late_s = late_s
        self._elapsed_s = elapsed_s
        self._named_by = named_by
        self._since_s: dict[tuple[str, str, int], float] = {}
        self._report: Callable[[Reports], None] = lambda _reports: None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(
        self, report: Callable[[Reports], None], values: ValueReader, holds_for_s: Callable[[], float] = forever
    ) -> None:
        self._report = report
        await self._inner.start(self._receive, values, holds_for_s)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._inner.stop()

    def submit(self, attempt: Attempt) -> None:
        self._since_s.setdefault(attempt.key, self._elapsed_s())
        self._inner.submit(attempt)

    def cancel(self, run_id: str, task_id: str, number: int) -> None:
        self._since_s.pop((run_id, task_id, number), None)
        self._inner.cancel(run_id, task_id, number)

    def waiting(self, run_id: str, task_id: str, number: int) -> Waiting | None:
        return self._inner.waiting(run_id, task_id, number)

    def loading(self, run_id: str, task_id: str, number: int) -> str:
        return self._inner.loading(run_id, task_id, number)

    def python_versions(self) -> frozenset[str]:
        return self._inner.python_versions()

    def functions(self) -> Functions:
        return self._inner.functions()

    # -------------------------------------------------------------------------- reports

    def _receive(self, reports: Reports) -> None:
        early_s = self._elapsed_s() - self._late_s
        late: list[int] = []
        for place, (run_id, report) in enumerate(reports):
            if isinstance(report, AttemptStarted):
                continue
            since_s = self._since_s.pop((run_id, report.task_id, report.attempt), None)
            if (since_s is None or since_s < early_s) and self._blobs_of(report):
                late.append(place)
        if not late:
            self._report(reports)
            return
        if rest := [pair for place, pair in enumerate(reports) if place not in late]:
            self._report(rest)
        for run_id, report in map(reports.__getitem__, late):
            task = asyncio.create_task(self._look_after(run_id, report), name="late-report")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _look_after(self, run_id: str, report: Report) -> None:
        """Renew the blobs of a late report, then pass it on. Waits until the blob store answers."""
        pause_s = PAUSE_FIRST_S
        while True:
            try:
                gone = [blob.sha256 for blob in self._blobs_of(report) if await self._blobs.renew(blob.sha256) is None]
                break
            except StorageError as error:
                log.warning("blobs of a late report not renewed, trying again", extra={"error": str(error)})
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_MAX_S)
        if gone:
            log.warning("a report came after what it names was removed", extra={"run_id": run_id, "blobs": gone})
            reason = f"its report came so late that what it had stored was removed: {', '.join(gone)}"
            report = AttemptLost(report.task_id, report.attempt, reason, report.at_ms)
        self._report([(run_id, report)])

    def _blobs_of(self, report: Report) -> tuple[BlobRef, ...]:
        match report:
            case TaskSucceeded():
                return report.output.blobs()
            case TaskFailed():
                return of_failure(report.failure)
            case ContinuationReturned():
                return tuple(self._named_by(report))
            case _:
                return ()
