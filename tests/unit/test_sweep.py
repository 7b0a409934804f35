"""Sweeping: what is marked and unused goes, in whatever order things happen, and however often a sweep dies."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from perdure.engine.messages import AttemptLost, TaskSucceeded
from perdure.model import BlobRef, Failure, FailureKind, Payload, RunStatus
from perdure.service.common import uses
from perdure.service.executors.port import Executor
from perdure.service.housekeeping import sweep as sweep_module
from perdure.service.housekeeping.sweep import Sweeper
from perdure.service.journal.journal import Journal
from perdure.service.kernel import Kernel
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import Entry
from perdure.storage.rows import RunRow
from perdure.storage.writes import AddRun, Committed, DeleteRun, MarkBlobs, UseBlobs


class Dead(Exception):
    """The engine ended here."""


class Store(MemoryMetadataStore):
    """Commits when it is let, and dies at a call."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls_left = -1

    def step(self) -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            raise Dead

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        await self.gate.wait()
        return await super().commit(entries)

    async def marked_blobs(self, *, after: str, limit: int) -> Any:
        self.step()
        return await super().marked_blobs(after=after, limit=limit)


class Blobs(MemoryBlobStore):
    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    async def delete(self, sha256: str, *, idle_s: float = 0) -> bool:
        self._store.step()
        is_gone = await super().delete(sha256, idle_s=idle_s)
        self._store.step()
        return is_gone

    async def names(self) -> set[str]:
        return {blob.sha256 async for blob in self.list()}


def add(run_id: str, *blobs: str) -> Entry:
    row = RunRow(run_id, "default", run_id, RunStatus.SUCCESSFUL, "spec", 1, 1)
    return (AddRun(row, b"graph"), UseBlobs(run_id, blobs))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def blobs(store: Store) -> Blobs:
    return Blobs(store)


@pytest.fixture
async def journal(store: Store) -> AsyncIterator[Journal]:
    journal = Journal(store)
    await journal.start()
    yield journal
    await journal.stop(grace_s=5)


@pytest.fixture
def sweeper(store: Store, journal: Journal, blobs: Blobs) -> Sweeper:
    return Sweeper(store, journal, blobs, grace_s=0)


async def test_a_use_that_is_still_in_the_journal_counts(
    store: Store, journal: Journal, blobs: Blobs, sweeper: Sweeper
) -> None:
    name = (await blobs.put([b"x"])).sha256
    await journal.commit((*add("a", name),))
    await journal.commit((DeleteRun("a"),))
    store.gate.clear()
    journal.append((*add("b", name),), lambda _result, _change: None)
    sweep = asyncio.create_task(sweeper.sweep())
    await asyncio.sleep(0)
    store.gate.set()
    assert await sweep is False
    assert await blobs.names() == {name}
    assert await store.marked_blobs(after="", limit=9) == []


async def test_a_sweep_that_dies_anywhere_is_done_again(store: Store, journal: Journal, blobs: Blobs) -> None:
    deaths = 0
    while True:
        sweeper = Sweeper(store, journal, blobs, grace_s=0)  # of the next engine
        names = [(await blobs.put([bytes([number])])).sha256 for number in range(4)]
        await journal.commit((*add("a", *names[:3]),))
        await journal.commit((*add("b", *names[2:]),))
        await journal.commit((DeleteRun("a"),))
        store.calls_left = deaths + 1
        try:
            await sweeper.sweep()
            store.calls_left = -1
            break
        except Dead:
            deaths += 1
            store.calls_left = -1
        await sweeper.sweep()
        assert await blobs.names() == set(names[2:])
        await journal.commit((DeleteRun("b"),))
        await sweeper.sweep()
        assert await blobs.names() == set()
        assert await store.marked_blobs(after="", limit=9) == []
    assert deaths >= 6


async def test_many_marks_are_swept_page_by_page(
    store: Store, journal: Journal, blobs: Blobs, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "PAGE", 3)
    names = [(await blobs.put([bytes([number])])).sha256 for number in range(10)]
    await journal.commit((*add("a", *names),))
    await journal.commit((*add("b", *sorted(names)[2:5]),))
    await journal.commit((DeleteRun("a"),))
    assert await sweeper.sweep() is False
    assert await blobs.names() == set(sorted(names)[2:5])


async def test_marks_of_fresh_blobs_do_not_hide_those_of_old_ones(
    store: Store, journal: Journal, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "PAGE", 2)
    sweeper = Sweeper(store, journal, blobs, grace_s=3600)
    names = sorted([(await blobs.put([bytes([number])])).sha256 for number in range(7)])
    blobs._puts[names[-1]] -= 7200
    await journal.commit((MarkBlobs(tuple(names)),))
    assert await sweeper.sweep() is True
    assert await blobs.names() == set(names[:-1])


# ------------------------------------------------------------------------------ uses of blobs


def ref(letter: str) -> BlobRef:
    return BlobRef(hashlib.sha256(letter.encode()).hexdigest(), 1)


class NoExecutor:
    """Runs nothing."""

    async def start(self, *_: Any) -> None: ...

    async def stop(self) -> None: ...


async def test_what_comes_too_late_is_marked(store: Store) -> None:
    kernel = Kernel(store, cast(Executor, NoExecutor()), owner="engine")
    await kernel.start()
    large = Payload("python/pickle", blob=ref("a"), refs=(ref("b"),))
    kernel.scheduler.report([("gone", TaskSucceeded("t", 1, large, 5)), ("gone", AttemptLost("t", 1, "lost", 5))])
    kernel.scheduler.report([("gone", TaskSucceeded("t", 1, Payload("json/plain", b"1"), 5))])
    await kernel.journal.barrier()
    marks = await store.marked_blobs(after="", limit=9)
    assert {mark.sha256 for mark in marks} == {ref("a").sha256, ref("b").sha256}
    await kernel.stop(grace_s=1)


def test_uses_are_noted_once_and_only_if_there_are_any() -> None:
    assert uses.use("r", ()) == []
    names = uses.names_of((ref("b"), ref("a"), ref("b")))
    assert uses.use("r", names) == [UseBlobs("r", tuple(sorted((ref("a").sha256, ref("b").sha256))))]


def test_an_error_and_its_causes_use_blobs() -> None:
    cause = Failure(FailureKind.APPLICATION, "E", "e", error=Payload("python/pickle", b"e", refs=(ref("a"),)))
    failure = Failure(FailureKind.APPLICATION, "F", "f", cause=cause, error=Payload("python/pickle", blob=ref("b")))
    assert set(uses.of_failure(failure)) == {ref("a"), ref("b")}
    assert uses.of_failure(Failure(FailureKind.SYSTEM, "S", "s")) == ()
