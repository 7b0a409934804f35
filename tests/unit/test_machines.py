"""Another kind of runs than graphs goes through the whole engine, which has no word about it; and a kind that an engine
does not know costs the runs of that kind and no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from patience import PATIENCE_S
from perdure import errors, graphwire
from perdure.engine.messages import TaskSucceeded
from perdure.model import Payload, RunStatus, Spec, SpecNode, WaitEvent
from perdure.service.executors.port import ContinuationReturned, Executor
from perdure.service.kernel import Kernel
from perdure.service.machines.graphs import GRAPHS, source_of
from perdure.service.machines.kinds import Kinds
from perdure.service.machines.source import RunSource
from perdure.service.operations.asked import NewRun
from perdure.storage.examine import examine_rows
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import MetadataStore
from perdure.storage.sqlite.store import SqliteMetadataStore
from unit.counter import END, Counters, counter_of
from unit.driver import VALUE, call, graph
from unit.engine_by_hand import NOW_MS, ByHand

BOTH = Kinds([GRAPHS, Counters()])
GRAPHS_ALONE = Kinds([GRAPHS])


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetadataStore]:
    store = MemoryMetadataStore() if request.param == "memory" else SqliteMetadataStore(tmp_path / "perdure.db")
    await store.open()
    yield store
    await store.close()


class Engine:
    """One life of an engine."""

    def __init__(self, store: MetadataStore, kinds: Kinds, max_running: int) -> None:
        self.executor = ByHand()
        self.kernel = Kernel(
            store,
            cast(Executor, self.executor),
            owner="engine",
            clock=lambda: NOW_MS,
            kinds=kinds,
            max_running=max_running,
            max_pending=9,
        )

    async def submit(self, name: str, source: RunSource) -> str:
        view, _ = await self.kernel.submissions.submit(NewRun("default", name, f"request {name}", source))
        return view.row.run_id

    async def add(self, name: str, event_id: str) -> None:
        await self.kernel.events.send("default", name, key="add", event_id=event_id, payload=VALUE)

    async def status(self, name: str) -> str:
        return str((await self.kernel.queries.run("default", name)).row.status)

    async def tasks(self, name: str) -> dict[str, tuple[str, int]]:
        found = await self.kernel.queries.tasks("default", name)
        return {task.task_id: (str(task.status), task.attempts) for _, task in found}

    async def until_tasks(self, name: str) -> dict[str, tuple[str, int]]:
        """The same once there are some: an event that was sent is durable, and is applied when the run is loaded."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := await self.tasks(name)):
                await asyncio.sleep(0)
        return found

    async def succeed(self, output: Payload = VALUE) -> tuple[str, int]:
        """End the attempt that is submitted next. Returns its task and number."""
        attempt = await self.executor.submitted.get()
        self.executor.report((attempt.run_id, TaskSucceeded(attempt.task_id, attempt.number, output, NOW_MS)))
        return attempt.task_id, attempt.number

    async def outcome(self, name: str) -> object:
        return (await self.kernel.queries.outcome("default", name, wait_s=60)).value


@asynccontextmanager
async def life(store: MetadataStore, kinds: Kinds = BOTH, max_running: int = -1) -> AsyncIterator[Engine]:
    engine = Engine(store, kinds, max_running)
    await engine.kernel.start()
    try:
        yield engine
    finally:
        await engine.kernel.stop(grace_s=1)


def graph_source(spec: Spec) -> RunSource:
    return source_of(spec, graphwire.encode_spec(spec))


def waiting_graph() -> RunSource:
    return graph_source(graph(SpecNode("go", WaitEvent("add")), call("last", "go")))


