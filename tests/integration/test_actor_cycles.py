"""Calls that would wait for themselves: each fails at once, names its cycle, and costs no other call."""

from __future__ import annotations

import asyncio

import pytest

import perdure
from patience import PATIENCE_S
from perdure import errors


@perdure.task
async def count_at(actor_id: str) -> int:
    return await Counter.get(actor_id).incr()


@perdure.task
def count_at_blocking(actor_id: str) -> int:
    return Counter.get(actor_id).incr.run()


@perdure.task
async def read_at(actor_id: str) -> int:
    return await Counter.get(actor_id).read()


@perdure.task
def graph_of(actor_id: str) -> int:
    return count_at.bind(actor_id)


@perdure.task
async def run_count_at(actor_id: str) -> int:
    here = perdure.context()
    async with perdure.Client(here.engine, namespace=here.namespace) as client:
        return await client.run(count_at.bind(actor_id), workflow_id="inner")


@perdure.actor
class Counter(perdure.Actor):
    def __init__(self) -> None:
        self.n = 0

    @perdure.method
    def incr(self) -> int:
        self.n += 1
        return self.n

    @perdure.readonly
    def read(self) -> int:
        return self.n

    @perdure.readonly
    async def count_from_query(self, own: str) -> int:
        return await Counter.get(own).incr()

    @perdure.method
    async def query_itself(self, own: str) -> int:
        return await Counter.get(own).count_from_query(own)

    @perdure.method
    async def call_itself(self, own: str) -> int:
        return await Counter.get(own).incr()

    @perdure.method
    def return_task(self, own: str) -> int:
        return count_at.bind(own)

    @perdure.method
    def return_blocking_task(self, own: str) -> int:
        return count_at_blocking.bind(own)

    @perdure.method
    def return_graph_of_graph(self, own: str) -> int:
        return graph_of.bind(own)

    @perdure.method
    def return_run(self, own: str) -> int:
        return run_count_at.bind(own)

    @perdure.method
    async def run_workflow(self, own: str) -> int:
        here = perdure.context()
        async with perdure.Client(here.engine, namespace=here.namespace) as client:
            return await client.run(count_at.bind(own), workflow_id="inner")

    @perdure.method
    def return_reader(self, own: str) -> int:
        self.n += 10
        return read_at.bind(own)

    @perdure.method
    async def start_workflow(self, own: str) -> str:
        here = perdure.context()
        async with perdure.Client(here.engine, namespace=here.namespace) as client:
            await client.start(count_at.bind(own), workflow_id="later")
        return "later"

    @perdure.method
    async def make_a_caller(self, own: str) -> int:
        return await Caller.get("made", own).value()

    @perdure.method
    def through_another(self, other: str, own: str) -> int:
        return call_task_of.bind(other, own)


@perdure.actor
class Caller(perdure.Actor):
    """Its constructor calls another actor."""

    def __init__(self, other: str) -> None:
        self.found = Counter.get(other).incr.run()

    @perdure.method
    def value(self) -> int:
        return self.found


@perdure.task
async def call_task_of(actor_id: str, target: str) -> int:
    return await Counter.get(actor_id).return_task(target)


CYCLES = {
    "call_itself": "default/a -> default/a",
    "query_itself": "default/a -> default/a",
    "return_task": "default/a -> default/a",
    "return_blocking_task": "default/a -> default/a",
    "return_graph_of_graph": "default/a -> default/a",
    "return_run": "default/a -> default/inner -> default/a",
    "run_workflow": "default/a -> default/inner -> default/a",
}


@pytest.mark.parametrize("method", CYCLES)
async def test_a_call_that_waits_for_itself_fails_alone(client: perdure.Client, method: str) -> None:
    actor = client.actor(Counter, "a")

    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(errors.ActorCallError) as failed:
            await getattr(actor, method)("a")
        assert f"would wait for itself: {CYCLES[method]}" in str(failed.value)
        assert await actor.incr() == 1


async def test_a_cycle_through_another_actor_and_tasks_of_both_is_named(client: perdure.Client) -> None:
    actor = client.actor(Counter, "a")

    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(errors.ActorCallError, match="default/a -> default/b -> default/a"):
            await actor.through_another("b", "a")
        assert [await actor.incr(), await client.actor(Counter, "b").incr()] == [1, 1]


async def test_a_constructor_that_calls_the_actor_that_waits_for_it_fails(client: perdure.Client) -> None:
    actor = client.actor(Counter, "a")

    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(errors.ActorCallError, match="default/a -> default/made -> default/a"):
            await actor.make_a_caller("a")
        assert await actor.incr() == 1
        assert await client.actor(Caller, "made", "a").value() == 2  # nobody waits for it with a turn of the other


async def test_a_task_of_a_returned_graph_reads_its_own_actor(client: perdure.Client) -> None:
    async with asyncio.timeout(PATIENCE_S):
        assert await client.actor(Counter, "a").return_reader("a") == 10


async def test_a_query_has_no_turn_that_a_call_would_wait_for(client: perdure.Client) -> None:
    async with asyncio.timeout(PATIENCE_S):
        assert await client.actor(Counter, "a").count_from_query("a") == 1


async def test_a_workflow_that_nobody_waits_for_may_call_the_actor_that_started_it(client: perdure.Client) -> None:
    actor = client.actor(Counter, "a")

    async with asyncio.timeout(PATIENCE_S):
        started = await actor.start_workflow("a")
        assert await client.handle(started).output() == 1


async def test_workflows_that_wait_for_each_other_have_a_longest_row(client: perdure.Client) -> None:
    """Their number is bounded, so that no program holds workers without end."""
    async with asyncio.timeout(2 * PATIENCE_S):
        with pytest.raises(errors.WorkflowExecutionError, match="at most 64 workflows and actors may wait"):
            await client.run(nest.bind(80))


@perdure.task
async def nest(depth: int) -> int:
    here = perdure.context()
    async with perdure.Client(here.engine, namespace=here.namespace) as client:
        return await client.run(nest.bind(depth - 1)) if depth else 0
