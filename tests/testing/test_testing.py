"""The engine that `perdure.testing` gives to users' tests: time to skip, and sudden death."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import count

import pytest

import perdure
from perdure.testing import CrashPoint, Engine, engine

DAY_S = 86_400
calls: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _fresh_calls() -> Iterator[None]:
    yield
    calls.clear()


@perdure.task
def step(x: int, *_after: object) -> int:
    calls[perdure.context().task_id] += 1
    return x + 1


@perdure.task(
    max_retries=1, retry_exceptions=True, retry_policy=perdure.RetryPolicy(initial_interval=3600, max_interval=3600)
)
def fails_once() -> int:
    calls["fails_once"] += 1
    if calls["fails_once"] == 1:
        raise ValueError("not yet")
    return calls["fails_once"]


@perdure.task(timeout=5, max_retries=1)
def hangs_once() -> str:
    calls["hangs_once"] += 1
    while calls["hangs_once"] == 1:
        time.sleep(0.01)
    return "done"


def chain(length: int) -> int:
    value = 0
    for number in range(length):
        value = step.options(task_id=f"s{number}").bind(value)
    return value


# ------------------------------------------------------------------------------ time


async def test_a_days_sleep_is_skipped(perdure_engine: Engine) -> None:
    began = perdure_engine.now()
    assert await perdure_engine.client.run(step.bind(1, perdure.sleep(DAY_S))) == 2
    assert timedelta(days=1) <= perdure_engine.now() - began < timedelta(days=1, minutes=5)


async def test_runs_sleep_side_by_side(perdure_client: perdure.Client, perdure_engine: Engine) -> None:
    began = perdure_engine.now()
    runs = [perdure_client.run(step.bind(hours, perdure.sleep(hours * 3600))) for hours in range(1, 25)]
    assert await asyncio.gather(*runs) == list(range(2, 26))
    assert perdure_engine.now() - began < timedelta(hours=24, minutes=5)


async def test_the_pause_before_a_retry_is_skipped(perdure_engine: Engine) -> None:
    began = perdure_engine.now()
    assert await perdure_engine.client.run(fails_once.bind()) == 2
    assert perdure_engine.now() - began > timedelta(minutes=45)


async def test_an_event_that_does_not_come_within_a_week(perdure_engine: Engine) -> None:
    with pytest.raises(perdure.WorkflowExecutionError):
        await perdure_engine.client.run(step.bind(1, perdure.event("never", timeout=7 * DAY_S)))
    assert calls == {}


async def test_time_is_not_skipped_without_a_waiter(perdure_engine: Engine) -> None:
    began = perdure_engine.now()
    handle = await perdure_engine.client.start(perdure.event("approved", timeout=7 * DAY_S))
    assert (await handle.status()).status is perdure.RunStatus.RUNNING
    await handle.send_event("approved", "yes")
    assert await handle.output() == "yes"
    assert perdure_engine.now() - began < timedelta(days=1)


async def test_a_call_under_way_holds_time(perdure_engine: Engine) -> None:
    for _ in range(20):
        handle = await perdure_engine.client.start(perdure.event("approved", timeout=7 * DAY_S))
        output, _ = await asyncio.gather(handle.output(), handle.send_event("approved", "yes"))
        assert output == "yes"


@pytest.mark.perdure(time="flow")
async def test_time_that_flows_moves_on_request(perdure_engine: Engine) -> None:
    handle = await perdure_engine.client.start(step.bind(1, perdure.sleep(DAY_S)))
    await perdure_engine.advance(DAY_S - 3600)
    assert (await handle.status()).status is perdure.RunStatus.RUNNING
    await perdure_engine.advance(timedelta(hours=2))
    assert await handle.output() == 2


@pytest.mark.perdure(time="flow")
async def test_what_a_timer_sets_off_happens_before_the_next(perdure_engine: Engine) -> None:
    first = perdure.sleep(3600)
    handle = await perdure_engine.client.start(perdure.sleep(3600, after=step.bind(1, first)))
    began = perdure_engine.now()
    await perdure_engine.advance(3 * 3600)
    await handle.output()
    tasks = [task async for task in handle.tasks()]
    ends = sorted(round((task.ended - began) / timedelta(hours=1), 1) for task in tasks if task.ended)
    assert ends == [1, 1, 2]


@pytest.mark.perdure(time="flow")
async def test_advance_does_not_wait_for_a_stuck_attempt(perdure_engine: Engine) -> None:
    handle = await perdure_engine.client.start(hangs_once.bind())
    await perdure_engine.advance(3600)
    await perdure_engine.advance(3600)
    assert await handle.output() == "done"
    assert calls["hangs_once"] == 2


async def test_time_does_not_go_back(perdure_engine: Engine) -> None:
    with pytest.raises(ValueError, match="forward"):
        await perdure_engine.advance(-1)


# ------------------------------------------------------------------------------ death


@pytest.mark.parametrize("point", ["before commit", "after commit"])
async def test_a_chain_survives_a_crash_at_every_commit(point: CrashPoint) -> None:
    length = 4
    for nth in count(1):
        calls.clear()
        async with engine() as world:
            world.crash_at(point, nth)
            assert await world.client.run(chain(length)) == length
            assert calls.keys() == {f"s{number}" for number in range(length)}
            # A step whose commit did not happen runs again; one whose commit did never does.
            assert calls.total() - length <= (world.crashes if point == "before commit" else 0)
            if not world.crashes:
                break
    assert nth > length, "there was a crash for every step at least"


async def test_a_crash_loses_nothing_that_is_asleep(perdure_engine: Engine) -> None:
    handle = await perdure_engine.client.start(step.bind(1, perdure.sleep(7 * DAY_S)))
    await perdure_engine.crash(away=timedelta(days=3))
    assert (await handle.status()).status is perdure.RunStatus.RUNNING
    began = perdure_engine.now()
    assert await handle.output() == 2
    assert perdure_engine.now() - began < timedelta(days=4, minutes=5), "the sleep did not begin anew"
    assert perdure_engine.crashes == 1


async def test_a_crash_under_a_running_task_makes_it_run_again(perdure_engine: Engine) -> None:
    handle = await perdure_engine.client.start(hangs_once.bind())
    while not calls["hangs_once"]:
        await asyncio.sleep(0.001)
    await perdure_engine.crash()
    assert await handle.output() == "done"
    assert calls["hangs_once"] == 2


async def test_events_are_kept_over_a_crash(perdure_engine: Engine) -> None:
    handle = await perdure_engine.client.start(perdure.event("second"))
    perdure_engine.crash_at("after commit")
    assert not await handle.send_event("second", 2), "what was committed before the crash counts"
    assert await handle.output() == 2
    assert perdure_engine.crashes == 1


async def test_a_crash_point_has_a_name(perdure_engine: Engine) -> None:
    with pytest.raises(ValueError, match="crash_at takes"):
        perdure_engine.crash_at("now and then")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------ weight


def test_neither_the_client_nor_the_plugin_loads_the_server() -> None:
    code = (
        "import sys, perdure, perdure.pytest_plugin; "
        "bad = {'perdure.testing', 'perdure.service', 'perdure.storage', 'perdure.worker'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
