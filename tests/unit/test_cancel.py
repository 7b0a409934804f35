"""A cancellation is durable before it is applied: memory and store tell the same story whatever fails."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure import errors
from perdure.model import RunStatus, SpecNode, WaitEvent
from perdure.storage.ports import StorageFull, StorageUnavailable, Unstorable
from unit.driver import VALUE, call, graph
from unit.engine_by_hand import Engine, running_engine, soon

CHAIN = graph(call("a"), call("b", "a"))
WAITS = graph(SpecNode("w", WaitEvent("go")), call("b", "w"))


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with running_engine() as engine:
        yield engine


async def status_of(engine: Engine) -> RunStatus:
    return (await engine.kernel.queries.row("default", "w")).status


async def test_a_cancellation_is_recorded_and_then_applied(engine: Engine) -> None:
    run = await engine.start(CHAIN)
    engine.store.hold()
    canceled = await soon(engine.kernel.lifecycle.cancel("default", "w", "enough"))
    live = engine.kernel.scheduler.memory.find(run.row.run_id)
    assert live is not None
    assert live.run.status is RunStatus.RUNNING
    assert not engine.executor.cancelled
    engine.store.let_all_go()
    view = await canceled
    assert view.row.status is RunStatus.CANCELED
    assert (view.counts.canceled, view.counts.pending) == (1, 1)
    assert engine.executor.cancelled == [("a", 1)]
    assert await engine.tasks() == {"a": "CANCELED", "b": "BLOCKED"}, "as it is stored"


async def test_a_run_goes_on_if_a_full_store_refuses_its_cancellation(engine: Engine) -> None:
    run = await engine.start(CHAIN)
    engine.store.hold()
    canceled = await soon(engine.kernel.lifecycle.cancel("default", "w", "enough"))
    engine.succeed(run, "a")  # meanwhile
    engine.store.errors = [StorageFull("no room")]
    engine.store.let_all_go()
    with pytest.raises(errors.StorageFullError):
        await canceled
    await engine.kernel.journal.barrier()
    assert await engine.tasks() == {"a": "SUCCESSFUL", "b": "READY"}
    engine.succeed(run, "b")
    await engine.kernel.journal.barrier()
    assert await status_of(engine) is RunStatus.SUCCESSFUL
    assert not engine.executor.cancelled


async def test_a_cancellation_with_a_lost_answer_is_repeated(engine: Engine) -> None:
    run = await engine.start(CHAIN)
    engine.store.hold()
    canceled = await soon(engine.kernel.lifecycle.cancel("default", "w", "enough"))
    engine.store.errors = [StorageUnavailable("the answer was lost")]
    engine.store.let_one_go()
    with pytest.raises(errors.DatabaseUnavailableError):
        await canceled
    live = engine.kernel.scheduler.memory.find(run.row.run_id)
    assert live is not None
    assert live.run.status is RunStatus.RUNNING, "nothing is applied before it is durable"
    engine.succeed(run, "a")  # too late if it did happen
    status = await soon(status_of(engine))
    engine.store.let_all_go()
    assert await status is RunStatus.CANCELED
    assert await engine.tasks() == {"a": "CANCELED", "b": "BLOCKED"}


async def test_an_unstorable_cancellation_leaves_the_run_unchanged(engine: Engine) -> None:
    run = await engine.start(CHAIN)
    engine.store.errors = [Unstorable("not a text", "SetRun.failure")]
    with pytest.raises(errors.InvalidFieldError, match="not a text"):
        await engine.kernel.lifecycle.cancel("default", "w", "bad")
    engine.succeed(run, "a")
    await engine.kernel.journal.barrier()
    assert await engine.tasks() == {"a": "SUCCESSFUL", "b": "READY"}


async def test_a_bug_of_the_store_that_passes_does_not_hinder_it(engine: Engine) -> None:
    await engine.start(CHAIN)
    engine.store.errors = [ValueError("a bug")]
    assert (await engine.kernel.lifecycle.cancel("default", "w")).row.status is RunStatus.CANCELED


async def test_two_at_a_time_are_one(engine: Engine) -> None:
    await engine.start(CHAIN)
    first = await soon(engine.kernel.lifecycle.cancel("default", "w", "one"))
    second = await soon(engine.kernel.lifecycle.cancel("default", "w", "two"))
    assert [(await each).row.status for each in (first, second)] == [RunStatus.CANCELED] * 2


async def test_an_event_that_comes_meanwhile_waits_for_the_decision(engine: Engine) -> None:
    await engine.start(WAITS)
    engine.store.hold()
    canceled = await soon(engine.kernel.lifecycle.cancel("default", "w"))
    sent = await soon(
        engine.kernel.events.send("default", "w", key="go", event_id="1", payload=VALUE),
    )
    engine.store.errors = [StorageFull("no room")]
    engine.store.let_all_go()
    with pytest.raises(errors.StorageFullError):
        await canceled
    await sent
    await engine.kernel.journal.barrier()
    assert await engine.tasks() == {"w": "SUCCESSFUL", "b": "READY"}


async def test_an_end_that_is_on_its_way_comes_before_it(engine: Engine) -> None:
    run = await engine.start(graph(call("a")))
    engine.store.hold()
    engine.succeed(run, "a")
    canceled = await soon(engine.kernel.lifecycle.cancel("default", "w"))
    engine.store.let_all_go()
    assert (await canceled).row.status is RunStatus.SUCCESSFUL
