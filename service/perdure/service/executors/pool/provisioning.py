"""Decides when leases start, and when they end to make room.

A waiting shape gets the resources of idle leases of other shapes at once, and after a while those of a busy lease. If
the leases of a shape do not start, it is tried again with growing pauses. If the cluster refuses the shape itself
several times in a row, the attempts that wait for it fail.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from typing import Final

from perdure import optionwire
from perdure.engine.messages import TaskFailed
from perdure.model import Failure, FailureKind, Shape
from perdure.service.executors.pool import demand as demands
from perdure.service.executors.pool import waits
from perdure.service.executors.pool.leases import CPU, STALLED_S, AgentSession, Lease, Restricted, ShapeQueue
from perdure.service.executors.pool.placing import CONCURRENT_SPREAD, EPSILON, WAITING_MAX, Placing
from perdure.service.executors.pool.state import State
from perdure.v1 import worker_service_pb2 as pb

log = logging.getLogger(__name__)

UNFAIR_S: Final = 1.0
BLOCKED_S: Final = 0.3
"""An attempt that has run, or has waited for the engine, for this long may wait for an attempt in the queue."""
BACKOFF_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0
DOUBLINGS_MAX: Final = 10
REFUSALS_MAX: Final = 3
"""After this many refusals of a shape in a row, the tasks that wait for it fail."""
FREE_SHAPE_LEASES_MAX: Final = 4
"""Leases of a shape without resources: at most this many for asynchronous functions, and as many for others."""
REASON_MAX: Final = 500
ALONE_S: Final = 60.0
"""Work may wait for a first agent this long before that is logged: Ray takes time to start."""
TURN_S: Final = 5.0
"""A lease works at least this long before it makes way for leases of other engines on the same cluster."""
WAY_S: Final = 0.5
"""The pause between two leases that make way."""


class Provisioning:
    """Decides on leases; agents start and kill them."""

    def __init__(self, state: State, placing: Placing, idle_s: float) -> None:
        self._state = state
        self._placing = placing
        self._idle_s = idle_s
        self._gave_way_s = 0.0
        self._is_told_alone = False  # it was logged that work waits without an agent

    # -------------------------------------------------------------------------- starting

    def ask_for_leases(self, queue: ShapeQueue, now_s: float) -> None:
        """Start as many leases as the waiting attempts need and the clusters have room for; otherwise make room."""
        if now_s < queue.not_before_s or not self._state.agents:
            return
        self._end_borrowing(queue)
        hosts = queue.hosts()
        wanted = queue.alone - queue.coming()
        is_free = not queue.shape.resources.amounts()
        if queue.together and (not is_free or hosts < FREE_SHAPE_LEASES_MAX):
            wanted += -(-len(queue.together) // CONCURRENT_SPREAD)
        if is_free:
            others = len(queue.leases) - hosts
            waiting = sum(lease.is_waiting and not lease.concurrent for lease in queue.leases.values())
            room = FREE_SHAPE_LEASES_MAX - (others - waiting)
            any_room = min(room, FREE_SHAPE_LEASES_MAX + WAITING_MAX - others)
            awaited = len(queue.awaited)
            wanted = min(wanted, room, max(awaited - queue.coming(), 0) + max(any_room, 0))
        while wanted > 0:
            agent = next((agent for agent in self._state.agents.values() if _has_room(agent, queue.shape)), None)
            if agent is None:
                break
            self._start(agent, queue)
            wanted -= 1
        while wanted > 0 and not is_free and self._borrow(queue, now_s):
            wanted -= 1
        if not is_free and (wanted > 0 or self._waits_for_room(queue)):
            self._make_room(queue, now_s)

    def _start(self, agent: AgentSession, queue: ShapeQueue, *, borrowed: float = 0.0, is_beyond: bool = False) -> None:
        ids = secrets.token_hex(8), queue.shape, agent.id, agent.cluster_id
        lease = Lease(*ids, borrowed=borrowed, is_beyond=is_beyond)
        lease.asked_s = lease.idle_since_s = self._state.now_s()
        shape = queue.shape
        if borrowed:
            lease.node_id = agent.lender()
            shape = _borrowing(shape, borrowed, lease.node_id)
        self._state.leases[lease.id] = agent.leases[lease.id] = queue.leases[lease.id] = lease
        start = pb.StartLease(lease_id=lease.id, shape=optionwire.shape_to_proto(shape))
        agent.send(pb.ServeAgentResponse(start=start))

    def _end_borrowing(self, queue: ShapeQueue) -> None:
        """End idle leases that have no CPUs to borrow any more. A lease that can begin may need the rest of what they
        hold, such as a GPU."""
        for lease in queue.ready():
            if not lease.in_flight and not self._placing.may_begin(lease) and lease.held():
                lease.finish()

    def _borrow(self, queue: ShapeQueue, now_s: float) -> bool:
        """Start a lease with CPUs of leases that wait for the engine, which may wait for this very queue. Only long
        waits count, because most answers come faster than a process starts. False: none can."""
        cpus = queue.shape.resources.amounts().get(CPU, 0.0)
        for agent in self._state.agents.values():
            lendable = agent.lendable(now_s - BLOCKED_S)
            if lendable <= EPSILON or not agent.holds(queue.shape):
                continue
            if not (queue.awaited or queue.together or agent.waiting() < WAITING_MAX):
                continue
            free = agent.free(queue.shape)
            borrowed = round(cpus - max(free.get(CPU, 0.0), 0.0), 4)
            free[CPU] = cpus
            if 0 < borrowed <= lendable + EPSILON and agent.fits(queue.shape, free):
                self._start(agent, queue, borrowed=borrowed)
                return True
        return False

    def _waits_for_room(self, queue: ShapeQueue) -> bool:
        """Whether no lease of the shape works, and one that was requested cannot start before others end."""
        if queue.ready():
            return False
        return any(
            self._state.agents[lease.agent_id].is_full(queue.shape)
            for lease in queue.leases.values()
            if not lease.is_connected and not lease.borrowed and lease.agent_id in self._state.agents
        )

    def _make_room(self, queue: ShapeQueue, now_s: float) -> None:
        """Make room for a shape: idle leases of other shapes end at once, and after a while a busy lease, or one that
        is kept warm, of the shape with the most leases. One lease is requested beyond the room in two cases. If the
        shape fits no node, an autoscaling cluster sees the demand. If all leases of the shape run long attempts, or
        borrow CPUs that are not lent any more, Ray starts the new lease when an attempt gives its resources back in a
        `ray.get`, which may wait for this very queue."""
        agents = self._state.agents
        serving = [agent for agent in agents.values() if agent.serves(queue.shape)]
        if not any(agent.holds(queue.shape) for agent in serving):
            if serving and not queue.leases:
                self._start(serving[0], queue)
            return
        # What a stalled lease waits for is not known, so leases that are idle between two attempts do not end for it.
        idle_s = demands.SETTLED_S if any(lease.is_stalled for lease in queue.leases.values()) else 0.0
        leases = self._state.leases.values()
        others = [lease for lease in leases if lease.shape != queue.shape and not lease.is_finishing]
        idle = [
            lease
            for lease in others
            if lease.is_connected
            and not lease.in_flight
            and not lease.is_kept_warm(now_s)
            and now_s - lease.idle_since_s >= idle_s
        ]
        if idle:
            for lease in idle:
                lease.finish()
            return
        if queue.leases and not self._waits_for_room(queue):
            able = [lease for lease in queue.leases.values() if lease.in_flight or self._placing.may_begin(lease)]
            if not queue.starting() and all(lease.is_stuck(now_s, BLOCKED_S) for lease in able):
                self._start(agents[next(iter(queue.leases.values())).agent_id], queue, is_beyond=True)
            return
        waited_s = now_s - (queue.waiting_since_s or now_s)
        busy = [lease for lease in others if lease.is_connected and not lease.is_waiting]
        if waited_s > UNFAIR_S and busy and not any(lease.is_finishing and not lease.is_waiting for lease in leases):
            largest = max(busy, key=lambda lease: len(self._state.shapes[lease.shape].leases))
            self._placing.recall(largest)
            largest.finish()

    def note_stalled(self, now_s: float) -> None:
        """Note which requested leases have not started for long."""
        for lease in self._state.leases.values():
            if not lease.is_connected and now_s - lease.asked_s >= STALLED_S:
                lease.is_stalled = True

    # -------------------------------------------------------------------------- failed starts

    def agent_came(self) -> None:
        """An agent connected. Earlier starts failed on other clusters, so every shape is tried at once."""
        self._is_told_alone = False
        for queue in self._state.shapes.values():
            queue.has_started()
            queue.not_before_s = 0.0

    def start_failed(self, lease: Lease, ended: pb.LeaseEnded) -> None:
        """A lease ended before it connected. No attempt had begun, so none is lost. The shape is tried again later,
        without limit. If the cluster refuses the shape itself REFUSALS_MAX times in a row, its attempts fail."""
        queue = self._state.shapes.get(lease.shape)
        if queue is None:
            return
        reason = ended.reason[:REASON_MAX] or "the worker ended before it reached the engine"
        if kind_of(reason) != kind_of(queue.trouble):  # the rest of the text names what was tried this time
            fields = {"shape": str(queue.shape.resources.amounts()), "cluster": lease.cluster_id, "reason": reason}
            log.warning("a lease did not start, trying again", extra=fields)
        queue.trouble = reason
        if lease.asked_s <= queue.failed_s:
            return  # it was requested together with one whose failure was counted
        queue.failed_s = now_s = self._state.now_s()
        queue.failures += 1
        queue.refusals = queue.refusals + 1 if ended.refused else 0
        queue.not_before_s = now_s + min(BACKOFF_S * 2 ** min(queue.failures, DOUBLINGS_MAX), BACKOFF_MAX_S)
        if queue.refusals >= REFUSALS_MAX:
            queue.has_started()
            self._refuse(queue, reason)

    def _refuse(self, queue: ShapeQueue, reason: str) -> None:
        failure = Failure(
            FailureKind.SYSTEM, "perdure.WorkerRefused", f"no worker could be started: {reason}", non_retryable=True
        )
        dropped = self._placing.drop_all(queue)
        now_ms = self._state.clock()
        self._state.send(
            [(attempt.run_id, TaskFailed(attempt.task_id, attempt.number, failure, now_ms)) for attempt in dropped]
        )

    # -------------------------------------------------------------------------- ending

    def end_idle(self, queue: ShapeQueue, now_s: float) -> None:
        """End leases that no attempt waits for, connected or still starting. Forget a shape that is no longer used."""
        if queue.is_wanted:
            return
        for lease in queue.ready():
            if not lease.in_flight and now_s - lease.idle_since_s >= max(self._idle_s, queue.shape.keep_warm_ms / 1000):
                lease.finish()
        for lease in list(queue.leases.values()):
            if not lease.is_connected and now_s - lease.idle_since_s >= self._idle_s:
                self._state.kill(lease)
                self._placing.lose(lease, "nobody waits for it")
        if not queue.is_wanted and not queue.leases:
            del self._state.shapes[queue.shape]

    def make_way(self, now_s: float) -> None:
        """End the lease that has worked for longest, after its attempts, and request another one. Engines that share a
        cluster do not know each other's demand. Ray does, and serves their requests in turn."""
        if now_s - self._gave_way_s < WAY_S:
            return
        busy = [lease for queue in self._state.shapes.values() for lease in queue.ready() if lease.in_flight]
        busy = [lease for lease in busy if lease.shape.resources.amounts() and not lease.concurrent]
        busy = [lease for lease in busy if not lease.shape.keep_warm_ms and not lease.is_waiting]
        oldest = min(busy, key=lambda lease: lease.since_s, default=None)
        if oldest is not None and now_s - oldest.since_s >= TURN_S:
            self._gave_way_s = now_s
            oldest.finish()

    def watch_demand(self, now_s: float) -> None:
        """Let agents watch for other demand while they have idle leases, which could make room."""
        for agent in self._state.agents.values():
            if agent.watches_demand != bool(demands.idle_leases(agent, now_s)):
                agent.watches_demand = not agent.watches_demand
                watch = pb.WatchDemand(on=agent.watches_demand)
                agent.send(pb.ServeAgentResponse(watch_demand=watch))

    def demand_told(self, agent: AgentSession, demand: pb.ClusterDemand) -> None:
        """Other work of the cluster waits, or Ray tasks that our attempts started: idle leases make room."""
        for lease in demands.to_end(agent, demand, self._state.now_s()):
            lease.finish()

    # -------------------------------------------------------------------------- for people

    def tell_of_waits(self, now_s: float) -> None:
        """Log once that work waits without an agent, and once per shape that no cluster has its resources."""
        agents = self._state.agents
        for queue in self._state.shapes.values():
            if not queue.is_wanted:
                continue
            if not agents:
                if not self._is_told_alone and now_s - (queue.waiting_since_s or now_s) >= ALONE_S:
                    self._is_told_alone = True
                    fields = {"last": self._state.last_left or "none"}
                    log.warning("work waits, and no cluster is attached", extra=fields)
                return
            if isinstance(queue.shape, Restricted) and not queue.shape.agents:
                continue  # clients are told which function is missing
            if any(agent.holds(queue.shape) for agent in agents.values()):
                queue.is_told_unfit = False
            elif not queue.is_told_unfit:
                queue.is_told_unfit = True
                text = waits.why(queue, agents.values(), self._state.last_left, now_s).text
                log.warning("work waits for what no cluster has: it %s", text)


def _has_room(agent: AgentSession, shape: Shape) -> bool:
    return agent.holds(shape) and agent.fits(shape, agent.free(shape))


def _borrowing(shape: Shape, cpus: float, node_id: str) -> Shape:
    """The shape of a lease that borrows CPUs, beside the lease that they are of."""
    held = round(shape.resources.amounts()[CPU] - cpus, 4)
    scheduling = f"node?:{node_id}" if shape.scheduling in ("", "DEFAULT") and node_id else shape.scheduling
    resources = replace(shape.resources, num_cpus=held)
    return replace(shape, resources=resources, scheduling=scheduling)


def kind_of(reason: str) -> str:
    """The name of the error that a reason begins with."""
    return reason.partition(":")[0]
