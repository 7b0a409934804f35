"""The pool's records of its agents, leases and shapes. No decisions, no I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final

from perdure import wire
from perdure.model import Payload, Shape, frozen
from perdure.service.executors.lanes import Lane
from perdure.service.executors.port import Attempt, Functions
from perdure.service.executors.turns import Turns
from perdure.v1 import worker_service_pb2 as pb

CPU: Final = "CPU"
"""The name of Ray's."""
STALLED_S: Final = 10.0
"""A cluster that has room for a lease starts it within this time, unless its machines are overloaded."""
MESSAGE_BYTES_SOFT: Final = 2 * 1024 * 1024
"""A message to a lease is closed at this size. Its last attempt may exceed it, by far less than a gRPC message
allows."""


@dataclass(slots=True, eq=False)
class PlacedAttempt:
    """An attempt that was put onto a lease. `is_sent`: a part of it was handed to the stream, so it may begin.
    `waits`: it waits for an answer of the engine."""

    attempt: Attempt
    token: int
    is_concurrent: bool = False
    is_tiny: bool = False
    is_cancelled: bool = False
    is_recalled: bool = False
    is_sent: bool = False
    waits: bool = False
    began_s: float | None = None
    loading: str = ""
    """Where it is, if its function takes long to load."""


class Outbox:
    """Wakes the sender of one stream. What gathers while a message is being sent goes into the next one."""

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self.is_closed = False

    def wake(self) -> None:
        self._wake.set()

    def close(self) -> None:
        self.is_closed = True
        self._wake.set()

    async def wait(self) -> None:
        await self._wake.wait()
        self._wake.clear()


@frozen
class Restricted(Shape):
    """A shape whose leases only these agents may start: the others do not have the functions of its attempts."""

    agents: frozenset[str] = frozenset()


