"""A subscriber to the tasks of a run gets every state, in order, and none before it is durable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from perdure.model import RetryRule, SpecNode, TaskOptions, WaitEvent
from perdure.service.runs.changes import Subscription
from unit.driver import ONCE, VALUE, call, graph
from unit.engine_by_hand import Engine, running_engine, soon

LIMITED = replace(ONCE, attempt_timeout_ms=60_000)
TWICE = TaskOptions(retry=RetryRule(max_attempts=2, application_errors=True))


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with running_engine() as engine:
        yield engine


async def heard(engine: Engine, subscription: Subscription) -> list[tuple[str, str]]:
    await engine.kernel.journal.barrier()
    return await heard_by_now(subscription)


async def heard_by_now(subscription: Subscription) -> list[tuple[str, str]]:
    changes = await subscription.next_batch(0)
    return [(change.task[2].task_id, str(change.task[2].status)) for change in changes if change.task is not None]


async def test_an_attempt_with_a_limit_is_told_to_run(engine: Engine) -> None:
    run = await engine.start(graph(call("a"), call("b", "a", options=LIMITED)))
    with engine.kernel.changes.subscribe([run.row.run_id]) as subscription:
        engine.begin(run, "a")
        engine.succeed(run, "a")
        assert await heard(engine, subscription) == [("a", "RUNNING"), ("a", "SUCCESSFUL"), ("b", "READY")]
        engine.begin(run, "b")
        engine.succeed(run, "b")
        assert await heard(engine, subscription) == [("b", "RUNNING"), ("b", "SUCCESSFUL")]


async def test_a_wait_that_begins_is_told(engine: Engine) -> None:
    spec = graph(call("a"), SpecNode("w", WaitEvent("go"), after=("a",)), call("b", "w"))
    run = await engine.start(spec)
    with engine.kernel.changes.subscribe([run.row.run_id]) as subscription:
        engine.succeed(run, "a")
        assert ("w", "RUNNING") in await heard(engine, subscription)
        await engine.kernel.events.send("default", "w", key="go", event_id="1", payload=VALUE)
        assert await heard(engine, subscription) == [("w", "SUCCESSFUL"), ("b", "READY")]


async def test_a_state_is_told_as_it_was_when_it_was_recorded(engine: Engine) -> None:
    run = await engine.start(graph(call("a", options=TWICE), call("b"), call("c", "a", "b")))
    with engine.kernel.changes.subscribe([run.row.run_id]) as subscription:
        engine.store.hold()
        engine.fail(run, "a")
        await soon(engine.store.commits.get())
        engine.fail(run, "b")  # which ends the run, and is not durable yet
        engine.store.let_one_go()
        await soon(engine.store.commits.get())
        assert await heard_by_now(subscription) == [("a", "BACKING_OFF")]
        engine.store.let_all_go()
        assert sorted(await heard(engine, subscription)) == [("a", "CANCELED"), ("b", "FAILED")]


async def test_an_attempt_that_begins_is_told_after_what_came_before_it(engine: Engine) -> None:
    run = await engine.start(graph(call("a"), call("b"), call("c", "a", "b")))
    with engine.kernel.changes.subscribe([run.row.run_id]) as subscription:
        engine.store.hold()
        engine.succeed(run, "a")
        engine.begin(run, "b")
        assert await heard_by_now(subscription) == []
        engine.store.let_all_go()
        assert await heard(engine, subscription) == [("a", "SUCCESSFUL"), ("b", "RUNNING")]
