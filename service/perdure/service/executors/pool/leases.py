"""The pool's records of its agents, leases and shapes. No decisions, no I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from perdure import wire
from perdure.model import Payload, Shape
from perdure.service.executors.port import Attempt
from perdure.service.executors.turns import Turns
from perdure.v1 import worker_service_pb2 as pb

MESSAGE_BYTES_SOFT: Final = 2 * 1024 * 1024
"""A message to a lease is closed at this size. Its last attempt may exceed it, by far less than a gRPC message
allows."""


@dataclass(slots=True, eq=False)
class PlacedAttempt:
    """An attempt that was put onto a lease. `is_sent`: a part of it was handed to the stream, so it may begin."""

    attempt: Attempt
    token: int
    is_concurrent: bool = False
    is_cancelled: bool = False
    is_recalled: bool = False
    is_sent: bool = False
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


class Lease:
    """A lease that was requested, connected or not yet."""

    def __init__(self, lease_id: str, shape: Shape, agent_id: str, cluster_id: str) -> None:
        self.id = lease_id
        self.shape = shape
        self.agent_id = agent_id
        self.cluster_id = cluster_id
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
        self.cancelling = 0  # attempts in flight that were cancelled
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

    def remove(self, placed: PlacedAttempt) -> None:
        del self.in_flight[placed.token]
        self.concurrent -= placed.is_concurrent
        self.cancelling -= placed.is_cancelled

    def regroup(self, function: str) -> None:
        """A function turned out to be asynchronous."""
        for placed in self.in_flight.values():
            if not placed.is_concurrent and placed.attempt.call.function.key == function:
                placed.is_concurrent = True
                self.concurrent += 1

    def is_stuck(self, now_s: float, after_s: float) -> bool:
        """Whether its first attempt runs so long that other attempts should not wait behind it."""
        if self.concurrent or not self.in_flight:
            return False
        began_s = next(iter(self.in_flight.values())).began_s
        return began_s is not None and now_s - began_s > after_s

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
    nodes: tuple[dict[str, float], ...] = ()  # each kind of node once; empty: unknown
    outbox: Outbox = field(default_factory=Outbox)
    messages: deque[pb.ServeAgentResponse] = field(default_factory=deque)
    leases: dict[str, Lease] = field(default_factory=dict)
    leaves_because: str = ""  # the reason that it gave
    watches_demand: bool = False  # it was told to

    def send(self, message: pb.ServeAgentResponse) -> None:
        self.messages.append(message)
        self.outbox.wake()

    def free(self, shape: Shape) -> dict[str, float]:
        """The resources that our leases do not hold, by our own count. A lease that waits for the cluster to grow
        holds none. A placement group has reserved its resources, so leases in it compete with leases of their own
        shape only."""
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
        """Store the resources that the agent reports."""
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
    """Work of one shape. Runs take turns, and each has its work done in the order in which it came."""

    shape: Shape
    waiting: Turns[Attempt] = field(default_factory=Turns)
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
        return bool(self.waiting or self.together)

    def has_started(self) -> None:
        """A lease of this shape runs, or no attempt waits for one any more: forget earlier failures."""
        self.failures = self.refusals = 0
        self.trouble = ""

    def add(self, attempt: Attempt, *, first: bool = False, together: bool = False) -> None:
        (self.together if together else self.waiting).add(attempt.key, attempt, first=first)

    def remove(self, attempt: Attempt) -> None:
        if self.waiting.drop(attempt.key) is None:
            self.together.drop(attempt.key)

    def regroup(self, function: str) -> None:
        """A function turned out to be asynchronous."""
        for attempt in [attempt for attempt in self.waiting if attempt.call.function.key == function]:
            self.waiting.drop(attempt.key)
            self.together.add(attempt.key, attempt)

    def head(self) -> Attempt:
        return self.waiting.head()

    def take(self) -> Attempt:
        return self.waiting.take()

    def take_together(self) -> Attempt:
        return self.together.take()

    def hosts(self) -> int:
        """The number of leases that run asynchronous functions."""
        return sum(lease.concurrent > 0 for lease in self.leases.values())

    def ready(self) -> list[Lease]:
        return [lease for lease in self.leases.values() if lease.is_connected and not lease.is_finishing]

    def starting(self) -> int:
        return sum(not lease.is_connected for lease in self.leases.values())
