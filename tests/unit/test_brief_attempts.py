"""Attempts whose beginning and end are reported together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from patience import PATIENCE_S
from perdure.engine.graph_run.run import Run
from perdure.engine.messages import AttemptStarted, Event, TaskFailed, TaskSucceeded
from perdure.service.runs.views import RunView
from unit.driver import ERROR, VALUE, call, graph
from unit.engine_by_hand import Engine, running_engine

BEGAN_MS, ENDED_MS = 7_000, 9_000


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with running_engine() as engine, asyncio.timeout(PATIENCE_S):
        yield engine


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What runs are told."""
    events: list[Event] = []
    apply = Run.apply

    def note(run: Run, event: Event) -> object:
        events.append(event)
        return apply(run, event)

    monkeypatch.setattr(Run, "apply", note)
    return events


def both(engine: Engine, run: RunView, end: TaskSucceeded | TaskFailed) -> None:
    began = AttemptStarted(end.task_id, end.attempt, engine.now_ms, BEGAN_MS)
    engine.executor.report((run.row.run_id, began), (run.row.run_id, end))


async def test_an_end_that_says_when_the_attempt_began_is_enough(engine: Engine, applied: list[Event]) -> None:
    run = await engine.start(graph(call("a"), call("b", "a")))
    end = TaskSucceeded("a", 1, VALUE, engine.now_ms, BEGAN_MS, ENDED_MS)
    both(engine, run, end)
    assert applied == [end]
    (_, task), _ = await engine.kernel.queries.tasks("default", "w")
    assert (str(task.status), task.started_ms, task.ended_ms) == ("SUCCESSFUL", BEGAN_MS, ENDED_MS)


async def test_so_is_a_failure(engine: Engine, applied: list[Event]) -> None:
    run = await engine.start(graph(call("a")))
    end = TaskFailed("a", 1, ERROR, engine.now_ms, BEGAN_MS, ENDED_MS)
    both(engine, run, end)
    assert applied == [end]
    ((_, task),) = await engine.kernel.queries.tasks("default", "w")
    assert task.started_ms == BEGAN_MS


async def test_an_end_that_does_not_say_it_needs_the_beginning(engine: Engine, applied: list[Event]) -> None:
    run = await engine.start(graph(call("a")))
    both(engine, run, TaskSucceeded("a", 1, VALUE, engine.now_ms))
    assert [type(event) for event in applied] == [AttemptStarted, TaskSucceeded]
    ((_, task),) = await engine.kernel.queries.tasks("default", "w")
    assert task.started_ms == BEGAN_MS


async def test_whoever_watches_sees_both(engine: Engine) -> None:
    run = await engine.start(graph(call("a"), call("b", "a")))
    with engine.kernel.changes.subscribe([run.row.run_id]) as subscription:
        both(engine, run, TaskSucceeded("a", 1, VALUE, engine.now_ms, BEGAN_MS, ENDED_MS))
        seen: list[str] = []
        while "SUCCESSFUL" not in seen:
            changes = await subscription.next_batch(PATIENCE_S)
            seen += [str(change.task[2].status) for change in changes if change.task and change.task[2].task_id == "a"]
    assert seen == ["RUNNING", "SUCCESSFUL"]
