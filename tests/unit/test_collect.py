"""Collection of unused blobs, in random worlds: a blob that a run uses is never removed.

Writers put a blob and note its use within the grace period, as attempts do, or never. Sweeps are held up
at every step for any time. The time is the test's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from perdure.model import BlobRef, RunStatus
from perdure.service.housekeeping import sweep as sweep_module
from perdure.service.housekeeping.sweep import Sweeper
from perdure.service.journal.journal import Journal
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import BlobStore, Entry, StorageUnavailable
from perdure.storage.rows import BlobMark, RunRow
from perdure.storage.writes import AddRun, Committed, DeleteRun, UseBlobs

GRACE_S = 100.0
SEEDS = 200


class World:
    """The clock, and what happens between any two steps."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now_s = 0.0
        self.uses: dict[str, set[str]] = {}  # by run

    def monotonic(self) -> float:
        return self.now_s

    async def step(self) -> None:
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)


class Store(MemoryMetadataStore):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        await self._world.step()
        return await super().commit(entries)

    async def marked_blobs(self, *, after: str, limit: int) -> list[BlobMark]:
        found = await super().marked_blobs(after=after, limit=limit)
        await self._world.step()
        return found

    async def unused_blobs(self, sha256s: Sequence[str]) -> list[str]:
        found = await super().unused_blobs(sha256s)
        await self._world.step()
        return found


def add(run_id: str, blob: BlobRef) -> Entry:
    """Either the run uses the blob, or its graph, which all runs with this blob have."""
    if run_id[-1] in "13579":
        row = RunRow(run_id, "default", run_id, RunStatus.SUCCESSFUL, f"graph of {blob.sha256}", 1, 1)
        return (AddRun(row, b"graph", blobs=(blob.sha256,)),)
    row = RunRow(run_id, "default", run_id, RunStatus.SUCCESSFUL, "spec", 1, 1)
    return (AddRun(row, b"graph"), UseBlobs(run_id, (blob.sha256,)))


async def write(world: World, journal: Journal, blobs: BlobStore, run_id: str) -> None:
    """An attempt: its value is put, and reported in time or never. What it made may be made again by another."""
    await world.step()
    blob = await blobs.put([bytes([world.chance.randrange(8)])])
    put_s = world.now_s
    for _ in range(world.chance.randrange(20)):
        await asyncio.sleep(0)
    if world.now_s - put_s < GRACE_S and world.chance.random() < 0.7:
        await journal.commit(add(run_id, blob))
        world.uses[run_id] = {blob.sha256}


async def delete(world: World, journal: Journal, run_id: str) -> None:
    await world.step()
    if world.uses.pop(run_id, None) is not None:
        await journal.commit((DeleteRun(run_id),))


async def clean(world: World, sweeper: Sweeper) -> None:
    for _ in range(3):
        await world.step()
        await sweeper.collect()
        await world.step()
        await sweeper.sweep()


async def live(world: World, seed: int) -> None:
    store, blobs = Store(world), MemoryBlobStore(world.monotonic)
    journal = Journal(store)
    await journal.start()
    sweepers = [Sweeper(store, journal, blobs, grace_s=GRACE_S, now_s=world.monotonic) for _ in range(2)]
    number = 0
    for _ in range(6):
        tasks = [asyncio.ensure_future(clean(world, sweeper)) for sweeper in sweepers]
        for _ in range(world.chance.randrange(5)):
            number += 1
            tasks.append(asyncio.ensure_future(write(world, journal, blobs, f"r{number}")))
            tasks.append(asyncio.ensure_future(delete(world, journal, f"r{world.chance.randrange(1, number + 1)}")))
        waiting = asyncio.gather(*tasks)
        while not waiting.done():
            await asyncio.sleep(0)
            world.now_s += world.chance.choice([0, 0, 0, 1, 5, 60])
        await waiting
        there = {blob.sha256 async for blob in blobs.list()}
        assert set().union(*world.uses.values()) <= there, f"seed {seed}: a blob in use is gone"
        world.now_s += world.chance.choice([0, GRACE_S / 2, 2 * GRACE_S])
    world.now_s += 2 * GRACE_S
    await clean(world, sweepers[0])
    there = {blob.sha256 async for blob in blobs.list()}
    assert there == set().union(*world.uses.values()), f"seed {seed}: a blob of nobody is still there"
    assert await store.marked_blobs(after="", limit=9) == []
    await journal.stop(grace_s=5)


async def test_what_is_used_stays_and_the_rest_goes() -> None:
    for seed in range(SEEDS):
        await live(World(seed), seed)


async def test_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "PAGE", 2)
    store, blobs = MemoryMetadataStore(), MemoryBlobStore()
    journal = Journal(store)
    await journal.start()
    named = [await blobs.put([bytes([number])]) for number in range(5)]
    await journal.commit(add("a", named[0]))
    sweeper = Sweeper(store, journal, blobs, grace_s=0)
    assert await sweeper.collect() == (5, 4)
    assert await sweeper.collect() == (5, 0)
    assert await sweeper.sweep() is False
    assert [blob async for blob in blobs.list()] == [named[0]]
    await journal.stop(grace_s=5)


async def test_nothing_is_removed_before_the_database_was_there_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that could not record a use during an outage gets time to record it first."""
    monkeypatch.setattr(sweep_module, "BEAT_S", 0.001)
    beats = iter([True, True, False, True, False, *[True] * 1000])
    world = World(1)
    failed_s = []

    class Away(MemoryMetadataStore):
        async def last_change(self) -> int:
            world.now_s += 1 * 0.001
            if not next(beats):
                failed_s.append(world.now_s)
                raise StorageUnavailable("away")
            return await super().last_change()

    store = Away()
    journal = Journal(store)
    await journal.start()
    sweeper = Sweeper(store, journal, MemoryBlobStore(), grace_s=0.04, now_s=world.monotonic)
    await sweeper._calm()
    assert len(failed_s) == 2
    assert world.now_s - failed_s[-1] >= 0.01
    await journal.stop(grace_s=5)
