"""An engine whose store commits when the test says so, and whose attempts end as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from perdure import graphwire
from perdure.engine.messages import AttemptStarted, TaskFailed, TaskSucceeded
from perdure.model import Payload, Spec
from perdure.service.executors.port import Attempt, Executor, Report, Reports
from perdure.service.kernel import Kernel
from perdure.service.machines.graphs import source_of
from perdure.service.operations.asked import NewRun
from perdure.service.runs.views import RunView
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import Entry
from perdure.storage.writes import Committed
from unit.driver import ERROR, VALUE

NOW_MS = 1_700_000_000_000


class Store(MemoryMetadataStore):
    """`hold` stops commits before they take effect, `hold_answers` after that. `errors` are raised by the next ones."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []
        self.count = 0  # of commits
        self.commits: asyncio.Queue[Sequence[Entry]] = asyncio.Queue()
        """Commits that were requested while commits were held."""
        self._go: asyncio.Queue[None] | None = None
        self._answer: asyncio.Event | None = None

    def hold(self) -> None:
        self._go = asyncio.Queue()

    def let_one_go(self) -> None:
        assert self._go is not None
        self._go.put_nowait(None)

    def let_all_go(self) -> None:
        go, self._go = self._go, None
        if go is not None:
            for _ in range(100):
                go.put_nowait(None)
        if self._answer is not None:
            self._answer.set()
            self._answer = None

    def forget_holds(self) -> None:
        """Hold the waiting commits for ever, as after the death of the engine."""
        self._go = self._answer = None

    def hold_answers(self) -> None:
        self._answer = asyncio.Event()

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        await asyncio.sleep(0)
        if self._go is not None:
            self.commits.put_nowait(entries)
            await self._go.get()
        if self.errors:
            raise self.errors.pop(0)
        committed = await super().commit(entries)
        self.count += 1
        if self._answer is not None:
            answer = self._answer
            self.commits.put_nowait(entries)
            await answer.wait()
        return committed


class ByHand:
    """An executor whose attempts begin and end as they are told."""

    def __init__(self) -> None:
        self.submitted: asyncio.Queue[Attempt] = asyncio.Queue()
        self.cancelled: list[tuple[str, int]] = []
        self._report: Any = None

    async def start(self, report: Any, *_more: Any) -> None:
        self._report = report

    async def stop(self) -> None: ...

    def loading(self, _run_id: str, _task_id: str, _number: int) -> str:
        return ""

    def waiting(self, _run_id: str, _task_id: str, _attempt: int) -> None:
        return None

    def python_versions(self) -> frozenset[str]:
        return frozenset()

    def submit(self, attempt: Attempt) -> None:
        self.submitted.put_nowait(attempt)

    def cancel(self, _run_id: str, task_id: str, attempt: int) -> None:
        self.cancelled.append((task_id, attempt))

    def report(self, *reports: tuple[str, Report]) -> None:
        told: Reports = reports
        self._report(told)


class Engine:
    """A kernel of these, and short words for what tests do with it."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()
        self.executor = ByHand()
        self.now_ms = NOW_MS
        self.kernel = Kernel(self.store, cast(Executor, self.executor), owner="engine", clock=lambda: self.now_ms)

    async def start(self, spec: Spec, name: str = "w") -> RunView:
        new = NewRun("default", name, f"request {name}", source_of(spec, graphwire.encode_spec(spec)))
        return (await self.kernel.submissions.submit(new))[0]

    def begin(self, run: RunView, task_id: str, attempt: int = 1) -> None:
        self.executor.report((run.row.run_id, AttemptStarted(task_id, attempt, self.now_ms)))

    def succeed(self, run: RunView, task_id: str, attempt: int = 1, output: Payload = VALUE) -> None:
        self.executor.report((run.row.run_id, TaskSucceeded(task_id, attempt, output, self.now_ms)))

    def fail(self, run: RunView, task_id: str, attempt: int = 1) -> None:
        self.executor.report((run.row.run_id, TaskFailed(task_id, attempt, ERROR, self.now_ms)))

    async def tasks(self, name: str = "w") -> dict[str, str]:
        found = await self.kernel.queries.tasks("default", name)
        return {task.task_id: str(task.status) for _, task in found}


@asynccontextmanager
async def running_engine(store: Store | None = None) -> AsyncIterator[Engine]:
    engine = Engine(store)
    await engine.kernel.start()
    try:
        yield engine
    finally:
        engine.store.errors.clear()
        engine.store.let_all_go()
        await engine.kernel.stop(grace_s=1)


async def soon(work: Any) -> asyncio.Task[Any]:
    """Begin with something, as far as it goes by itself."""
    task = asyncio.ensure_future(work)
    for _ in range(10):
        await asyncio.sleep(0)
    return task