async def test_a_run_of_another_kind_ends_after_restarts(store: MetadataStore) -> None:
    async with life(store) as engine:
        run_id = await engine.submit("c", counter_of(2))
        await engine.add("c", "e1")
        assert await engine.until_tasks("c") == {"add-0": ("SUCCESSFUL", 1)}
        row = await store.get_run(run_id)
        assert row is not None
        assert (row.kind, row.is_dormant) == ("counter", True)
    async with life(store) as engine:  # it is loaded by the event
        await engine.add("c", "e1")
        await engine.add("c", "e2")
        attempt = await engine.executor.submitted.get()
        assert (attempt.task_id, attempt.number, [value.task_id for value in attempt.inputs]) == (
            END,
            1,
            ["add-0", "add-1"],
        )
        assert (await engine.kernel.queries.run("default", "c")).counts.total == 3  # type: ignore[union-attr]
    async with life(store) as engine:  # it is loaded at the start, and its attempt may have begun
        assert await engine.succeed(Payload("json/plain", b"7")) == (END, 2)
        assert await engine.outcome("c") == Payload("json/plain", b"7")
        assert await engine.outcome("c") == (await engine.kernel.queries.outcome("default", "c", task_id=END)).value
        assert await engine.tasks("c") == {
            name: ("SUCCESSFUL", n) for name, n in (("add-0", 1), ("add-1", 1), (END, 2))
        }


async def test_a_graph_is_refused_by_a_kind_that_takes_none(store: MetadataStore) -> None:
    async with life(store) as engine:
        run_id = await engine.submit("c", counter_of(1))
        await engine.add("c", "e1")
        await engine.executor.submitted.get()
        engine.executor.report((run_id, ContinuationReturned(END, 1, graphwire.encode_spec(graph(call("x"))), NOW_MS)))
        assert "a counter takes no graph" in str(await engine.outcome("c"))
        resumed, _ = await engine.kernel.lifecycle.resume("default", "c")
        assert resumed.row.status is RunStatus.RUNNING
        assert await engine.succeed() == (END, 2)
        assert await engine.outcome("c") == VALUE


async def test_a_run_of_another_kind_is_canceled(store: MetadataStore) -> None:
    async with life(store) as engine:
        await engine.submit("c", counter_of(1))
        await engine.add("c", "e1")
        await engine.executor.submitted.get()
        await engine.kernel.lifecycle.cancel("default", "c", "enough")
        assert engine.executor.cancelled == [(END, 1)]
        assert "enough" in str(await engine.outcome("c"))


@pytest.mark.parametrize("state", ["active", "dormant", "pending"])
async def test_an_unknown_kind_fails_its_runs_alone(store: MetadataStore, state: str) -> None:
    async with life(store, max_running=2) as engine:
        await engine.submit("g", waiting_graph())
        if state == "pending":
            await engine.submit("h", waiting_graph())
        await engine.submit("c", counter_of(1))
        if state == "active":
            await engine.add("c", "e1")
            await engine.executor.submitted.get()
    async with life(store, GRAPHS_ALONE, max_running=2) as engine:
        if state == "pending":
            await engine.add("h", "e1")
            assert await engine.succeed() == ("last", 1)
        if state == "dormant":
            await engine.add("c", "e1")
        failure = await engine.outcome("c")
        assert "perdure.CorruptData" in str(failure)
        assert "this version of Perdure does not know the kind 'counter' of the run" in str(failure)
        with pytest.raises(errors.WorkflowAlreadyFinalError):
            await engine.add("c", "e9")
        await engine.add("g", "e1")
        assert await engine.succeed() == ("last", 1)
        assert await engine.outcome("g") == VALUE
        assert await engine.status("c") == "FAILED"
    async with life(store) as engine:  # an engine that knows the kind goes on with the run
        await engine.kernel.lifecycle.resume("default", "c")
        if state == "pending":
            await engine.add("c", "e1")
        assert (await engine.succeed())[0] == END
        assert await engine.outcome("c") == VALUE


async def test_the_doctor_names_runs_of_unknown_kinds(tmp_path: Path) -> None:
    store = SqliteMetadataStore(tmp_path / "perdure.db")
    await store.open()
    async with life(store) as engine:
        await engine.submit("g", waiting_graph())
        run_id = await engine.submit("c", counter_of(1))
    await store.close()
    assert await examine_rows(str(tmp_path), BOTH.names) == []
    (text,) = await examine_rows(str(tmp_path), GRAPHS_ALONE.names) or []
    assert text == f"table runs, row {run_id}: this version of Perdure does not know the kind counter"