class Lease:
    """A lease that was requested, connected or not yet. `borrowed`: the CPUs of its shape that it does not hold,
    because leases that wait for the engine hold them. `is_beyond`: it was requested although its cluster had no room.
    """

    def __init__(
        self,
        lease_id: str,
        shape: Shape,
        agent_id: str,
        cluster_id: str,
        *,
        borrowed: float = 0.0,
        is_beyond: bool = False,
    ) -> None:
        self.id = lease_id
        self.shape = shape
        self.agent_id = agent_id
        self.cluster_id = cluster_id
        self.borrowed = borrowed
        self.is_beyond = is_beyond
        self.node_id = ""
        self.outbox = Outbox()
        self.is_connected = False
        self.is_finishing = False
        self.is_gone = False
        self.in_flight: dict[int, PlacedAttempt] = {}  # in the order in which they were sent
        self.asked_s = 0.0
        self.idle_since_s = 0.0  # until it is connected: when it was requested
        self.since_s = 0.0  # when it connected
        self.python_version = ""
        self.concurrent = 0  # attempts in flight of asynchronous functions
        self.tiny = 0  # attempts in flight that are known to be very short
        self.cancelling = 0  # attempts in flight that were cancelled
        self.waits = 0  # attempts in flight that wait for the engine
        self.waits_since_s = 0.0  # when the last one of these began to wait
        self.has_ended = False  # its process
        self.is_stalled = False  # its cluster has not started it for STALLED_S
        self.turns: list[Lane] = []  # of attempts that may still run, although the lease is lost
        self._is_finish_sent = False
        self._holds_for_s: float | None = None
        self._functions: set[str] = set()
        self._queue: deque[tuple[Iterator[pb.Attempt], PlacedAttempt]] = deque()
        self._cancel: list[int] = []
        self._recall: list[int] = []

    def send(self, parts: Iterator[pb.Attempt], placed: PlacedAttempt) -> None:
        self._queue.append((parts, placed))
        self.outbox.wake()

    def send_cancel(self, token: int) -> None:
        self._cancel.append(token)
        self.outbox.wake()

    def send_hold(self, holds_for_s: float) -> None:
        """Answer the lease's question how long the engine's runs are its own."""
        self._holds_for_s = max(holds_for_s, 0.0)
        self.outbox.wake()

    def send_recall(self, tokens: Iterable[int]) -> None:
        self._recall.extend(tokens)
        self.outbox.wake()

    def add(self, placed: PlacedAttempt) -> None:
        self.in_flight[placed.token] = placed
        self.concurrent += placed.is_concurrent
        self.tiny += placed.is_tiny

    def remove(self, placed: PlacedAttempt) -> None:
        del self.in_flight[placed.token]
        self.concurrent -= placed.is_concurrent
        self.tiny -= placed.is_tiny
        self.cancelling -= placed.is_cancelled
        self.waits -= placed.waits

    def wait(self, placed: PlacedAttempt, now_s: float, *, is_over: bool) -> None:
        """One of its attempts waits for the engine, or goes on."""
        if not is_over and not placed.waits:
            self.waits_since_s = now_s
        self.waits += (not is_over) - placed.waits
        placed.waits = not is_over

    @property
    def is_waiting(self) -> bool:
        """Whether it does nothing but wait for the engine. Attempts of synchronous functions run one at a time."""
        return self.waits > 0 and (not self.concurrent or self.waits == len(self.in_flight))

    @property
    def cpus(self) -> float:
        return self.shape.resources.amounts().get(CPU, 0.0)

    def lends(self, since_s: float = inf) -> float:
        """The CPUs that it lends, less those that it borrows: while it is idle or stalled, none. `since_s`: a lease
        that began to wait later lends none yet."""
        is_idle = self.is_stalled or (self.is_connected and not self.in_flight)
        is_lending = self.is_waiting and self.waits_since_s <= since_s
        return (self.cpus if is_lending else 0.0) - (0.0 if is_idle else self.borrowed)

    def held(self) -> dict[str, float]:
        """The resources of its cluster that it holds."""
        amounts = self.shape.resources.amounts()
        if self.borrowed:
            amounts[CPU] = round(amounts[CPU] - self.borrowed, 4)
        return {name: amount for name, amount in amounts.items() if amount}

    def regroup(self, function: str) -> None:
        """A function turned out to be asynchronous."""
        for placed in self.in_flight.values():
            if not placed.is_concurrent and placed.attempt.call.function.key == function:
                placed.is_concurrent = True
                self.concurrent += 1

    def is_kept_warm(self, now_s: float) -> bool:
        """Whether it stays for the next attempt of its shape, although it is idle."""
        is_fresh = now_s - self.idle_since_s < self.shape.keep_warm_ms / 1000
        return is_fresh and not self.in_flight and not self.borrowed

    def is_stuck(self, now_s: float, after_s: float) -> bool:
        """Whether its first attempt runs so long that other attempts should not wait behind it."""
        if self.concurrent or not self.in_flight:
            return False
        began_s = next(iter(self.in_flight.values())).began_s
        return began_s is not None and now_s - began_s > after_s

    def shares(self, most: int) -> bool:
        """Whether it works, on fewer than this many attempts, all of them very short."""
        return 0 < len(self.in_flight) < most and self.tiny == len(self.in_flight)

    def takes(self, is_concurrent: bool) -> bool:
        """Whether it can take an attempt of an asynchronous (`is_concurrent`) or synchronous function: a lease runs
        one kind at a time. While an attempt is being stopped it takes none, because its process may end."""
        if self.is_finishing or self.cancelling or not self.is_connected:
            return False
        return not self.in_flight or bool(self.concurrent) == is_concurrent

    def finish(self) -> None:
        """Tell it to end after its attempts."""
        self.is_finishing = True
        self.outbox.wake()

    def next_message(self) -> pb.ServeLeaseResponse | None:
        """Everything that is queued, up to the soft limit; None if there is nothing."""
        message = pb.ServeLeaseResponse()
        size = 0
        while self._queue and size < MESSAGE_BYTES_SOFT:
            parts, placed = self._queue[0]
            attempt = next(parts, None)
            if attempt is None:
                self._queue.popleft()
                continue
            placed.is_sent = True
            function = placed.attempt.call.function
            if function.key not in self._functions:
                self._functions.add(function.key)
                message.functions.append(pb.LeaseFunction(key=function.key, function=wire.function_to_proto(function)))
                size += function.code.size if function.code is not None else 0
            message.attempts.append(attempt)
            size += attempt.ByteSize()
        if self._cancel or self._recall:
            behind = {placed.token for _, placed in self._queue}  # the lease ignores tokens that it was not sent
            message.cancel.extend(token for token in self._cancel if token not in behind)
            message.recall.extend(token for token in self._recall if token not in behind)
            self._cancel = [token for token in self._cancel if token in behind]
            self._recall = [token for token in self._recall if token in behind]
        if self.is_finishing and not self._queue and not self._is_finish_sent:
            message.finish = self._is_finish_sent = True
        is_empty = not (message.attempts or message.cancel or message.recall or message.finish)
        if self._holds_for_s is not None:
            message.holds_for.FromNanoseconds(int(self._holds_for_s * 1e9))
            self._holds_for_s, is_empty = None, False
        return None if is_empty else message


