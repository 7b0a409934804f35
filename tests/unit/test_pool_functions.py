"""Attempts of registered functions go to agents whose workers have them."""

from __future__ import annotations

from perdure.model import NULL, Call, Function
from perdure.service.executors.pool.leases import AgentSession
from perdure.service.executors.port import Attempt, WaitReason
from perdure.v1 import worker_service_pb2 as pb
from perdure.v1.function_service_pb2 import FunctionInfo
from unit.test_pool import ONE, World
from unit.test_pool import world as world


async def attach(world: World, name: str, *functions: tuple[str, str]) -> AgentSession:
    hello = pb.AgentHello(agent_id=name, cluster_id=name, python_version="3.11")
    hello.capacity.total.update(CPU=2)
    hello.functions.extend(FunctionInfo(name=function, version=version) for function, version in functions)
    session = world.pool.sessions.agent_connected(hello)
    await world.settle()
    return session


async def submit(world: World, task: str, name: str, version: str = "") -> None:
    call = Call(Function(f"{name}@{version}", name, version=version), NULL)
    world.pool.submit(Attempt("default", "wf", "run", task, 1, call, ONE, (), "", False, "", ()))
    await world.settle()


def starts(agent: AgentSession) -> list[str]:
    found = [message.start.lease_id for message in agent.messages if message.WhichOneof("kind") == "start"]
    agent.messages.clear()
    return found


def reason(world: World, task: str) -> WaitReason | None:
    waiting = world.pool.waiting("run", task, 1)
    return None if waiting is None else waiting.reason


async def test_a_lease_is_asked_of_an_agent_that_has_the_function(world: World) -> None:
    old = await attach(world, "old", ("charge", "3"))
    new = await attach(world, "new", ("charge", "4"))
    await submit(world, "a", "charge", "4")
    assert not starts(old)
    (lease,) = starts(new)
    await world.connect(lease)
    assert reason(world, "a") is None


async def test_what_no_agent_has_waits_for_one_and_asks_for_nothing(world: World) -> None:
    old = await attach(world, "old", ("charge", "3"))
    await submit(world, "a", "charge", "4")
    await world.pass_(60)
    assert not starts(old)
    assert reason(world, "a") is WaitReason.NO_FUNCTION
    waiting = world.pool.waiting("run", "a", 1)
    assert waiting is not None
    assert "'charge' version '4'" in waiting.text
    new = await attach(world, "new", ("charge", "4"))
    assert len(starts(new)) == 1
    assert not starts(old)


async def test_without_agents_the_reason_is_that(world: World) -> None:
    await submit(world, "a", "charge", "4")
    assert reason(world, "a") is WaitReason.NO_AGENT


async def test_agents_with_the_same_functions_share_the_work(world: World) -> None:
    agents = [await attach(world, name, ("charge", "")) for name in ("one", "two")]
    for number in range(4):
        await submit(world, f"t{number}", "charge")
    assert [len(starts(agent)) for agent in agents] == [2, 2]


async def test_a_lost_attempt_goes_to_an_agent_with_the_function(world: World) -> None:
    one = await attach(world, "one", ("charge", ""))
    other = await attach(world, "other")
    await submit(world, "a", "charge")
    (lease,) = starts(one)
    await world.connect(lease)
    await submit(world, "b", "charge")
    world.pool.sessions.agent_lost(one)
    await world.settle()
    assert not starts(other)
    assert reason(world, "b") is WaitReason.NO_FUNCTION
    again = await attach(world, "again", ("charge", ""))
    assert starts(again)


async def test_functions_of_agents_are_listed_as_long_as_they_are_attached(world: World) -> None:
    one = await attach(world, "one", ("charge", "3"), ("refund", ""))
    await attach(world, "two", ("charge", "4"))
    before = world.pool.functions()
    assert set(before) == {("charge", "3"), ("refund", ""), ("charge", "4")}
    assert world.pool.functions() is before
    world.pool.sessions.agent_lost(one)
    assert set(world.pool.functions()) == {("charge", "4")}


async def test_code_that_travels_goes_anywhere(world: World) -> None:
    one = await attach(world, "one", ("charge", ""))
    await attach(world, "two")
    await world.submit("a")
    assert len(starts(one)) == 1


async def test_queues_of_agents_that_are_gone_are_forgotten(world: World) -> None:
    await attach(world, "other")
    for number in range(5):
        agent = await attach(world, f"agent{number}", ("charge", ""))
        await submit(world, f"t{number}", "charge")
        world.pool.cancel("run", f"t{number}", 1)
        for lease in list(agent.leases.values()):
            world.pool.sessions.lease_ended(agent, pb.LeaseEnded(lease_id=lease.id))
        world.pool.sessions.agent_lost(agent)
        await world.settle()
    assert len(world.pool._state.shapes) <= 1
