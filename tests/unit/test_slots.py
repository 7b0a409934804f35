"""Slots, and places in the queue: counted in memory by the only engine, by the store among several."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import pytest

from perdure.model import RunStatus
from perdure.service.fleet import slots as shared_slots
from perdure.service.fleet.slots import SharedSlots
from perdure.service.queue.slots import ANY, Capacity, LocalSlots, Slots, Way
from perdure.storage.memory.store import MemoryMetadataStore, SharedMemory
from perdure.storage.rows import RunRow
from perdure.storage.writes import AddRun, Limit

Make = Callable[[Capacity], Awaitable[Slots]]


def run(name: str, status: RunStatus) -> RunRow:
    return RunRow(name, "n", name, status, "spec", 1, 1)


@pytest.fixture(params=["local", "shared"])
def make(request: pytest.FixtureRequest) -> Make:
    """Slots over a store in which one run is at work and one waits."""

    async def made(capacity: Capacity) -> Slots:
        store = MemoryMetadataStore()
        rows = run("at work", RunStatus.RUNNING), run("waits", RunStatus.PENDING)
        await store.commit([(AddRun(row, b""),) for row in rows])
        slots: Slots = LocalSlots(store, capacity) if request.param == "local" else SharedSlots(store, capacity)
        await slots.count()
        return slots

    return made


async def test_without_a_limit_every_run_runs(make: Make) -> None:
    slots = await make(Capacity())
    assert list(slots.ways("n", "a")) == [Way(RunStatus.RUNNING)]


async def test_runs_of_an_earlier_limit_are_known_without_a_limit(make: Make) -> None:
    slots = await make(Capacity())
    assert slots.crowded() == ["n"]
    assert slots.free("n")
    assert slots.promote("n", "waits") == ()
    assert slots.crowded() == []


async def test_the_last_way_is_into_the_queue(make: Make) -> None:
    slots = await make(Capacity(running=1))
    *_, last = slots.ways("n", "a")
    assert last.status is RunStatus.PENDING
    assert (slots.count_pending("n"), slots.crowded()) == (2, ["n"])
    slots.withdraw(run("a", RunStatus.PENDING))
    slots.forget("n")
    assert (slots.count_pending("n"), slots.crowded()) == (0, [])


async def test_the_end_of_a_run_wakes_those_that_wait(make: Make) -> None:
    slots = await make(Capacity(running=1))
    assert not slots.stirred.is_set()
    slots.leave("at work")
    assert slots.stirred.is_set()
    assert slots.free("n")


async def test_a_run_that_did_not_start_waits_again(make: Make) -> None:
    slots = await make(Capacity(running=2))
    slots.promote("n", "waits")
    assert slots.count_pending("n") == 0
    slots.demote("n", "waits")
    assert slots.count_pending("n") == 1
    assert slots.free("n")


async def test_one_engine_counts_its_slots_in_memory() -> None:
    slots = LocalSlots(MemoryMetadataStore(), Capacity(running=1, pending=1))
    assert [list(slots.ways("n", name)) for name in "abc"] == [[Way(RunStatus.RUNNING)], [Way(RunStatus.PENDING)], []]
    assert list(slots.ways("other", "d")) == [Way(RunStatus.RUNNING)]
    slots.leave("a")
    assert slots.promote("n", "b") == ()
    assert slots.count_running("n") == 1
    slots.withdraw(run("b", RunStatus.RUNNING))
    slots.leave("b")
    assert slots.count_running("n") == 0


class Counting(MemoryMetadataStore):
    """Says how often its pending runs were counted."""

    counts = 0

    async def count_pending(self) -> Mapping[str, int]:
        self.counts += 1
        return await super().count_pending()


async def rest(slots: SharedSlots) -> None:
    """Wait until nothing more happens by itself."""
    for _ in range(20):
        while not slots._counting.is_idle:
            await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_while_nothing_waits_the_store_is_asked_after_hints_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_slots, "POLL_S", 1e-9)
    store = Counting(shared := SharedMemory())
    slots = SharedSlots(store, Capacity())
    await slots.start()
    await rest(slots)
    assert store.counts == 1
    slots.leave("a run of this engine")
    await rest(slots)
    assert store.counts == 1
    await shared.member().commit([(AddRun(run("waits", RunStatus.PENDING), b""),)])
    slots.heard()
    await slots.stirred.wait()
    assert (store.counts, slots.crowded()) == (2, ["n"])
    slots.promote("n", "waits")
    while not slots.crowded():  # it did not start after all, which the store is asked for without a hint
        await asyncio.sleep(0)
    await slots.stop()


async def test_among_several_engines_the_store_is_told_the_limits() -> None:
    slots = SharedSlots(SharedMemory().member(), Capacity(running=3, pending=5))
    at_once, queued = slots.ways("n", "a")
    has_slot = Limit("n", RunStatus.RUNNING, 3)
    assert at_once == Way(RunStatus.RUNNING, (has_slot, Limit("n", RunStatus.PENDING, 1)))
    assert queued == Way(RunStatus.PENDING, (Limit("n", RunStatus.PENDING, 5),))
    assert slots.promote("n", "a") == (has_slot,)
    assert SharedSlots(SharedMemory().member(), Capacity(ANY)).promote("n", "a") == ()
