"""The engine dies in the middle of a batch: the client asks again, and everything is there once."""

from __future__ import annotations

import pytest

import perdure
from patience import PATIENCE_S
from perdure import testing
from perdure.testing import CrashPoint

COUNT = 120
POINTS: tuple[CrashPoint, ...] = ("before commit", "after commit")


@perdure.task
def double(number: int) -> int:
    return 2 * number


@pytest.mark.parametrize("point", POINTS)
async def test_runs_are_started_once(point: CrashPoint) -> None:
    async with testing.engine() as engine:
        engine.crash_at(point, 1)
        graph = double.bind(perdure.input("n"))
        handles = await engine.client.start_many(perdure.RunItem(graph, inputs={"n": n}) for n in range(COUNT))
        assert engine.crashes == 1
        engine.crash_at(point, 2)  # among the ends
        assert await engine.client.outputs(handles, timeout=PATIENCE_S) == [2 * n for n in range(COUNT)]
        listed = [info.run_id async for info in engine.client.list()]
        assert sorted(listed) == sorted(handle.run_id for handle in handles)


@pytest.mark.parametrize("point", POINTS)
async def test_sleepers_wake_and_events_arrive_once(point: CrashPoint) -> None:
    async with testing.engine(time="flow") as engine:
        graph = perdure.wait([perdure.event("go"), perdure.sleep(3600)], num_returns=2)
        engine.crash_at(point, 1)
        handles = await engine.client.start_many(perdure.RunItem(graph, workflow_id=f"w{n}") for n in range(COUNT))
        engine.crash_at(point, 1)
        events = [perdure.EventItem(handle.workflow_id, "go", handle.workflow_id, "1") for handle in handles]
        await engine.client.send_events(events)
        assert await engine.client.send_events(events) == [False] * COUNT
        assert engine.crashes == 2
        await engine.crash(away=3601)
        ready = [done for done, _rest in await engine.client.outputs(handles, timeout=PATIENCE_S)]
        assert ready == [[f"w{n}", None] for n in range(COUNT)]
