"""Leases that the cluster does not start: the pool's count of resources is wrong, and other work must go on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perdure.model import Resources, Shape
from perdure.service.executors.pool.leases import STALLED_S, Lease
from perdure.service.executors.pool.provisioning import BLOCKED_S, UNFAIR_S
from perdure.v1 import worker_service_pb2 as pb
from unit.test_pool import ONE, OTHER, TWO, World, names, sent
from unit.test_pool import world as world
from unit.test_pool_waiting import wait

LABELS = 20
NOBODYS = Shape(Resources(num_cpus=1, custom=(("nobody", 1.0),)))
SLOW = replace(TWO, runtime_env='{"env_vars":{"SLOW":"1"}}')


def nowhere(number: int = 0, shape: Shape = ONE) -> Shape:
    """A shape that no node has the labels for."""
    return replace(shape, scheduling=f"node:{number}")


async def chain(world: World, length: int) -> int:
    """Runs brief work, one attempt after the other. Returns the number of leases that it took."""
    started = 0
    lease: Lease | None = None
    for number in range(length):
        await world.submit(f"step {number}", shape=OTHER)
        for lease_id in world.told("start"):
            lease = await world.connect(lease_id)
            started += 1
        assert lease is not None
        await world.end(lease, *sent(lease), ms=2)
        if lease.is_finishing:
            world.pool.sessions.lease_lost(lease)
            world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id))
            await world.settle()
    return started


async def test_many_shapes_that_are_not_placed_hold_up_other_work_once(world: World) -> None:
    await world.cluster(CPU=2)
    for number in range(LABELS):
        await world.submit(f"nowhere {number}", shape=nowhere(number, TWO))
    await world.submit("ordinary", shape=TWO)
    assert len(world.told("start")) == 1
    await world.pass_(STALLED_S)
    await world.pass_(0)
    leases = {lease.shape: lease for lease in world.pool._state.leases.values()}
    assert len(world.told("start")) == LABELS
    ordinary = await world.connect(leases[TWO].id)
    assert names(sent(ordinary)) == ["ordinary"]
    await world.submit("later", shape=nowhere(LABELS))
    await world.submit("other", shape=OTHER)
    assert OTHER not in {lease.shape for lease in world.pool._state.leases.values()}, "there is no room"


@pytest.mark.parametrize("keep_warm_ms", [0, 600_000])
async def test_a_lease_that_starts_after_all_makes_way_for_one_that_was_requested_meanwhile(
    world: World, keep_warm_ms: int
) -> None:
    await world.cluster(CPU=2)
    await world.submit(*map(str, range(100)), shape=replace(SLOW, keep_warm_ms=keep_warm_ms))
    (slow,) = world.told("start")
    await world.submit("other", shape=TWO)
    await world.pass_(STALLED_S)
    await world.pass_(0)
    (other,) = world.told("start")
    lease = await world.connect(slow)
    (attempt,) = sent(lease)
    await world.begin(lease, attempt)
    await world.pass_(2 * UNFAIR_S)
    assert lease.is_finishing
    await world.end(lease, attempt)
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=slow))
    assert names(sent(await world.connect(other))) == ["other"]


async def test_a_warm_idle_lease_makes_way_for_one_that_was_requested_while_it_started(world: World) -> None:
    await world.cluster(CPU=2)
    await world.submit("slow", shape=replace(SLOW, keep_warm_ms=600_000))
    (slow,) = world.told("start")
    await world.submit("other", shape=TWO)
    await world.pass_(STALLED_S)
    lease = await world.connect(slow)
    await world.end(lease, *sent(lease))
    await world.pass_(2 * UNFAIR_S)
    assert lease.is_finishing


async def test_work_that_fits_no_node_does_not_make_the_count_wrong(world: World) -> None:
    await world.cluster(CPU=2)
    await world.submit("unfit", shape=NOBODYS)
    await world.pass_(STALLED_S)
    await world.pass_(STALLED_S)
    assert len(world.told("start")) == 1
    await world.submit("a", shape=TWO)
    await world.submit("b", shape=SLOW)
    assert len(world.told("start")) == 1


async def test_a_lease_that_is_starting_does_not_end_others(world: World) -> None:
    await world.cluster(CPU=2)
    busy = await world.learn(100)
    await world.submit("busy")
    await world.begin(busy, *sent(busy))
    await world.submit("other", shape=OTHER)
    assert len(world.told("start")) == 1
    await world.pass_(2 * UNFAIR_S)
    assert not busy.is_finishing


async def test_a_lease_that_is_not_placed_borrows_nothing(world: World) -> None:
    """The call that the CPUs are lent for would wait for ever."""
    await world.cluster(CPU=1)
    await world.submit("caller")
    (lease,) = await world.leases()
    (attempt,) = sent(lease)
    await world.begin(lease, attempt)
    await world.submit("nowhere", shape=nowhere())
    await world.pass_(BLOCKED_S)
    await wait(world, lease, attempt)
    await world.pass_(2 * BLOCKED_S)
    assert len(world.told("start")) == 1
    await world.submit("callee", shape=OTHER, callers=("default/wf",))
    await world.pass_(STALLED_S)
    await world.pass_(0)
    (callee,) = world.told("start")
    assert names(sent(await world.connect(callee))) == ["callee"]


@pytest.mark.parametrize("shape", [nowhere(), NOBODYS])
async def test_leases_do_not_end_between_two_attempts_for_work_that_cannot_be_placed(
    world: World, shape: Shape
) -> None:
    await world.cluster(CPU=2)
    await world.submit(*map(str, range(5)), shape=shape)
    await world.pass_(STALLED_S)
    await world.pass_(STALLED_S)
    world.told("start")
    assert await chain(world, 20) == 1
