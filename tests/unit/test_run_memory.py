"""A run that is not needed any more leaves memory at once, without a garbage collection."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator

import pytest

from perdure.engine.graph_run.state import Scope, Task
from perdure.model import NodeRef, SpecNode, Wait, WaitEvent
from perdure.service.common.aside import NODES_AT_ONCE
from unit.driver import Driver, call, graph
from unit.engine_by_hand import running_engine


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def fresh() -> Driver:
    waits = SpecNode("wait", Wait((NodeRef("a"), NodeRef("b"))))
    return Driver(graph(call("a"), call("b", "a"), SpecNode("event", WaitEvent("k")), waits, call("c", "b", "event")))


def grown() -> Driver:
    run = fresh()
    run.go_on("a", graph(call("x"), call("y", "x")))
    run.go_on("x", graph(call("z")))
    return run


def restored() -> Driver:
    return grown().restarted()


def ended() -> Driver:
    run = Driver(graph(call("a"), call("b", "a")))
    run.go_on("a", graph(call("x")))
    run.fail("x")
    return run


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("make", [fresh, grown, restored, ended])
def test_the_tasks_of_a_run_are_freed_with_it(make: Callable[[], Driver]) -> None:
    before = left()
    run = make()
    assert left() > before
    del run
    assert left() == before


@pytest.mark.usefixtures("no_collection")
async def test_a_canceled_run_leaves_the_engine() -> None:
    async with running_engine() as engine:
        before = left()
        await engine.start(graph(*[call(f"t{number}") for number in range(NODES_AT_ONCE + 1)]))
        assert left() > before
        await engine.kernel.lifecycle.cancel("default", "w")
        while not (engine.kernel.is_quiet and left() == before):
            await asyncio.sleep(0)


def left() -> int:
    return sum(type(each) in (Task, Scope) for each in gc.get_objects())
