"""Deleting runs that ended long ago: in pages, whole or not at all, and never one that is at work again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from perdure.model import RunStatus
from perdure.service.executors.port import Executor
from perdure.service.housekeeping import retention as retention_module
from perdure.service.housekeeping.retention import Retention
from perdure.service.kernel import Kernel
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import Entry, StorageUnavailable
from perdure.storage.rows import RunRow
from perdure.storage.writes import AddRun, Committed, DeleteRun, SetRun

KEEP_MS = 1000
NOW_MS = 10_000
FAILED, RUNNING, SUCCESSFUL = RunStatus.FAILED, RunStatus.RUNNING, RunStatus.SUCCESSFUL


class Store(MemoryMetadataStore):
    """Counts what it deletes, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: list[int] = []
        self.fails_after = -1

    async def finished_runs(self, *, before_ms: int, limit: int) -> list[RunRow]:
        page = await super().finished_runs(before_ms=before_ms, limit=limit)
        self.pages.append(len(page))
        return page

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        if any(isinstance(write, DeleteRun) for entry in entries for write in entry):
            if self.fails_after == 0:
                raise StorageUnavailable("away")
            self.fails_after -= 1
        return await super().commit(entries)


class Idle:
    """An executor that is given nothing."""

    async def start(self, *_arguments: Any) -> None: ...
    async def stop(self) -> None: ...


@pytest.fixture
async def store() -> Store:
    store = Store()
    await store.open()
    return store


def kernel_over(store: Store) -> Kernel:
    return Kernel(store, cast(Executor, Idle()), owner="e", clock=lambda: NOW_MS, keep_ms=KEEP_MS)


@pytest.fixture
async def kernel(store: Store) -> AsyncIterator[Kernel]:
    kernel = kernel_over(store)
    await kernel.journal.start()
    yield kernel
    await kernel.journal.stop(grace_s=0)


def retention_of(kernel: Kernel) -> Retention:
    assert kernel.retention is not None
    return kernel.retention


async def add(store: Store, name: str, status: RunStatus, end_ms: int) -> None:
    row = RunRow(name, "default", f"id-{name}", RUNNING, "spec", 1, 1, start_ms=1)
    await store.commit([(AddRun(row, b"graph"),), (SetRun(name, status, end_ms),)])


async def left(store: Store) -> list[str]:
    names = [row.run_id for row in await store.finished_runs(before_ms=NOW_MS * 2, limit=999)]
    return sorted(names)


async def test_what_ended_long_ago_goes(store: Store, kernel: Kernel) -> None:
    await add(store, "old", SUCCESSFUL, NOW_MS - KEEP_MS - 1)
    await add(store, "older", FAILED, 5)
    await add(store, "young", SUCCESSFUL, NOW_MS - KEEP_MS)
    await add(store, "aside", RunStatus.RESUMABLE, 5)
    await add(store, "working", RUNNING, 5)
    assert await retention_of(kernel).expire() == 2
    assert await left(store) == ["young"]
    assert await store.get_run("aside") is not None
    assert await store.get_run("working") is not None
    assert await retention_of(kernel).expire() == 0


async def test_retention_deletes_in_pages(store: Store, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_module, "PAGE", 10)
    for number in range(25):
        await add(store, f"r{number}", SUCCESSFUL, 5)
    assert await retention_of(kernel).expire() == 25
    assert store.pages == [10, 10, 5, 0]


async def test_one_that_was_resumed_meanwhile_stays(store: Store, kernel: Kernel) -> None:
    await add(store, "a", FAILED, 5)
    await add(store, "b", FAILED, 5)
    real = store.get_run

    async def get_run(run_id: str) -> RunRow | None:
        row = await real(run_id)
        if run_id == "a":  # by another engine, after this one has looked
            await MemoryMetadataStore.commit(store, [(SetRun("a", RUNNING, NOW_MS, resumed=True),)])
        return row

    store.get_run = get_run  # type: ignore[method-assign]
    assert await retention_of(kernel).expire() == 1
    row = await real("a")
    assert row is not None
    assert row.status is RUNNING


async def test_one_that_failed_again_meanwhile_stays(store: Store, kernel: Kernel) -> None:
    """It was resumed elsewhere between the look and the commit, and its new end is young."""
    await add(store, "a", FAILED, 5)
    real = store.commit

    async def commit(entries: Sequence[Entry]) -> Committed:
        await real([(SetRun("a", RUNNING, NOW_MS - 1, resumed=True),), (SetRun("a", FAILED, NOW_MS),)])
        return await real(entries)

    store.commit = commit  # type: ignore[method-assign]
    assert await retention_of(kernel).expire() == 0
    row = await store.get_run("a")
    assert row is not None
    assert (row.status, row.end_ms) == (FAILED, NOW_MS)


@pytest.mark.parametrize("commits", range(4))
async def test_the_next_engine_goes_on_where_one_died(
    store: Store, commits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "PAGE", 3)
    for number in range(10):
        await add(store, f"r{number}", SUCCESSFUL, 5)
    store.fails_after = commits
    first = kernel_over(store)
    await first.journal.start()
    with pytest.raises(StorageUnavailable):
        await retention_of(first).expire()
    await first.journal.stop(grace_s=0)
    assert len(await left(store)) == max(10 - 3 * commits, 0)
    store.fails_after = -1
    second = kernel_over(store)
    await second.journal.start()
    assert await retention_of(second).expire() == max(10 - 3 * commits, 0)
    assert await left(store) == []
    await second.journal.stop(grace_s=5)


async def test_watches_are_told_of_retention(store: Store, kernel: Kernel) -> None:
    """Only of the current run of a workflow id."""
    await add(store, "a", SUCCESSFUL, 5)
    row = RunRow("b", "default", "id-a", RUNNING, "spec", 1, 1, start_ms=1)
    await store.commit([(AddRun(row, b"graph", replaces="a"),)])
    await add(store, "c", SUCCESSFUL, 5)
    told: list[str] = []

    def publish(_run_id: str, change: Any) -> None:
        told.append(change.deleted)

    kernel.changes.publish = publish  # type: ignore[method-assign]
    assert await retention_of(kernel).expire() == 2
    assert told == ["id-c"]


async def test_retention_is_off_by_default(store: Store) -> None:
    assert Kernel(store, cast(Executor, Idle()), owner="e").retention is None


async def test_retention_runs_by_itself(store: Store) -> None:
    await add(store, "old", SUCCESSFUL, 5)
    kernel = kernel_over(store)
    deleted = asyncio.Event()
    kernel.changes.publish = lambda *_told: deleted.set()  # type: ignore[method-assign]
    await kernel.journal.start()
    await retention_of(kernel).start()
    await deleted.wait()
    await retention_of(kernel).stop()
    await kernel.journal.stop(grace_s=5)
    assert await left(store) == []
