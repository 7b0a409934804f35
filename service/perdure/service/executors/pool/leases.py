"""What the pool knows of its agents, leases and shapes. No decisions, no I/O."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from perdure import graphwire
from perdure.model import Payload, Shape
from perdure.service.executors.port import Work
from perdure.v1 import worker_service_pb2 as pb

MESSAGE_BYTES_SOFT: Final = 2 * 1024 * 1024
"""A message to a lease is sent on when it has grown to this; a value inline is far smaller."""

Key: TypeAlias = tuple[str, str, int]


@dataclass(slots=True, eq=False)
class Placed:
    """Work that is with a lease."""

    work: Work
    token: int
    is_concurrent: bool = False
    is_cancelled: bool = False
    is_recalled: bool = False
    began_s: float | None = None


class Outbox:
    """Messages to one stream. What gathers while a message is being sent goes into the next."""

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


class Lease:
    """A lease that was asked for; connected or not yet."""

    def __init__(self, lease_id: str, shape: Shape, agent_id: str, cluster_id: str) -> None:
        self.id = lease_id
        self.shape = shape
        self.agent_id = agent_id
        self.cluster_id = cluster_id
        self.outbox = Outbox()
        self.is_connected = False
        self.is_finishing = False
        self.is_gone = False
        self.in_flight: dict[int, Placed] = {}  # in the order in which they were sent
        self.asked_s = 0.0
        self.idle_since_s = 0.0  # until it is connected: when it was asked for
        self.since_s = 0.0  # it is connected
        self.python_version = ""
        self.concurrent = 0  # attempts in flight of asynchronous functions
        self.cancelling = 0  # attempts in flight that were cancelled
        self._is_finish_sent = False
        self._holds_for_s: float | None = None
        self._functions: set[str] = set()
        self._queue: deque[tuple[pb.Attempt, Work]] = deque()
        self._cancel: list[int] = []
        self._recall: list[int] = []

    def send(self, attempt: pb.Attempt, work: Work) -> None:
        self._queue.append((attempt, work))
        self.outbox.wake()

    def send_cancel(self, token: int) -> None:
        self._cancel.append(token)
        self.outbox.wake()

    def send_hold(self, holds_for_s: float) -> None:
        """What its question is answered with."""
        self._holds_for_s = max(holds_for_s, 0.0)
        self.outbox.wake()

    def send_recall(self, tokens: Iterable[int]) -> None:
        self._recall.extend(tokens)
        self.outbox.wake()

    def add(self, placed: Placed) -> None:
        self.in_flight[placed.token] = placed
        self.concurrent += placed.is_concurrent

    def remove(self, placed: Placed) -> None:
        del self.in_flight[placed.token]
        self.concurrent -= placed.is_concurrent
        self.cancelling -= placed.is_cancelled

    def regroup(self, function: str) -> None:
        """A function turned out to be asynchronous."""
        for placed in self.in_flight.values():
            if not placed.is_concurrent and placed.work.call.function.key == function:
                placed.is_concurrent = True
                self.concurrent += 1

    def is_stuck(self, now_s: float, after_s: float) -> bool:
        """Whether what runs first takes so long that nothing should wait behind it."""
        if self.concurrent or not self.in_flight:
            return False
        began_s = next(iter(self.in_flight.values())).began_s
        return began_s is not None and now_s - began_s > after_s

    def takes(self, is_concurrent: bool) -> bool:
        """Whether an attempt of such a function would not wait for others of the other sort. While an attempt
        is being stopped nobody knows whether the process survives it."""
        if self.is_finishing or self.cancelling or not self.is_connected:
            return False
        return not self.in_flight or bool(self.concurrent) == is_concurrent

    def finish(self) -> None:
        """Ask it to end once it has done what it has."""
        self.is_finishing = True
        self.outbox.wake()

    def next_message(self) -> pb.ServeLeaseResponse | None:
        """Everything that gathered, up to the soft limit; None if there is nothing."""
        message = pb.ServeLeaseResponse()
        size = 0
        while self._queue and size < MESSAGE_BYTES_SOFT:
            attempt, work = self._queue.popleft()
            function = work.call.function
            if function.key not in self._functions:
                self._functions.add(function.key)
                message.functions.append(
                    pb.LeaseFunction(key=function.key, function=graphwire.function_to_proto(function))
                )
                size += function.code.size if function.code is not None else 0
            message.attempts.append(attempt)
            size += attempt.ByteSize()
        if self._cancel:
            message.cancel.extend(self._cancel)
            self._cancel.clear()
        if self._recall:
            message.recall.extend(self._recall)
            self._recall.clear()
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
    nodes: tuple[dict[str, float], ...] = ()  # each sort of node once; empty: not known
    outbox: Outbox = field(default_factory=Outbox)
    messages: deque[pb.ServeAgentResponse] = field(default_factory=deque)
    leases: dict[str, Lease] = field(default_factory=dict)
    leaves_because: str = ""  # it said so
    watches_demand: bool = False  # it was asked to

    def send(self, message: pb.ServeAgentResponse) -> None:
        self.messages.append(message)
        self.outbox.wake()

    def free(self, shape: Shape) -> dict[str, float]:
        """What is not held by our leases, by our own count. One that waits for the cluster to grow holds nothing.
        A placement group has its resources already: leases in it are in nobody's way but their own."""
        left = dict(self.capacity)
        for lease in self.leases.values():
            if is_reserved(shape) and lease.shape != shape:
                continue
            if not lease.is_connected and not self.holds(lease.shape):
                continue
            for name, amount in lease.shape.resources.amounts().items():
                left[name] = left.get(name, 0) - amount
        return left

    def has(self, capacity: pb.ClusterCapacity) -> None:
        """Take what the agent says of its cluster."""
        self.capacity = dict(capacity.total)
        self.nodes = tuple(dict(node.amounts) for node in capacity.nodes)

    def holds(self, shape: Shape) -> bool:
        """Whether the cluster, idle, has a node that a lease of the shape fits on."""
        return self.has_node_for(shape.resources.amounts())

    def has_node_for(self, wanted: Mapping[str, float]) -> bool:
        nodes = self.nodes or (self.capacity,)
        return any(all(node.get(name, 0) >= amount - 1e-9 for name, amount in wanted.items()) for node in nodes)

    def fits(self, shape: Shape, left: dict[str, float]) -> bool:
        return all(left.get(name, 0) >= amount - 1e-9 for name, amount in shape.resources.amounts().items())


