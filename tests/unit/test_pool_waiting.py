"""Leases that wait for the engine lend their CPUs: the decisions of the pool, one at a time."""

from __future__ import annotations

import pytest

from perdure import optionwire
from perdure.engine.messages import AttemptLost
from perdure.model import Resources, Shape
from perdure.service.executors.pool.leases import Lease
from perdure.service.executors.pool.placing import WAITING_MAX
from perdure.service.executors.pool.provisioning import BLOCKED_S, FREE_SHAPE_LEASES_MAX, UNFAIR_S
from perdure.v1 import worker_service_pb2 as pb
from unit.test_pool import FREE, GPU, ONE, OTHER, THREE, World, message, names, sent
from unit.test_pool import world as world

CALLERS = ("default/wf",)


async def wait(world: World, lease: Lease, attempt: pb.Attempt, *, is_over: bool = False) -> None:
    """The attempt begins to wait for the engine, and does so for long; or it goes on."""
    waits = [pb.Wait(token=attempt.token, is_over=is_over)]
    world.pool.sessions.lease_said(lease, pb.ServeLeaseRequest(waits=waits))
    if not is_over:
        world.now_s += BLOCKED_S
    await world.settle()


async def waiting_lease(world: World, task: str = "caller", shape: Shape = ONE) -> tuple[Lease, pb.Attempt]:
    """A new lease whose attempt waits for the engine."""
    await world.submit(task, shape=shape)
    (lease,) = await world.leases()
    (attempt,) = sent(lease)
    await world.begin(lease, attempt)
    await wait(world, lease, attempt)
    return lease, attempt


async def borrowed_no_more(world: World, shape: Shape = ONE) -> tuple[Lease, pb.Attempt, Lease]:
    """A lease whose attempt waited and goes on, that attempt, and an idle lease of the shape that borrowed its CPU."""
    caller, attempt = await waiting_lease(world)
    await world.submit("callee", shape=shape, callers=CALLERS)
    (borrowing,) = await world.leases()
    await world.end(borrowing, *sent(borrowing))
    await wait(world, caller, attempt, is_over=True)
    return caller, attempt, borrowing


def ordered(world: World) -> list[Shape]:
    """The shapes that the agent is to start leases of."""
    starts = [message.start for message in world.agent.messages if message.WhichOneof("kind") == "start"]
    return [optionwire.shape_from_proto(start.shape) for start in starts]


async def test_a_chain_of_calls_has_a_lease_for_each(world: World) -> None:
    await world.cluster(CPU=1)
    await waiting_lease(world)
    for number in range(30):
        await world.submit(f"callee{number}", callers=CALLERS)
        assert [shape.resources.num_cpus for shape in ordered(world)] == [0]
        (lease,) = await world.leases()
        (attempt,) = sent(lease)
        await world.begin(lease, attempt)
        await wait(world, lease, attempt)
    assert world.pool._state.agents["agent"].free(ONE)["CPU"] == 0


async def test_a_short_wait_starts_no_lease(world: World) -> None:
    await world.cluster(CPU=1)
    await waiting_lease(world)
    world.now_s -= BLOCKED_S / 2
    await world.submit("callee", callers=CALLERS)
    assert ordered(world) == []
    await world.pass_(BLOCKED_S)
    assert [shape.resources.num_cpus for shape in ordered(world)] == [0]


async def test_a_lease_that_does_not_wait_lends_nothing(world: World) -> None:
    await world.cluster(CPU=1)
    lease, attempt = await waiting_lease(world)
    await wait(world, lease, attempt, is_over=True)
    await world.submit("callee", callers=CALLERS)
    assert ordered(world) == []


async def test_the_cpu_of_a_lease_is_lent_once(world: World) -> None:
    await world.cluster(CPU=1)
    await waiting_lease(world)
    await world.submit("one", "two", callers=CALLERS)
    assert len(ordered(world)) == 1


async def test_a_lease_borrows_as_many_cpus_as_are_missing(world: World) -> None:
    await world.cluster(CPU=3)
    await waiting_lease(world)
    await world.submit("callee", shape=THREE, callers=CALLERS)
    assert [shape.resources.num_cpus for shape in ordered(world)] == [2]


async def test_only_cpus_are_lent(world: World) -> None:
    await world.cluster(CPU=2, GPU=1)
    await waiting_lease(world, shape=GPU)
    await world.submit("callee", shape=Shape(Resources(num_gpus=1), '{"env_vars":{"A":"1"}}'), callers=CALLERS)
    assert ordered(world) == []


