"""State that the parts of the pool share: agents, leases, the queue of each shape, and the report to the scheduler."""

from __future__ import annotations

from collections.abc import Callable

from perdure.model import Function, Shape
from perdure.service.executors.pool.leases import AgentSession, Lease, ShapeQueue
from perdure.service.executors.port import Functions, Report, Reports, forever
from perdure.v1 import worker_service_pb2 as pb


class State:
    """`stir` requests a pass over all queues: placing first, then provisioning. `now_s` returns seconds of a monotonic
    clock, `clock` milliseconds since the epoch. `holds_for_s` is that of the port."""

    def __init__(
        self,
        stir: Callable[[], None],
        now_s: Callable[[], float],
        clock: Callable[[], int],
    ) -> None:
        self.stir = stir
        self.now_s = now_s
        self.clock = clock
        self.shapes: dict[Shape, ShapeQueue] = {}
        self.agents: dict[str, AgentSession] = {}
        self.python_versions: frozenset[str] = frozenset()
        """The Python versions of the agents."""
        self.functions: Functions = {}
        """The registered functions of the agents."""
        self.leases: dict[str, Lease] = {}
        self.agents_changed: Callable[[], None] = lambda: None
        self.report: Callable[[Reports], None] | None = None
        self.holds_for_s: Callable[[], float] = forever
        self.last_left = ""  # why the last agent left, as text
        self.is_draining = False

    def send(self, reports: list[tuple[str, Report]]) -> None:
        if reports and self.report is not None:
            self.report(reports)

    def queue_of(self, shape: Shape) -> ShapeQueue:
        """The queue of a shape, created by its first attempt."""
        queue = self.shapes.get(shape)
        if queue is None:
            queue = self.shapes[shape] = ShapeQueue(shape)
        return queue

    def add_agent(self, agent: AgentSession) -> None:
        self.agents[agent.id] = agent
        self._agents_changed()

    def remove_agent(self, agent: AgentSession) -> None:
        """Remove an agent, unless another session of it has come."""
        if self.agents.get(agent.id) is agent:
            del self.agents[agent.id]
            self._agents_changed()

    def _agents_changed(self) -> None:
        self.python_versions = frozenset(agent.python_version for agent in self.agents.values())
        self.functions = {name: info for agent in self.agents.values() for name, info in agent.functions.items()}
        self.agents_changed()

    def agents_with(self, function: Function) -> frozenset[str] | None:
        """The agents whose leases can run a function; None: all of them."""
        if not function.is_registered:
            return None
        name = function.name, function.version
        having = frozenset(agent.id for agent in self.agents.values() if name in agent.functions)
        return None if len(having) == len(self.agents) else having

    def kill(self, lease: Lease) -> None:
        """Have the agent kill the lease's process."""
        agent = self.agents.get(lease.agent_id)
        if agent is not None and lease.id in agent.leases:
            agent.send(pb.ServeAgentResponse(kill=pb.KillLease(lease_id=lease.id)))

    def remove(self, lease: Lease) -> None:
        """Remove a lease that is gone. Its agent keeps it until the Ray task has ended, because it may still hold its
        resources."""
        lease.is_gone = True
        lease.outbox.close()
        self.leases.pop(lease.id, None)
        if (queue := self.shapes.get(lease.shape)) is not None:
            queue.leases.pop(lease.id, None)
