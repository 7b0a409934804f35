"""Timers: fired when due, each once, whatever is read from the store meanwhile. The clock is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure.service.runs import timers as timers_module
from perdure.service.runs.timers import HORIZON_MS, Timers
from perdure.storage.ports import StorageUnavailable
from perdure.storage.rows import Timer

START_MS = 1_000_000


class Store:
    """The one question that timers ask a store."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []
        self.asked: list[int] = []
        self.fails = 0
        self.was_asked = asyncio.Event()

    async def next_timers(self, *, until_ms: int, limit: int) -> list[Timer]:
        self.asked.append(until_ms)
        self.was_asked.set()
        if self.fails:
            self.fails -= 1
            raise StorageUnavailable("away")
        due = sorted((timer for timer in self.timers if timer.wake_ms <= until_ms), key=lambda timer: timer.wake_ms)
        return due[:limit]


class World:
    def __init__(self) -> None:
        self.now_ms = START_MS
        self.store = Store()
        self.fired: list[Timer] = []
        self.has_fired = asyncio.Event()
        store: Any = self.store
        self.timers = Timers(store, lambda: self.now_ms, self.fire)

    def fire(self, timer: Timer) -> None:
        """Record a fired timer, and remove it from the store."""
        self.fired.append(timer)
        self.store.timers = [other for other in self.store.timers if other != timer]
        self.has_fired.set()

    async def until_fired(self, count: int) -> None:
        while len(self.fired) < count:
            self.has_fired.clear()
            await self.has_fired.wait()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.timers.stop()


def at(delay_ms: int, task_id: str = "t", attempt: int = 1) -> Timer:
    return Timer("r", task_id, attempt, START_MS + delay_ms)


async def test_what_is_due_is_fired_in_order(world: World) -> None:
    late, soon, now = at(0, "late"), at(-5, "soon"), at(-10, "now")
    for timer in (late, soon, now):
        world.timers.set(timer, is_recorded=False)
    await world.until_fired(3)
    assert world.fired == [now, soon, late]


async def test_what_is_not_due_is_kept(world: World) -> None:
    world.timers.set(at(1_000_000), is_recorded=False)
    world.timers.set(at(-1, "due"), is_recorded=False)
    await world.until_fired(1)
    assert [timer.task_id for timer in world.fired] == ["due"]
    assert await world.timers.next_ms() == START_MS + 1_000_000


async def test_an_earlier_timer_overtakes(world: World) -> None:
    world.timers.set(at(3_600_000, "later"), is_recorded=False)
    world.timers.set(at(0, "sooner"), is_recorded=False)
    await world.until_fired(1)
    assert [timer.task_id for timer in world.fired] == ["sooner"]


async def test_the_same_timer_is_fired_once(world: World) -> None:
    for _ in range(3):
        world.timers.set(at(-1), is_recorded=False)
    world.timers.set(at(-1, attempt=2), is_recorded=False)
    await world.until_fired(2)
    await asyncio.sleep(0)
    assert sorted(timer.attempt for timer in world.fired) == [1, 2]


async def test_a_recorded_one_beyond_the_horizon_is_left_to_the_store(world: World) -> None:
    world.timers.set(at(HORIZON_MS + 1), is_recorded=True)
    assert await world.timers.next_ms() is None
    world.timers.set(at(HORIZON_MS + 1), is_recorded=False)
    assert await world.timers.next_ms() == START_MS + HORIZON_MS + 1


async def test_the_store_is_read_up_to_the_horizon(world: World) -> None:
    world.store.timers = [at(-1, "due"), at(HORIZON_MS, "near"), at(HORIZON_MS + 1, "far")]
    await world.timers.start()
    await world.until_fired(1)
    assert world.store.asked == [START_MS + HORIZON_MS]
    assert [timer.task_id for timer in world.fired] == ["due"]
    world.store.timers = []
    assert await world.timers.next_ms() == START_MS + HORIZON_MS


async def test_moving_the_clock_fires_what_is_due_by_then(world: World) -> None:
    world.store.timers = [at(10 * HORIZON_MS, "far")]
    world.timers.set(at(500, "here"), is_recorded=False)
    world.now_ms += 10 * HORIZON_MS
    await world.timers.clock_moved()
    assert [timer.task_id for timer in world.fired] == ["here", "far"]


async def test_a_store_that_is_away_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers_module, "TROUBLE_S", 0.0)
    world.store.fails = 3
    world.store.timers = [at(-1)]
    await world.timers.start()
    await world.until_fired(1)
    assert len(world.store.asked) == 4


async def test_a_poll_that_fails_leaves_the_horizon_where_it_was(world: World) -> None:
    world.store.fails = 1
    with pytest.raises(StorageUnavailable):
        await world.timers.clock_moved()
    world.timers.set(at(1_000), is_recorded=True)
    assert await world.timers.next_ms() is None, "it was not taken, since the next poll reads it"


async def test_more_timers_than_a_page_are_read_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers_module, "PAGE", 10)
    monkeypatch.setattr(timers_module, "TROUBLE_S", 0.0)
    world.store.timers = [at(-100 + number, str(number)) for number in range(25)]
    await world.timers.start()
    await world.until_fired(25)
    assert [timer.task_id for timer in world.fired] == [str(number) for number in range(25)]
    assert len(world.store.asked) >= 3


async def test_nothing_fires_after_the_end(world: World) -> None:
    await world.timers.start()
    await world.store.was_asked.wait()
    world.timers.set(at(-1), is_recorded=False)
    await world.timers.stop()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.fired == []


async def test_others_have_their_turn_between_timers_that_are_due_together(world: World) -> None:
    count = 5 * timers_module.FIRED_AT_ONCE
    for number in range(count):
        world.timers.set(Timer("run", f"t{number}", 1, START_MS), is_recorded=False)
    turns = set()
    while len(world.fired) < count:
        turns.add(len(world.fired))
        await asyncio.sleep(0)
    assert {timers_module.FIRED_AT_ONCE * share for share in range(1, 5)} <= turns


async def test_all_that_is_due_has_fired_when_the_clock_was_moved(world: World) -> None:
    count = 5 * timers_module.FIRED_AT_ONCE
    for number in range(count):
        world.timers.set(Timer("run", f"t{number}", 1, START_MS + 1_000), is_recorded=False)
    world.now_ms += 1_000
    await world.timers.clock_moved()
    assert len(world.fired) == count