async def test_a_borrowing_lease_starts_beside_the_one_that_lends(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit("caller")
    (lease_id,) = world.told("start")
    hello = pb.LeaseHello(lease_id=lease_id, engine_id="engine", python_version="3.11", node_id="node-1")
    lease = world.pool.sessions.lease_connected(hello)
    assert lease is not None
    await world.settle()
    (attempt,) = sent(lease)
    await world.begin(lease, attempt)
    await wait(world, lease, attempt)
    await world.submit("callee", callers=CALLERS)
    assert [shape.scheduling for shape in ordered(world)] == ["node?:node-1"]


async def test_a_borrowing_lease_rests_when_the_waiting_one_goes_on(world: World) -> None:
    await world.cluster(CPU=1)
    caller, attempt, borrowing = await borrowed_no_more(world)
    await world.submit("late", callers=CALLERS)
    assert sent(borrowing) == []
    await wait(world, caller, attempt)
    assert names(sent(borrowing)) == ["late"]


async def test_idle_leases_that_borrowed_keep_no_cpu_from_being_lent(world: World) -> None:
    """After a row of calls, another one finds leases that hold nothing, of its own shape and of others."""
    await world.cluster(CPU=1)
    caller, first = await waiting_lease(world)
    row = []
    for number in range(3):
        await world.submit(f"callee{number}", shape=(ONE, OTHER)[number % 2], callers=CALLERS)
        (lease,) = await world.leases()
        (attempt,) = sent(lease)
        await world.begin(lease, attempt)
        await wait(world, lease, attempt)
        row.append((lease, attempt))
    for lease, attempt in (*reversed(row), (caller, first)):
        await wait(world, lease, attempt, is_over=True)
        await world.end(lease, attempt)
    await world.submit("again")
    (attempt,) = sent(caller)
    await world.begin(caller, attempt)
    await wait(world, caller, attempt)
    for number in range(4):
        await world.submit(f"again{number}", callers=CALLERS)
        lease = next((lease for lease, _ in row if (got := sent(lease))), None) or (await world.leases())[0]
        (attempt,) = got or sent(lease)
        assert attempt.task_id == f"again{number}"
        await world.begin(lease, attempt)
        await wait(world, lease, attempt)


async def test_an_idle_lease_that_can_borrow_no_more_makes_room_for_one_that_holds_its_cpus(world: World) -> None:
    """It still holds the GPU."""
    await world.cluster(CPU=1, GPU=1)
    warm = Shape(Resources(num_cpus=1, num_gpus=1), keep_warm_ms=60_000)
    caller, attempt, borrowing = await borrowed_no_more(world, warm)
    await world.end(caller, attempt)
    await world.submit("next", shape=warm)
    await world.pass_(UNFAIR_S)
    assert message(borrowing).finish
    assert message(caller).finish
    for lease in (borrowing, caller):
        world.pool.sessions.lease_lost(lease)
        world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id))
    await world.settle()
    (lease,) = await world.leases()
    assert lease.borrowed == 0
    assert names(sent(lease)) == ["next"]


async def test_attempts_that_nobody_waits_for_borrow_few_cpus(world: World) -> None:
    """They may all wait for one that has no lease yet."""
    await world.cluster(CPU=1)
    await waiting_lease(world)
    await world.submit(*(f"other{number}" for number in range(3 * WAITING_MAX)))
    for _ in range(WAITING_MAX - 1):
        (lease,) = await world.leases()
        (attempt,) = sent(lease)
        await world.begin(lease, attempt)
        await wait(world, lease, attempt)
    assert ordered(world) == []
    await world.submit("callee", callers=CALLERS)
    (lease,) = await world.leases()
    assert names(sent(lease)) == ["callee"]


async def test_an_attempt_that_others_wait_for_goes_first(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(1_000)
    await world.submit("running")
    running = sent(lease)
    await world.submit("one", "two")
    await world.submit("callee", callers=CALLERS)
    await world.end(lease, *running)
    assert names(sent(lease)) == ["callee"]


async def test_what_waits_behind_a_waiting_attempt_runs_elsewhere(world: World) -> None:
    """It may be what the first one waits for."""
    await world.cluster(CPU=1)
    lease = await world.learn(0.1)
    await world.submit("caller", "callee", callers=CALLERS)
    caller, callee = sent(lease)
    await world.begin(lease, caller)
    await wait(world, lease, caller)
    told = lease.next_message()
    assert told is not None
    assert list(told.recall) == [callee.token]
    world.pool.sessions.lease_said(lease, pb.ServeLeaseRequest(returned=[callee.token]))
    await world.settle()
    (borrowing,) = await world.leases()
    assert names(sent(borrowing)) == ["callee"]


async def test_a_lost_lease_that_waited_lends_nothing_more(world: World) -> None:
    await world.cluster(CPU=1)
    lease, _ = await waiting_lease(world)
    world.pool.sessions.lease_lost(lease)
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id))
    assert [type(report) for report in world.reports][-1] is AttemptLost
    await world.submit("one", "two", callers=CALLERS)
    assert [shape.resources.num_cpus for shape in ordered(world)] == [1]


