"""The store knows of every run at work that it is not dormant, so that recovery loads it, at no commit of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure import errors
from perdure.engine.messages import EventArrived, TimerFired
from perdure.model import MethodCall, MethodOutcome, Sleep, SpecNode, WaitEvent
from perdure.service.runs.live import Live
from perdure.storage.ports import StorageFull
from perdure.storage.writes import SetDormant
from unit.actor_engine import NO_ARGUMENTS, STATE, ActorEngine, running_actor_engine
from unit.driver import call, graph
from unit.engine_by_hand import NOW_MS, soon

DONE = MethodOutcome(STATE, STATE)


@pytest.fixture
async def engine() -> AsyncIterator[ActorEngine]:
    async with running_actor_engine() as engine:
        yield engine


async def is_dormant(engine: ActorEngine) -> bool:
    row = await engine.store.find_run("default", "a")
    assert row is not None
    return row.is_dormant


async def record(engine: ActorEngine, call_id: str) -> None:
    await engine.kernel.actors.call("default", "a", MethodCall("method", NO_ARGUMENTS, call_id=call_id), wait_s=0)


async def test_a_call_is_two_commits(engine: ActorEngine) -> None:
    await engine.call("before", DONE)
    commits = engine.store.count
    await engine.call("c", DONE)
    assert engine.store.count - commits == 2
    assert await is_dormant(engine)


@pytest.mark.parametrize("event_first", [False, True])
async def test_a_call_that_comes_with_the_end_of_another_one_is_recovered(
    engine: ActorEngine, event_first: bool
) -> None:
    await record(engine, "c1")
    first = await engine.executor.submitted.get()
    assert not await is_dormant(engine)
    engine.store.hold()
    event = engine.kernel.events.send("default", "a", key="k", event_id="e", payload=STATE)
    blocked = await soon(event)  # other commits wait behind it
    recorded = []
    if event_first:
        recorded.append(await soon(record(engine, "c2")))
    engine.report(first, DONE)
    if not event_first:
        recorded.append(await soon(record(engine, "c2")))
    engine.store.let_all_go()
    await blocked
    for each in recorded:
        await each
    second = await engine.executor.submitted.get()
    assert second.task_id == "c2"
    assert not await is_dormant(engine)
    engine.report(second, DONE)
    await engine.ended("c2")
    assert await is_dormant(engine)


async def test_a_call_after_one_that_the_store_refused_is_recovered(engine: ActorEngine) -> None:
    engine.store.errors.append(StorageFull("no room"))
    with pytest.raises(errors.StorageFullError):
        await record(engine, "c1")
    assert await is_dormant(engine)
    await record(engine, "c2")
    attempt = await engine.executor.submitted.get()
    assert attempt.task_id == "c2"
    assert not await is_dormant(engine)


async def test_the_dormancy_of_a_run_is_written_when_it_changes(engine: ActorEngine) -> None:
    written = []
    commit = engine.store.commit

    async def noting(entries):  # type: ignore[no-untyped-def]
        written.extend(write.is_dormant for entry in entries for write in entry if isinstance(write, SetDormant))
        return await commit(entries)

    engine.store.commit = noting  # type: ignore[method-assign]
    for name in ("c1", "c2"):
        await engine.call(name, DONE)
    assert written == [False, True, False, True]


async def is_active(engine: ActorEngine, run_id: str) -> bool:
    row = await engine.store.get_run(run_id)
    assert row is not None
    return not row.is_dormant


async def test_a_timer_after_an_event_that_is_not_durable_makes_the_run_active(engine: ActorEngine) -> None:
    run = await engine.start(graph(SpecNode("s", Sleep(until_ms=NOW_MS + 3_600_000)), call("t", "s")))
    run_id = run.row.run_id
    assert await engine.kernel.scheduler.when_live(run_id, lambda live: live) is not None
    engine.kernel.scheduler.roused(run_id, SetDormant(run_id, False))  # the store never has it
    engine.kernel.scheduler.deliver(run_id, TimerFired("s", 1, NOW_MS + 3_600_000))
    assert (await engine.executor.submitted.get()).task_id == "t"
    assert await is_active(engine, run_id)


async def test_an_event_before_one_that_is_not_durable_makes_the_run_active(engine: ActorEngine) -> None:
    run = await engine.start(graph(SpecNode("e", WaitEvent("k")), call("t", "e")))
    run_id, scheduler = run.row.run_id, engine.kernel.scheduler
    first, second = SetDormant(run_id, False), SetDormant(run_id, False)

    def while_live(live: Live | None) -> None:
        assert live is not None
        scheduler.roused(run_id, first)
        scheduler.roused(run_id, second)  # the store never has it
        scheduler.deliver(run_id, EventArrived(1, "k", STATE, NOW_MS), first)

    await scheduler.when_live(run_id, while_live)
    assert (await engine.executor.submitted.get()).task_id == "t"
    assert await is_active(engine, run_id)
