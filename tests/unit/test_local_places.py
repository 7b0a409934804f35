"""Threads of the local executor: attempts that only wait for others leave their places to these."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from conformance.workbench import local_bench
from patience import PATIENCE_S
from perdure.context import Waiting
from perdure.engine.messages import AttemptStarted, TaskSucceeded
from perdure.service.executors.local import THREADS, LocalExecutor

gate = threading.Event()


def wait_at_the_gate() -> None:
    with Waiting():
        gate.wait(PATIENCE_S)


def work() -> int:
    return threading.active_count()


async def test_attempts_that_wait_leave_their_places(tmp_path: Path) -> None:
    gate.clear()
    async with local_bench(tmp_path) as bench:
        executor = bench.executor
        assert isinstance(executor, LocalExecutor)
        names = [f"w{number}" for number in range(3 * THREADS)]
        waiting_ones = [bench.submit(wait_at_the_gate, task=name) for name in names]
        await bench.until(lambda: sum(isinstance(report, AttemptStarted) for report in bench.reports) == len(names))
        assert isinstance(await bench.run(work, task="works"), TaskSucceeded)
        gate.set()
        for attempt in waiting_ones:
            assert isinstance(await bench.end(attempt), TaskSucceeded)
        async with asyncio.timeout(PATIENCE_S):
            while len(executor._places) > THREADS:
                await asyncio.sleep(0.01)
        assert isinstance(await bench.run(work, task="last"), TaskSucceeded)
