"""What callers of an actor are told at moments when its memory, the store and others know different things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure import errors
from perdure.engine.messages import TaskFailed
from perdure.model import ACTOR_DELETED, MethodCall, MethodOutcome
from perdure.service.common.repeat import Repeat
from perdure.service.operations.actors import CallResult
from unit.actor_engine import NO_ARGUMENTS, STATE, ActorEngine, running_actor_engine
from unit.driver import ERROR

CALL = MethodCall("method", NO_ARGUMENTS, call_id="c")


@pytest.fixture
async def engine() -> AsyncIterator[ActorEngine]:
    async with running_actor_engine() as engine:
        yield engine


async def test_a_caller_whose_wait_ends_is_told_no_failure_that_is_not_durable(engine: ActorEngine) -> None:
    asked = asyncio.create_task(engine.kernel.actors.call("default", "a", CALL, wait_s=0.01))
    attempt = await engine.executor.submitted.get()
    engine.store.hold()
    engine.executor.report((attempt.run_id, TaskFailed(attempt.task_id, attempt.number, ERROR, engine.now_ms)))
    await engine.store.commits.get()
    done, _ = await asyncio.wait({asked}, timeout=0.3)
    assert not done or asked.result().value is None
    engine.store.let_all_go()
    await asked


def deleting_before_the_next_event(engine: ActorEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    offer = engine.kernel.events.offer

    async def offered(*given: Any) -> Any:
        monkeypatch.setattr(engine.kernel.events, "offer", offer)
        await engine.kernel.actors.delete("default", "a")
        return await offer(*given)

    monkeypatch.setattr(engine.kernel.events, "offer", offered)


async def test_a_repeat_whose_actor_is_deleted_meanwhile_is_not_a_new_call(
    engine: ActorEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.call("c", MethodOutcome(STATE, STATE))
    deleting_before_the_next_event(engine, monkeypatch)
    engine.now_ms += 100
    repeat = Repeat(101, 100)
    assert await engine.kernel.actors.call("default", "a", CALL, wait_s=0, repeat=repeat) == CallResult(
        ACTOR_DELETED, 0
    )


async def test_a_call_whose_actor_is_deleted_before_it_is_recorded_finds_none(
    engine: ActorEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleting_before_the_next_event(engine, monkeypatch)
    with pytest.raises(errors.ActorNotFoundError):
        await engine.kernel.actors.call("default", "a", CALL, wait_s=0)
