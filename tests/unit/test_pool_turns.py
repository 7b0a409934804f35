"""Attempts with a turn on the lease pool: none begins before an older one has really ended."""

from __future__ import annotations

from perdure.engine.messages import AttemptLost
from perdure.service.executors.lanes import Lanes
from perdure.service.executors.pool.sessions import LEFT_S, VANISHED_S
from perdure.v1 import worker_service_pb2 as pb
from unit.test_pool import World, names, sent
from unit.test_pool import world as world


async def test_a_lost_attempt_has_its_turn_until_its_process_has_ended(world: World) -> None:
    await world.cluster(CPU=9)
    await world.submit("a", turn="t")
    (lease,) = await world.leases()
    assert names(sent(lease)) == ["a"]
    world.pool.sessions.lease_lost(lease)
    await world.submit("a", turn="t", attempt=2)
    await world.submit("plain")
    await world.submit("other turn", turn="u")
    await world.submit("other run", turn="t", run="other")
    assert world.take_reports() == [("a", AttemptLost, 1)]
    begun = [names(sent(lease)) for lease in await world.leases()]
    assert sorted(begun) == [["other run"], ["other turn"], ["plain"]]
    await world.pass_(VANISHED_S)
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id, reason="killed"))
    await world.settle()
    (other,) = await world.leases()
    assert names(sent(other)) == ["a"]
    assert world.take_reports() == []


async def test_a_lost_attempt_without_a_turn_is_tried_again_at_once(world: World) -> None:
    await world.cluster(CPU=3)
    await world.submit("a")
    (lease,) = await world.leases()
    sent(lease)
    world.pool.sessions.lease_lost(lease)
    await world.submit("a", attempt=2)
    (other,) = await world.leases()
    assert names(sent(other)) == ["a"]


async def test_a_cancelled_attempt_has_its_turn_until_its_killed_process_has_ended(world: World) -> None:
    await world.cluster(CPU=3)
    await world.submit("a", turn="t")
    (lease,) = await world.leases()
    sent(lease)
    world.pool.cancel("run", "a", 1)
    await world.submit("b", turn="t")
    world.pool.sessions.lease_lost(lease)
    await world.settle()
    assert not world.told("start")
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id, reason="killed"))
    await world.settle()
    (other,) = await world.leases()
    assert names(sent(other)) == ["b"]
    assert world.take_reports() == []


async def test_an_attempt_that_was_not_sent_has_no_turn_to_wait_for(world: World) -> None:
    await world.cluster(CPU=3)
    await world.submit("a", turn="t")
    (lease,) = await world.leases()
    world.pool.sessions.lease_lost(lease)
    await world.settle()
    (other,) = await world.leases()
    assert names(sent(other)) == ["a"]


async def test_a_turn_goes_on_for_a_while_after_the_agent_is_lost(world: World) -> None:
    for reason, ends_s in (("", VANISHED_S), ("its Ray is gone", LEFT_S)):
        await world.cluster(CPU=3)
        await world.submit("a", turn="t")
        (lease,) = await world.leases()
        sent(lease)
        world.agent.leaves_because = reason
        world.pool.sessions.agent_lost(world.agent)
        await world.submit("b", turn="t")
        await world.cluster(CPU=3)
        await world.pass_(ends_s - 0.1)
        assert not world.told("start")
        await world.pass_(0.1)
        (other,) = await world.leases()
        (attempt,) = sent(other)
        assert attempt.task_id == "b"
        await world.end(other, attempt)
        world.pool.sessions.agent_lost(world.agent)


async def test_a_lane_forgets_what_left_it(world: World) -> None:
    await world.cluster(CPU=3)
    await world.submit("a", turn="t")
    (lease,) = await world.leases()
    (attempt,) = sent(lease)
    await world.submit("b", turn="t")
    await world.submit("a", attempt=2)
    lanes: Lanes = world.pool._placing._lanes
    assert len(lanes) == 4
    world.pool.cancel("run", "b", 1)
    world.pool.cancel("run", "a", 2)
    world.pool.cancel("run", "unknown", 2)
    await world.end(lease, attempt)
    assert len(lanes) == 0
    assert not lanes._waiting
