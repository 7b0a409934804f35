"""Reminders of actors, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

import perdure
from perdure import errors, testing


@perdure.actor
class Cart:
    def __init__(self) -> None:
        self.items: list[str] = []
        self.told: list[str] = []

    @perdure.method
    def add(self, item: str, hours: float = 1) -> None:
        self.items.append(item)
        perdure.remind("abandoned", "tell", f"{len(self.items)} left", after=hours * 3600)

    @perdure.method
    def add_and_fail(self, item: str) -> None:
        self.add(item, hours=0.1)
        raise RuntimeError("out of stock")

    @perdure.method
    def pay(self) -> None:
        self.items = []
        perdure.forget_reminder("abandoned")

    @perdure.method
    def report_daily(self) -> None:
        perdure.remind("daily", "tell", "day", every=timedelta(days=1))

    @perdure.method
    def tell(self, what: str) -> None:
        self.told.append(what)
        if self.told.count("day") == 3:
            perdure.forget_reminder("daily")

    @perdure.method
    def count_down(self, left: int) -> None:
        self.told.append(str(left))
        if left:
            perdure.remind("down", "count_down", left - 1, after=60)

    @perdure.method
    def hang_later(self) -> None:
        perdure.remind("hang", "hang", after=60)

    @perdure.method
    async def hang(self) -> None:
        await asyncio.Event().wait()

    @perdure.readonly
    def read(self) -> list[str]:
        return self.told

    @perdure.readonly
    def remind_in_vain(self) -> None:
        perdure.remind("never", "tell", "never", after=1)


async def test_reminder_calls_the_actor_at_its_time_once() -> None:
    async with testing.engine(time="flow") as engine:
        cart = engine.client.actor(Cart, "c")
        await cart.add("pen")
        await engine.advance(3_000)
        await cart.add("ink")
        await engine.advance(3_000)
        assert await cart.read() == []
        await engine.advance(700)
        assert await cart.read() == ["2 left"]
        await engine.advance(timedelta(days=9))
        assert await cart.read() == ["2 left"]


async def test_forgotten_reminder_does_not_ring_and_a_failing_method_sets_none() -> None:
    async with testing.engine(time="flow") as engine:
        cart = engine.client.actor(Cart, "c")
        await cart.add("pen")
        await cart.pay()
        with pytest.raises(errors.ActorCallError):
            await cart.add_and_fail("ink")
        await engine.advance(timedelta(days=1))
        assert await cart.read() == []


async def test_reminder_with_a_period_rings_until_it_is_forgotten() -> None:
    async with testing.engine(time="flow") as engine:
        cart = engine.client.actor(Cart, "c")
        await cart.report_daily()
        for _ in range(5):
            await engine.advance(timedelta(days=1))
        assert await cart.read() == ["day"] * 3


async def test_reminders_survive_the_engine_and_ring_once_for_the_time_it_was_away() -> None:
    async with testing.engine(time="flow") as engine:
        cart = engine.client.actor(Cart, "c")
        await cart.add("pen")
        await cart.report_daily()
        await engine.crash(away=timedelta(days=2, hours=1))
        await engine.advance(1)
        assert sorted(await cart.read()) == ["1 left", "day"]
        await engine.advance(timedelta(hours=23))
        assert sorted(await cart.read()) == ["1 left", "day", "day"]


async def test_call_of_a_reminder_may_set_it_anew() -> None:
    async with testing.engine(time="flow") as engine:
        cart = engine.client.actor(Cart, "c")
        await cart.count_down(3)
        for _ in range(5):
            await engine.advance(60)
        assert await cart.read() == ["3", "2", "1", "0"]
        calls = [call.method async for call in engine.client.actors.calls("c")]
        assert calls == ["count_down"] * 4


async def test_call_of_a_reminder_that_hangs_can_be_dropped() -> None:
    async with testing.engine(time="flow") as engine:
        cart = engine.client.actor(Cart, "c")
        await cart.hang_later()
        await engine.advance(60)

        (stuck,) = [call async for call in engine.client.actors.calls("c", only_pending=True)]
        assert stuck.method == "hang"
        assert await engine.client.actors.drop("c", stuck.call_id)

        await cart.tell("well")
        assert await cart.read() == ["well"]


async def test_readonly_methods_set_no_reminders() -> None:
    async with testing.engine(time="flow") as engine:
        cart = engine.client.actor(Cart, "c")
        with pytest.raises(errors.ActorCallError, match="set by a method of an actor that is called, not queried"):
            await cart.remind_in_vain()


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("point", ["before commit", "after commit"])
async def test_reminder_that_rings_while_the_engine_dies_rings_once(point: testing.CrashPoint, nth: int) -> None:
    async with testing.engine(time="flow") as engine:
        cart = engine.client.actor(Cart, "c")
        await cart.add("pen")
        engine.crash_at(point, nth)
        await engine.advance(3_700)
        await cart.add("ink", hours=100)
        assert await cart.read() == ["1 left"]
        await engine.crash()
        await engine.advance(3_700)
        assert await cart.read() == ["1 left"]