def is_reserved(shape: Shape) -> bool:
    """Whether its resources are those of a placement group."""
    return isinstance(shape.scheduling, Payload) and shape.scheduling.type == "PlacementGroupSchedulingStrategy"


@dataclass(slots=True, eq=False)
class AgentSession:
    """A connected agent."""

    id: str
    cluster_id: str
    python_version: str
    capacity: dict[str, float] = field(default_factory=dict)  # of all nodes together
    nodes: tuple[dict[str, float], ...] = ()  # each kind of node once; empty: unknown
    outbox: Outbox = field(default_factory=Outbox)
    messages: deque[pb.ServeAgentResponse] = field(default_factory=deque)
    leases: dict[str, Lease] = field(default_factory=dict)
    leaves_because: str = ""  # the reason that it gave
    watches_demand: bool = False  # it was told to
    functions: Functions = field(default_factory=dict)

    def send(self, message: pb.ServeAgentResponse) -> None:
        self.messages.append(message)
        self.outbox.wake()

    def free(self, shape: Shape) -> dict[str, float]:
        """The resources that our leases do not hold, by our own count. A lease that waits for the cluster to grow
        holds none. If the cluster has not started some other lease for long, its nodes have something that is not
        counted here: then leases that are starting hold nothing for other shapes, and the cluster decides which one
        starts."""
        has_stalled = any(lease.is_stalled and self.holds(lease.shape) for lease in self.leases.values())
        counted = [
            lease
            for lease in self.leases.values()
            if lease.is_connected or (self.holds(lease.shape) and (lease.shape == shape or not has_stalled))
        ]
        return self._left(shape, counted)

    def is_full(self, shape: Shape) -> bool:
        """Whether the leases that work leave no room for one of this shape."""
        return not self.fits(shape, self._left(shape, [lease for lease in self.leases.values() if lease.is_connected]))

    def _left(self, shape: Shape, leases: Iterable[Lease]) -> dict[str, float]:
        """What these leases leave. A placement group has reserved its resources, so leases in it compete with leases of
        their own shape only."""
        left = dict(self.capacity)
        for lease in leases:
            if lease.shape == shape or not is_reserved(shape):
                for name, amount in lease.held().items():
                    left[name] = left.get(name, 0) - amount
        return left

    def lendable(self, since_s: float = inf) -> float:
        """The CPUs of leases that wait for the engine, less those that others use. Below 0: leases that waited go on,
        and more work than the cluster has CPUs. `since_s`: as for a lease."""
        return sum(lease.lends(since_s) for lease in self.leases.values())

    def lender(self) -> str:
        """The node with the most CPUs that can be lent; "" if it is not known."""
        nodes: dict[str, float] = {}
        for lease in self.leases.values():
            nodes[lease.node_id] = nodes.get(lease.node_id, 0.0) + lease.lends()
        return max(nodes, key=lambda node: nodes[node], default="")

    def waiting(self) -> int:
        """The number of leases that wait for the engine."""
        return sum(lease.is_waiting for lease in self.leases.values())

    def has(self, capacity: pb.ClusterCapacity) -> None:
        """Store the resources that the agent reports."""
        self.capacity = dict(capacity.total)
        self.nodes = tuple(dict(node.amounts) for node in capacity.nodes)

    def holds(self, shape: Shape) -> bool:
        """Whether the cluster, idle, has a node that a lease of the shape fits on, and its functions."""
        return self.serves(shape) and self.has_node_for(shape.resources.amounts())

    def has_node_for(self, wanted: Mapping[str, float]) -> bool:
        nodes = self.nodes or (self.capacity,)
        return any(all(node.get(name, 0) >= amount - 1e-9 for name, amount in wanted.items()) for node in nodes)

    def serves(self, shape: Shape) -> bool:
        """Whether its workers have the functions of the shape's attempts."""
        return not isinstance(shape, Restricted) or self.id in shape.agents

    def fits(self, shape: Shape, left: dict[str, float]) -> bool:
        amounts = shape.resources.amounts()
        return self.serves(shape) and all(left.get(name, 0) >= amount - 1e-9 for name, amount in amounts.items())


