"""An executor in front of another one: runs attempts that belong to no task, for a caller that waits for the result.

Nothing about such an attempt is recorded. If the engine dies, the caller asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from perdure.engine.failures import attempt_timed_out
from perdure.engine.messages import AttemptLost, AttemptStarted, TaskFailed, TaskSucceeded
from perdure.model import FailureKind
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

End: TypeAlias = TaskSucceeded | ContinuationReturned | TaskFailed | AttemptLost


class _Asked:
    """An attempt that a caller waits for. `limit_ms`: the time it may take from its beginning, None: without limit."""

    def __init__(self, attempt: Attempt, limit_ms: int | None) -> None:
        self.end: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._attempt = attempt
        self._limit_ms = limit_ms
        self._timer: asyncio.TimerHandle | None = None

    def report(self, report: Report) -> None:
        if not isinstance(report, AttemptStarted):
            self._give(report)
        elif self._limit_ms is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._limit_ms / 1000, self._expire, report.at_ms)

    def _expire(self, began_ms: int) -> None:
        assert self._limit_ms is not None
        at_ms = began_ms + self._limit_ms
        self._give(TaskFailed(self._attempt.task_id, self._attempt.number, attempt_timed_out(self._limit_ms), at_ms))

    def _give(self, end: End) -> None:
        if not self.end.done():
            self.end.set_result(end)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class AskingExecutor:
    """Implements Executor. Reports of attempts that were asked for go to their callers, all others are passed on."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner
        self._asked: dict[tuple[str, str, int], _Asked] = {}
        self._report: Callable[[Reports], None] = lambda _reports: None

    async def ask(self, attempt: Attempt, *, limit_ms: int | None = None) -> End:
        """Run an attempt and return how it ended. It is stopped if it takes longer than its limit, or if the caller is
        cancelled."""
        asked = self._asked[attempt.key] = _Asked(attempt, limit_ms)
        self._inner.submit(attempt)
        has_ended = False
        try:
            end = await asked.end
            has_ended = not (isinstance(end, TaskFailed) and end.failure.kind is FailureKind.TIMEOUT)
            return end
        finally:
            del self._asked[attempt.key]
            asked.close()
            if not has_ended:
                self._inner.cancel(*attempt.key)

    async def start(
        self, report: Callable[[Reports], None], values: ValueReader, holds_for_s: Callable[[], float] = forever
    ) -> None:
        self._report = report
        await self._inner.start(self._receive, values, holds_for_s)

    async def stop(self) -> None:
        for asked in self._asked.values():
            asked.end.cancel()
        await self._inner.stop()

    def submit(self, attempt: Attempt) -> None:
        self._inner.submit(attempt)

    def cancel(self, run_id: str, task_id: str, number: int) -> None:
        self._inner.cancel(run_id, task_id, number)

    def waiting(self, run_id: str, task_id: str, number: int) -> Waiting | None:
        return self._inner.waiting(run_id, task_id, number)

    def loading(self, run_id: str, task_id: str, number: int) -> str:
        return self._inner.loading(run_id, task_id, number)

    def python_versions(self) -> frozenset[str]:
        return self._inner.python_versions()

    def functions(self) -> Functions:
        return self._inner.functions()

    def _receive(self, reports: Reports) -> None:
        if not self._asked:
            self._report(reports)
            return
        others = []
        for run_id, report in reports:
            asked = self._asked.get((run_id, report.task_id, report.attempt))
            if asked is None:
                others.append((run_id, report))
            else:
                asked.report(report)
        if others:
            self._report(others)