@dataclass(slots=True, eq=False)
class ShapeQueue:
    """Work of one shape, first come first served."""

    shape: Shape
    waiting: OrderedDict[Key, Work] = field(default_factory=OrderedDict)
    together: OrderedDict[Key, Work] = field(default_factory=OrderedDict)  # waiting calls of asynchronous functions
    leases: dict[str, Lease] = field(default_factory=dict)  # asked for or connected, not gone
    waiting_since_s: float | None = None
    failures: int = 0  # of leases to start, without a success since
    refusals: int = 0  # those of the last failures that are the shape's own fault
    failed_s: float = -1.0  # the last failure that counted
    not_before_s: float = 0.0
    trouble: str = ""  # why the last lease did not start
    is_told_unfit: bool = False  # it was logged that no cluster has what the shape wants

    @property
    def is_wanted(self) -> bool:
        return bool(self.waiting or self.together)

    def has_started(self) -> None:
        """A lease of this shape runs, or nobody waits for one any more."""
        self.failures = self.refusals = 0
        self.trouble = ""

    def add(self, work: Work, *, first: bool = False, together: bool = False) -> None:
        waiting = self.together if together else self.waiting
        waiting[work.key] = work
        if first:
            waiting.move_to_end(work.key, last=False)

    def remove(self, work: Work) -> None:
        if self.waiting.pop(work.key, None) is None:
            del self.together[work.key]

    def regroup(self, function: str) -> None:
        """A function turned out to be asynchronous."""
        for work in [work for work in self.waiting.values() if work.call.function.key == function]:
            self.together[work.key] = self.waiting.pop(work.key)

    def head(self) -> Work:
        return next(iter(self.waiting.values()))

    def take(self) -> Work:
        return self.waiting.popitem(last=False)[1]

    def take_together(self) -> Work:
        return self.together.popitem(last=False)[1]

    def hosts(self) -> int:
        """How many leases run asynchronous functions."""
        return sum(lease.concurrent > 0 for lease in self.leases.values())

    def ready(self) -> list[Lease]:
        return [lease for lease in self.leases.values() if lease.is_connected and not lease.is_finishing]

    def starting(self) -> int:
        return sum(not lease.is_connected for lease in self.leases.values())
