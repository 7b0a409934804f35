"""Puts attempts onto leases of a Ray cluster, and asks agents for the leases that are wanted.

The rules: an idle lease before a busy one; short functions in batches of some milliseconds of work,
unknown and long ones alone; those between one behind another if all leases are busy and many wait;
asynchronous functions by the thousand on leases of their own; what waits behind an attempt that takes
long is called back; a shape that waits gets the resources of idle leases of other shapes. Work that did
not begin when its lease is lost runs elsewhere and nobody notices. No attempt has a task of asyncio's.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from math import inf
from typing import Final

from perdure import optionwire
from perdure.engine.messages import AttemptLost, AttemptStarted, TaskFailed
from perdure.model import Failure, FailureKind, Shape
from perdure.service.executors.pool import demand as demands
from perdure.service.executors.pool import waits
from perdure.service.executors.pool.attempts import attempt_of, report_of, took_ms
from perdure.service.executors.pool.durations import Durations
from perdure.service.executors.pool.leases import AgentSession, Key, Lease, Placed, ShapeQueue
from perdure.service.executors.port import Report, Reports, ValueReader, Waiting, Work
from perdure.v1 import worker_service_pb2 as pb

log = logging.getLogger(__name__)

CONCURRENT_MAX: Final = 25_000
"""Attempts of asynchronous functions that a lease may have at a time."""
CONCURRENT_SPREAD: Final = 256
"""With so many a lease shares with idle ones."""
STUCK_S: Final = 0.05
TICK_S: Final = 0.05
UNFAIR_S: Final = 1.0
BLOCKED_S: Final = 0.3
"""An attempt that runs for so long may be waiting itself."""
KILL_S: Final = 1.4
"""A lease that says nothing for so long after a cancellation is killed: user code holds its interpreter.
A little longer than a lease itself waits for user code to give up."""
BACKOFF_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0
DOUBLINGS_MAX: Final = 10
REFUSALS_MAX: Final = 3
"""So often a shape is tried that the cluster refuses, before the tasks that wait for it fail."""
FREE_SHAPE_LEASES_MAX: Final = 4
"""Leases of a shape that holds no resources: as many for asynchronous functions, as many for others."""
REASON_MAX: Final = 500
REMEMBERED_MAX: Final = 10_000
ALONE_S: Final = 15.0
"""For so long work waits for a first agent before that is logged: Ray takes its time to start."""
TURN_S: Final = 5.0
"""For so long a lease works before it makes way for leases of other engines on the same cluster."""
WAY_S: Final = 0.5
"""Between two that make way."""


class LeasePool:
    """Implements Executor, for agents and leases that dial in."""

    def __init__(self, *, engine_id: str, blob_url: str, idle_s: float) -> None:
        self.engine_id = engine_id
        self.blob_url = blob_url
        self._idle_s = idle_s
        self._shapes: dict[Shape, ShapeQueue] = {}
        self._agents: dict[str, AgentSession] = {}
        self._leases: dict[str, Lease] = {}
        self._queued: dict[Key, Work] = {}
        self._placed: dict[Key, tuple[Lease, Placed]] = {}
        self._cancelled: dict[int, tuple[Lease, float]] = {}  # by token: where, and since when
        self._held: dict[tuple[str, str], list[Work]] = {}  # behind an older attempt that was cancelled
        self._busy: dict[tuple[str, str], Key] = {}  # the attempt of a task that is at a lease
        self._durations = Durations()
        self._concurrent: set[str] = set()
        self._ran_by: OrderedDict[tuple[str, str], Lease] = OrderedDict()  # tasks that returned graphs
        self._tokens = itertools.count(1)
        self._report: Callable[[Reports], None] | None = None
        self.holds_for_s: Callable[[], float] = lambda: inf
        self._last_left = ""  # how the last agent went, for people
        self._is_told_alone = False  # it was logged that work waits without one
        self._is_pumping = False
        self._is_draining = False
        self._gave_way_s = 0.0
        self._tick_task: asyncio.Task[None] | None = None

    # -------------------------------------------------------------------------- the port

    async def start(self, report: Callable[[Reports], None], values: ValueReader) -> None:
        self._loop = asyncio.get_running_loop()
        self._report = report
        self._values = values
        self._tick_task = asyncio.create_task(self._tick_forever(), name="lease-pool")

    def drain(self) -> None:
        """The engine is about to end, so nobody need worry about agents that leave."""
        self._is_draining = True

    async def stop(self) -> None:
        self._report = None
        if self._tick_task is not None:
            self._tick_task.cancel()
            await asyncio.gather(self._tick_task, return_exceptions=True)
        for lease in self._leases.values():
            lease.outbox.close()
        for agent in self._agents.values():
            agent.outbox.close()

    def waiting(self, run_id: str, task_id: str, attempt: int) -> Waiting | None:
        work = self._queued.get((run_id, task_id, attempt))
        if work is None:
            return None
        return waits.why(self._shapes[work.shape], self._agents.values(), self._last_left, self._now())

    def python_versions(self) -> frozenset[str]:
        return frozenset(agent.python_version for agent in self._agents.values())

    def submit(self, work: Work) -> None:
        key = work.key
        if key in self._queued or key in self._placed:
            return
        if (work.run_id, work.task_id) in self._busy:
            held = self._held.setdefault((work.run_id, work.task_id), [])
            if all(other.attempt != work.attempt for other in held):
                held.append(work)
            return
        if (lease := self._beside(work)) is not None:
            self._put(lease, work, is_concurrent=work.call.function.key in self._concurrent)
            return
        self._enqueue(work)
        self._pump_soon()

    def _remember(self, lease: Lease, work: Work) -> None:
        """Where a task ran that returned a graph, for attempts that should run beside it."""
        self._ran_by[work.run_id, work.task_id] = lease
        if len(self._ran_by) > REMEMBERED_MAX:
            self._ran_by.popitem(last=False)

    def _beside(self, work: Work) -> Lease | None:
        """The lease that the work asks for, unless it is gone or busy with something long."""
        lease = self._ran_by.get((work.run_id, work.beside)) if work.beside else None
        if lease is None or lease.is_gone or not lease.takes(work.call.function.key in self._concurrent):
            return None
        return None if lease.is_stuck(self._now(), STUCK_S) else lease

    def cancel(self, run_id: str, task_id: str, attempt: int) -> None:
        key = (run_id, task_id, attempt)
        if (work := self._queued.pop(key, None)) is not None:
            self._shapes[work.shape].remove(work)
        elif (found := self._placed.get(key)) is not None:
            lease, placed = found
            if not placed.is_cancelled:
                placed.is_cancelled = True
                lease.cancelling += 1
                self._cancelled[placed.token] = (lease, self._now())
                lease.send_cancel(placed.token)
        elif (held := self._held.get((run_id, task_id))) is not None:
            held[:] = [work for work in held if work.attempt != attempt]

    def _enqueue(self, work: Work, *, first: bool = False) -> None:
        queue = self._shapes.get(work.shape)
        if queue is None:
            queue = self._shapes[work.shape] = ShapeQueue(work.shape)
        self._queued[work.key] = work
        queue.add(work, first=first, together=work.call.function.key in self._concurrent)

    # -------------------------------------------------------------------------- agents

    def agent_connected(self, hello: pb.AgentHello) -> AgentSession:
        agent = AgentSession(hello.agent_id, hello.cluster_id, hello.python_version)
        agent.has(hello.capacity)
        self._is_told_alone = False
        self._agents[agent.id] = agent
        has_others = self.holds_for_s() < inf
        welcome = pb.AgentWelcome(engine_id=self.engine_id, blob_url=self.blob_url, has_others=has_others)
        agent.send(pb.ServeAgentResponse(welcome=welcome))
        log.info("agent connected", extra={"agent": agent.id, "cluster": agent.cluster_id})
        for queue in self._shapes.values():  # what failed, failed elsewhere
            queue.has_started()
            queue.not_before_s = 0.0
        self._pump_soon()
        return agent

    def capacity_changed(self, agent: AgentSession, capacity: pb.ClusterCapacity) -> None:
        agent.has(capacity)
        self._pump_soon()

    def demand_told(self, agent: AgentSession, demand: pb.ClusterDemand) -> None:
        """Work of the cluster waits that is not ours, or that our attempts started: idle leases make room."""
        for lease in demands.to_end(agent, demand, self._now()):
            lease.finish()

    def agent_lost(self, agent: AgentSession) -> None:
        """It will start new leases when it is back; those it had end with it or by themselves."""
        agent.outbox.close()
        if self._agents.get(agent.id) is agent:
            del self._agents[agent.id]
        for lease in list(agent.leases.values()):
            self._lease_gone(lease, "the agent is gone")
        reason = agent.leaves_because or "its connection broke"
        self._last_left = f"the agent of {agent.cluster_id!r} has left: {reason}"
        level = logging.INFO if self._is_draining else logging.WARNING  # agents go with the service that they are for
        log.log(level, "agent lost", extra={"agent": agent.id, "cluster": agent.cluster_id, "reason": reason})
        self._pump_soon()

    def agent_leaves(self, agent: AgentSession, reason: str) -> None:
        """It says goodbye, and why: its stream ends."""
        agent.leaves_because = reason
        agent.outbox.close()

    def lease_ended(self, agent: AgentSession, ended: pb.LeaseEnded) -> None:
        """The Ray task of a lease is over: its resources are free."""
        lease = agent.leases.pop(ended.lease_id, None)
        if lease is None:
            return
        queue = self._shapes.get(lease.shape)
        if not lease.is_connected and not lease.is_gone and queue is not None:
            self._start_failed(queue, lease, ended)
        self._lease_gone(lease, ended.reason or "the lease ended")
        self._pump_soon()

    def _start_failed(self, queue: ShapeQueue, lease: Lease, ended: pb.LeaseEnded) -> None:
        """Nothing had begun, so it costs no attempt: the shape is tried again later, for as long as it takes. Only if
        the cluster refuses the shape itself, again and again, do the tasks fail that wait for it."""
        reason = ended.reason[:REASON_MAX] or "the worker ended before it reached the engine"
        if kind_of(reason) != kind_of(queue.trouble):  # the rest of the text names what was tried this time
            fields = {"shape": str(queue.shape.resources.amounts()), "cluster": lease.cluster_id, "reason": reason}
            log.warning("a lease did not start, trying again", extra=fields)
        queue.trouble = reason
        if lease.asked_s <= queue.failed_s:
            return  # it was asked for together with one that failed before
        queue.failed_s = now_s = self._now()
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
        reports: list[tuple[str, Report]] = []
        while queue.is_wanted:
            work = queue.take() if queue.waiting else queue.take_together()
            del self._queued[work.key]
            reports.append((work.run_id, TaskFailed(work.task_id, work.attempt, failure, _ms())))
        self._send(reports)

    # -------------------------------------------------------------------------- leases

    def lease_connected(self, hello: pb.LeaseHello) -> Lease | None:
        """None: nobody asked for it, or another engine did."""
        lease = self._leases.get(hello.lease_id)
        if hello.engine_id != self.engine_id or lease is None or lease.is_gone or lease.is_connected:
            return None
        lease.is_connected = True
        lease.since_s = self._now()
        lease.python_version = hello.python_version
        lease.idle_since_s = self._now()
        self._shapes[lease.shape].has_started()
        self._pump_soon()
        return lease

    def lease_lost(self, lease: Lease) -> None:
        """Its stream ended. If it did not say goodbye its process is killed, to be sure."""
        if not lease.is_finishing or lease.in_flight:
            self._kill(lease)
        self._lease_gone(lease, "the worker process is gone")
        self._pump_soon()

    def _kill(self, lease: Lease) -> None:
        agent = self._agents.get(lease.agent_id)
        if agent is not None and lease.id in agent.leases:
            agent.send(pb.ServeAgentResponse(kill=pb.KillLease(lease_id=lease.id)))

    def _lease_gone(self, lease: Lease, reason: str) -> None:
        if lease.is_gone:
            return
        lease.is_gone = True
        lease.outbox.close()
        self._leases.pop(lease.id, None)
        if (queue := self._shapes.get(lease.shape)) is not None:
            queue.leases.pop(lease.id, None)
        reports: list[tuple[str, Report]] = []
        back: list[Work] = []
        for position, placed in enumerate(list(lease.in_flight.values())):
            self._take_off(lease, placed)
            if placed.is_cancelled:
                continue
            # The first may have begun without the message that says so having come through.
            if placed.began_s is not None or position == 0:
                work = placed.work
                reports.append((work.run_id, AttemptLost(work.task_id, work.attempt, reason, _ms())))
            else:
                back.append(placed.work)
        for work in reversed(back):
            self._enqueue(work, first=True)
        self._send(reports)

    def receive(self, lease: Lease, message: pb.ServeLeaseRequest) -> None:
        """What a lease has to say."""
        now_s, now_ms = self._now(), _ms()
        was_busy = bool(lease.in_flight)
        reports: list[tuple[str, Report]] = []
        for function in message.concurrent:
            lease.regroup(function)
            if function not in self._concurrent:
                self._concurrent.add(function)
                for queue in self._shapes.values():
                    queue.regroup(function)
        for token, started_ms in zip(message.started, message.started_ms, strict=True):
            placed = lease.in_flight.get(token)
            if placed is not None and not placed.is_cancelled:
                placed.began_s = now_s
                work = placed.work
                reports.append((work.run_id, AttemptStarted(work.task_id, work.attempt, now_ms, started_ms)))
        for receipt in message.receipts:
            placed = lease.in_flight.get(receipt.token)
            if placed is None:
                continue
            self._take_off(lease, placed)
            if (took := took_ms(receipt)) is not None:
                self._durations.learn(placed.work.call.function.key, took)
            if receipt.WhichOneof("result") == "continuation":
                self._remember(lease, placed.work)
            if not placed.is_cancelled:
                reports.append((placed.work.run_id, report_of(placed.work, receipt, now_ms)))
        for token in message.returned:
            placed = lease.in_flight.get(token)
            if placed is not None:
                self._take_off(lease, placed)
                if not placed.is_cancelled:
                    self._enqueue(placed.work, first=True)
        if message.asks:
            lease.send_hold(self.holds_for_s())
        if was_busy and not lease.in_flight:
            lease.idle_since_s = now_s
        self._send(reports)
        self._pump_soon()

    def _take_off(self, lease: Lease, placed: Placed) -> None:
        work = placed.work
        lease.remove(placed)
        self._placed.pop(work.key, None)
        self._cancelled.pop(placed.token, None)
        task = (work.run_id, work.task_id)
        self._busy.pop(task, None)
        for held in self._held.pop(task, ()):
            self._enqueue(held)

    # -------------------------------------------------------------------------- placing

    def _pump_soon(self) -> None:
        if not self._is_pumping and self._report is not None:
            self._is_pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_pumping = False
        now_s = self._now()
        queues = list(self._shapes.values())
        for queue in queues:  # all of them first: a lease that is about to get work is not idle
            if queue.is_wanted:
                self._place(queue)
        for queue in queues:
            if queue.is_wanted:
                queue.waiting_since_s = queue.waiting_since_s or now_s
                self._ask_for_leases(queue, now_s)
                self._look_ahead(queue, now_s)
            else:
                queue.waiting_since_s = None

    def _place(self, queue: ShapeQueue) -> None:
        leases = [lease for lease in queue.ready() if not lease.cancelling]
        if queue.together:
            self._place_together(queue, leases)
        waiting = queue.waiting
        if not waiting:
            return
        now_s = self._now()
        leases = [lease for lease in leases if not lease.concurrent and not lease.is_stuck(now_s, STUCK_S)]
        leases.sort(key=lambda lease: len(lease.in_flight))
        is_single = bool(queue.shape.resources.num_gpus)
        for lease in leases:  # idle ones first, one attempt each
            if waiting and not lease.in_flight:
                self._put(lease, queue.take())
                if is_single:
                    lease.finish()
        if is_single:
            return
        while waiting:  # then batches of short work
            room = self._durations.room(queue.head().call.function.key)
            least = min(leases, key=lambda lease: len(lease.in_flight), default=None)
            if least is None or len(least.in_flight) >= room:
                return
            self._put(least, queue.take())

    def _place_together(self, queue: ShapeQueue, leases: list[Lease]) -> None:
        """Asynchronous functions share few leases, and share none with others, which would wait for them."""
        hosts = [lease for lease in leases if lease.concurrent]
        idle = [lease for lease in leases if not lease.in_flight]
        while queue.together:
            least = min(hosts, key=lambda lease: len(lease.in_flight), default=None)
            if idle and (least is None or len(least.in_flight) >= CONCURRENT_SPREAD):
                least = idle.pop()
                hosts.append(least)
            if least is None or len(least.in_flight) >= CONCURRENT_MAX:
                return
            self._put(least, queue.take_together(), is_concurrent=True)

    def _look_ahead(self, queue: ShapeQueue, now_s: float) -> None:
        """One attempt more for leases that will soon be done, unless a new lease is on its way. While more wait than
        there are leases, so whichever is idle next finds work, and nothing waits beside it."""
        if queue.starting():
            return
        for lease in queue.ready():
            if len(queue.waiting) <= len(queue.leases) or not self._durations.is_brief(queue.head().call.function.key):
                return
            if len(lease.in_flight) == 1 and not lease.cancelling and not lease.is_stuck(now_s, STUCK_S):
                (placed,) = lease.in_flight.values()
                if not placed.is_concurrent and self._durations.is_brief(placed.work.call.function.key):
                    self._put(lease, queue.take())

    def _put(self, lease: Lease, work: Work, *, is_concurrent: bool = False) -> None:
        placed = Placed(work, next(self._tokens), is_concurrent)
        self._queued.pop(work.key, None)
        lease.add(placed)
        self._placed[work.key] = (lease, placed)
        self._busy[work.run_id, work.task_id] = work.key
        lease.send(attempt_of(work, placed.token, self._values.cached), work)

    # -------------------------------------------------------------------------- leases wanted

    def _ask_for_leases(self, queue: ShapeQueue, now_s: float) -> None:
        if now_s < queue.not_before_s or not self._agents:
            return
        hosts = queue.hosts()
        wanted = len(queue.waiting) - queue.starting()
        is_free = not queue.shape.resources.amounts()
        if queue.together and (not is_free or hosts < FREE_SHAPE_LEASES_MAX):
            wanted += -(-len(queue.together) // CONCURRENT_SPREAD)
        if is_free:
            wanted = min(wanted, FREE_SHAPE_LEASES_MAX - (len(queue.leases) - hosts))
        while wanted > 0:
            agent = next((agent for agent in self._agents.values() if self._has_room(agent, queue.shape)), None)
            if agent is None:
                break
            self._start_lease(agent, queue)
            wanted -= 1
        if wanted > 0 and not is_free:
            self._make_room(queue, now_s)

    def _has_room(self, agent: AgentSession, shape: Shape) -> bool:
        return agent.holds(shape) and agent.fits(shape, agent.free(shape))

    def _start_lease(self, agent: AgentSession, queue: ShapeQueue) -> None:
        lease = Lease(secrets.token_hex(8), queue.shape, agent.id, agent.cluster_id)
        lease.asked_s = lease.idle_since_s = self._now()
        self._leases[lease.id] = agent.leases[lease.id] = queue.leases[lease.id] = lease
        start = pb.StartLease(lease_id=lease.id, shape=optionwire.shape_to_proto(queue.shape))
        agent.send(pb.ServeAgentResponse(start=start))

    def _make_room(self, queue: ShapeQueue, now_s: float) -> None:
        """Idle leases of other shapes end at once; after a while a busy one of the largest shape, too. A
        shape that does not fit the cluster at all asks for one lease, so that a cluster that grows on
        demand sees the demand. So does one whose leases all run something long: Ray starts it when one
        of those gives its resources back while it waits, perhaps for what is waiting here."""
        others = [lease for lease in self._leases.values() if lease.shape != queue.shape and not lease.is_finishing]
        idle = [lease for lease in others if lease.is_connected and not lease.in_flight]
        if idle:
            for lease in idle:
                lease.finish()
            return
        if queue.leases:
            if not queue.starting() and all(lease.is_stuck(now_s, BLOCKED_S) for lease in queue.leases.values()):
                self._start_lease(self._agents[next(iter(queue.leases.values())).agent_id], queue)
            return
        if not any(agent.holds(queue.shape) for agent in self._agents.values()):
            self._start_lease(next(iter(self._agents.values())), queue)
            return
        waited_s = now_s - (queue.waiting_since_s or now_s)
        busy = [lease for lease in others if lease.is_connected]
        if waited_s > UNFAIR_S and busy and not any(lease.is_finishing for lease in self._leases.values()):
            largest = max(busy, key=lambda lease: len(self._shapes[lease.shape].leases))
            self._recall(largest)
            largest.finish()

    def _recall(self, lease: Lease) -> None:
        unbegun = [placed for placed in lease.in_flight.values() if placed.began_s is None and not placed.is_recalled]
        for placed in unbegun:
            placed.is_recalled = True
        if unbegun:
            lease.send_recall(placed.token for placed in unbegun)

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self._tick(self._now())
            except Exception:
                log.exception("the lease pool stumbled")

    def _tick(self, now_s: float) -> None:
        for token, (lease, since_s) in list(self._cancelled.items()):
            if now_s - since_s >= KILL_S:
                self._cancelled[token] = (lease, now_s)
                self._kill(lease)
        for queue in list(self._shapes.values()):
            ready = queue.ready()
            for lease in ready:
                if not lease.in_flight:
                    if now_s - lease.idle_since_s >= self._idle_s and not queue.is_wanted:
                        lease.finish()
                elif len(lease.in_flight) > 1 and lease.is_stuck(now_s, STUCK_S):
                    self._recall(lease)
            if not queue.is_wanted:
                self._give_up_starting(queue, now_s)
            if not queue.is_wanted and not queue.leases:
                del self._shapes[queue.shape]
        for agent in self._agents.values():
            if agent.watches_demand != bool(demands.idle_leases(agent, now_s)):
                agent.watches_demand = not agent.watches_demand
                watch = pb.WatchDemand(on=agent.watches_demand)
                agent.send(pb.ServeAgentResponse(watch_demand=watch))
        self._tell_of_waits(now_s)
        if self.holds_for_s() < inf and now_s - self._gave_way_s >= WAY_S:
            self._give_way(now_s)
        self._pump_soon()

    def _tell_of_waits(self, now_s: float) -> None:
        """Log once, for a shape or for all, that work waits for what is not there."""
        for queue in self._shapes.values():
            if not queue.is_wanted:
                continue
            if not self._agents:
                if not self._is_told_alone and now_s - (queue.waiting_since_s or now_s) >= ALONE_S:
                    self._is_told_alone = True
                    log.warning("work waits, and no cluster is attached", extra={"last": self._last_left or "none"})
                return
            if any(agent.holds(queue.shape) for agent in self._agents.values()):
                queue.is_told_unfit = False
            elif not queue.is_told_unfit:
                queue.is_told_unfit = True
                text = waits.why(queue, self._agents.values(), self._last_left, now_s).text
                log.warning("work waits for what no cluster has: it %s", text)

    def _give_way(self, now_s: float) -> None:
        """Engines that share a cluster do not know what others wait for; Ray does, and serves them in turn. So the
        lease that has been at work for longest ends, once it has done what it has, and another one is asked for."""
        busy = [lease for queue in self._shapes.values() for lease in queue.ready() if lease.in_flight]
        busy = [lease for lease in busy if lease.shape.resources.amounts() and not lease.concurrent]
        oldest = min(busy, key=lambda lease: lease.since_s, default=None)
        if oldest is not None and now_s - oldest.since_s >= TURN_S:
            self._gave_way_s = now_s
            oldest.finish()

    def _give_up_starting(self, queue: ShapeQueue, now_s: float) -> None:
        """Nobody needs any more what the cluster could not give so far."""
        for lease in list(queue.leases.values()):
            if not lease.is_connected and now_s - lease.idle_since_s >= self._idle_s:
                self._kill(lease)
                self._lease_gone(lease, "nobody waits for it")

    # -------------------------------------------------------------------------- reporting

    def _send(self, reports: list[tuple[str, Report]]) -> None:
        if reports and self._report is not None:
            self._report(reports)

    def _now(self) -> float:
        return self._loop.time()


def kind_of(reason: str) -> str:
    """The name of the error that a reason begins with."""
    return reason.partition(":")[0]


def _ms() -> int:
    return time.time_ns() // 1_000_000