async def test_a_pending_lease_beyond_the_room_keeps_no_cpu_from_being_lent(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit("caller")
    (lease,) = await world.leases()
    (attempt,) = sent(lease)
    await world.begin(lease, attempt)
    await world.submit("other")
    await world.pass_(BLOCKED_S * 2)
    assert len(world.told("start")) == 1  # it may wait by `ray.get`
    await world.submit("callee", callers=CALLERS)
    assert world.told("start") == []
    await wait(world, lease, attempt)
    assert len(world.told("start")) == 1


async def test_an_idle_lease_that_can_borrow_no_more_keeps_no_other_from_being_requested(world: World) -> None:
    """The attempt that waited for the engine may now wait by `ray.get`, with which Ray lends the CPU itself."""
    await world.cluster(CPU=1)
    await borrowed_no_more(world)
    await world.submit("other")
    await world.pass_(BLOCKED_S * 2)
    assert [shape.resources.num_cpus for shape in ordered(world)] == [1]
    (lease,) = await world.leases()
    assert names(sent(lease)) == ["other"]


async def test_shapes_that_wait_for_each_other_lend_to_each_other(world: World) -> None:
    await world.cluster(CPU=1)
    await waiting_lease(world)
    await world.submit("callee", shape=OTHER, callers=CALLERS)
    await world.pass_(UNFAIR_S * 2)
    (lease,) = await world.leases()
    assert names(sent(lease)) == ["callee"]


async def test_waiting_leases_without_resources_take_no_place_of_others(world: World) -> None:
    await world.cluster(CPU=1)
    for number in range(3 * FREE_SHAPE_LEASES_MAX):
        await waiting_lease(world, f"caller{number}", FREE)
    await world.submit(*(f"callee{number}" for number in range(20)), shape=FREE, callers=CALLERS)
    assert len(world.told("start")) == FREE_SHAPE_LEASES_MAX


async def test_leases_without_resources_for_what_nobody_waits_for_are_bounded(world: World) -> None:
    await world.cluster(CPU=1)
    for number in range(FREE_SHAPE_LEASES_MAX + WAITING_MAX):
        await waiting_lease(world, f"caller{number}", FREE)
    await world.submit("other", shape=FREE)
    assert world.told("start") == []
    await world.submit("callee", shape=FREE, callers=CALLERS)
    (lease,) = await world.leases()
    assert names(sent(lease)) == ["callee"]


@pytest.mark.parametrize("waits", [1, 2])
async def test_asynchronous_attempts_lend_their_cpu_when_all_of_them_wait(world: World, waits: int) -> None:
    await world.cluster(CPU=1)
    await world.submit("one")
    (lease,) = await world.leases()
    (one,) = sent(lease)
    world.pool.sessions.lease_said(lease, pb.ServeLeaseRequest(started=[one.token], started_ms=[0], concurrent=["f"]))
    await world.submit("two")
    (two,) = sent(lease)
    await world.begin(lease, two)
    for attempt in (one, two)[:waits]:
        await wait(world, lease, attempt)
    await world.submit("callee", function="g", callers=CALLERS)
    assert len(ordered(world)) == (waits == 2)


async def test_an_attempt_does_not_go_beside_another_one_whose_cpus_are_not_lent_any_more(world: World) -> None:
    await world.cluster(CPU=1)
    caller, attempt = await waiting_lease(world)
    await world.submit("callee", run="actor", turn="t", callers=CALLERS)
    (borrowing,) = await world.leases()
    await world.end(borrowing, *sent(borrowing))
    await wait(world, caller, attempt, is_over=True)
    await world.submit("next", run="actor", turn="t", beside="t")
    assert sent(borrowing) == []
    await wait(world, caller, attempt)
    await world.pass_(2 * BLOCKED_S)
    leases = [borrowing, *(await world.leases())]
    assert [name for lease in leases for name in names(sent(lease))] == ["next"]