@dataclass(slots=True, eq=False)
class ShapeQueue:
    """Work of one shape. Runs take turns, and each has its work done in the order in which it came."""

    shape: Shape
    waiting: Turns[Attempt] = field(default_factory=Turns)
    awaited: Turns[Attempt] = field(default_factory=Turns)  # those that other attempts wait for
    together: Turns[Attempt] = field(default_factory=Turns)  # waiting calls of asynchronous functions
    leases: dict[str, Lease] = field(default_factory=dict)  # requested or connected, not gone
    waiting_since_s: float | None = None
    failures: int = 0  # failed starts of leases since the last success
    refusals: int = 0  # those of the last failures that are the shape's own fault
    failed_s: float = -1.0  # the last failure that was counted
    not_before_s: float = 0.0
    trouble: str = ""  # why the last lease did not start
    is_told_unfit: bool = False  # it was logged that no cluster has what the shape wants

    @property
    def is_wanted(self) -> bool:
        return bool(self.waiting or self.awaited or self.together)

    def has_started(self) -> None:
        """A lease of this shape runs, or no attempt waits for one any more: forget earlier failures."""
        self.failures = self.refusals = 0
        self.trouble = ""

    def add(self, attempt: Attempt, *, first: bool = False, together: bool = False) -> None:
        alone = self.awaited if attempt.is_awaited else self.waiting
        (self.together if together else alone).add(attempt.key, attempt, first=first)

    def remove(self, attempt: Attempt) -> None:
        for turns in (self.waiting, self.awaited, self.together):
            turns.drop(attempt.key)

    def regroup(self, function: str) -> None:
        """A function turned out to be asynchronous."""
        for turns in (self.waiting, self.awaited):
            for attempt in [attempt for attempt in turns if attempt.call.function.key == function]:
                turns.drop(attempt.key)
                self.together.add(attempt.key, attempt)

    @property
    def alone(self) -> int:
        """The number of waiting calls of synchronous functions."""
        return len(self.awaited) + len(self.waiting)

    @property
    def line(self) -> Turns[Attempt]:
        """The waiting calls of synchronous functions of which one is next. Those that others wait for go first."""
        return self.awaited or self.waiting

    def take(self) -> Attempt:
        """Remove and return the call of a synchronous function that is next."""
        return self.line.take()

    def take_together(self) -> Attempt:
        return self.together.take()

    def hosts(self) -> int:
        """The number of leases that run asynchronous functions."""
        return sum(lease.concurrent > 0 for lease in self.leases.values())

    def ready(self) -> list[Lease]:
        return [lease for lease in self.leases.values() if lease.is_connected and not lease.is_finishing]

    def starting(self) -> int:
        return sum(not lease.is_connected for lease in self.leases.values())

    def coming(self) -> int:
        """The number of leases that are starting, and have room to start."""
        return sum(not lease.is_connected and not lease.is_beyond for lease in self.leases.values())
