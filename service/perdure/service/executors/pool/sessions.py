"""Sessions of agents and leases that dial in. A session lives as long as its stream.

`placing` handles the messages of leases about their attempts, `provisioning` those of agents about their cluster and
about leases that did not start.
"""

from __future__ import annotations

import logging
from math import inf
from typing import Final

from perdure.service.executors.pool.leases import AgentSession, Lease
from perdure.service.executors.pool.placing import Placing
from perdure.service.executors.pool.provisioning import REASON_MAX, Provisioning
from perdure.service.executors.pool.state import State
from perdure.v1 import worker_service_pb2 as pb

log = logging.getLogger(__name__)

LEFT_S: Final = 3.0
"""The processes of leases have ended this long after their agent has said that it leaves. Their streams end with it,
and what they run then has a grace of a second."""
VANISHED_S: Final = 23.0
"""The same after the connection of their agent broke. The network may be broken, too: then the keepalive of a lease
notices it within 20 s."""


class Sessions:
    """Called by the servicer of the streams, on the event loop."""

    def __init__(
        self, state: State, placing: Placing, provisioning: Provisioning, *, engine_id: str, blob_url: str
    ) -> None:
        self._state = state
        self._placing = placing
        self._provisioning = provisioning
        self.engine_id = engine_id
        self._blob_url = blob_url

    # -------------------------------------------------------------------------- agents

    def agent_connected(self, hello: pb.AgentHello) -> AgentSession:
        agent = AgentSession(hello.agent_id, hello.cluster_id, hello.python_version)
        agent.has(hello.capacity)
        agent.functions = {(info.name, info.version): info for info in hello.functions}
        self._state.add_agent(agent)
        if self._state.report is not None:
            self._welcome(agent)
        log.info("agent connected", extra={"agent": agent.id, "cluster": agent.cluster_id})
        self._provisioning.agent_came()
        self._state.stir()
        return agent

    def started(self) -> None:
        """Welcome the agents that came while the engine started: whether there are others was not known before."""
        for agent in self._state.agents.values():
            self._welcome(agent)

    def _welcome(self, agent: AgentSession) -> None:
        has_others = self._state.holds_for_s() < inf
        welcome = pb.AgentWelcome(engine_id=self.engine_id, blob_url=self._blob_url, has_others=has_others)
        agent.send(pb.ServeAgentResponse(welcome=welcome))

    def agent_failed(self, reason: str) -> None:
        """An agent could not start or join its cluster. Its reason is shown to callers whose tasks wait."""
        self._state.last_left = f"an agent has no cluster to offer: {reason[:REASON_MAX]}"
        log.info("an agent failed to start", extra={"reason": reason})

    def agent_said(self, agent: AgentSession, message: pb.ServeAgentRequest) -> None:
        """Take any message after the first."""
        match message.WhichOneof("kind"):
            case "capacity":
                agent.has(message.capacity)
                self._state.stir()
            case "ended":
                self.lease_ended(agent, message.ended)
            case "demand":
                self._provisioning.demand_told(agent, message.demand)
            case "leaving":
                agent.leaves_because = message.leaving.reason[:REASON_MAX]
                agent.outbox.close()
            case _:
                pass

    def agent_lost(self, agent: AgentSession) -> None:
        """The agent's stream ended. Its leases end with it or by themselves; it starts new ones when it is back."""
        agent.outbox.close()
        self._state.remove_agent(agent)
        ends_s = LEFT_S if agent.leaves_because else VANISHED_S
        for lease in list(agent.leases.values()):
            self._placing.lose(lease, "the agent is gone")
            self._placing.forsake(lease, ends_s)
        reason = agent.leaves_because or "its connection broke"
        self._state.last_left = f"the agent of {agent.cluster_id!r} has left: {reason}"
        level = logging.INFO if self._state.is_draining else logging.WARNING  # agents leave with their service
        log.log(level, "agent lost", extra={"agent": agent.id, "cluster": agent.cluster_id, "reason": reason})
        self._state.stir()

    def lease_ended(self, agent: AgentSession, ended: pb.LeaseEnded) -> None:
        """The Ray task of a lease has ended, so its resources are free."""
        lease = agent.leases.pop(ended.lease_id, None)
        if lease is None:
            return
        if not lease.is_connected and not lease.is_gone:
            self._provisioning.start_failed(lease, ended)
        self._placing.ended(lease)
        self._placing.lose(lease, ended.reason or "the lease ended")
        self._state.stir()

    # -------------------------------------------------------------------------- leases

    def lease_connected(self, hello: pb.LeaseHello) -> Lease | None:
        """A lease dialled in. None: it was not requested, or was requested by another engine."""
        lease = self._state.leases.get(hello.lease_id)
        if hello.engine_id != self.engine_id or lease is None or lease.is_gone or lease.is_connected:
            return None
        lease.is_connected, lease.is_stalled = True, False
        lease.since_s = lease.idle_since_s = self._state.now_s()
        lease.python_version = hello.python_version
        lease.node_id = hello.node_id or lease.node_id
        self._state.shapes[lease.shape].has_started()
        self._state.stir()
        return lease

    def lease_said(self, lease: Lease, message: pb.ServeLeaseRequest) -> None:
        """Take any message after the first."""
        self._placing.take_message(lease, message)
        if message.asks:
            lease.send_hold(self._state.holds_for_s())
        self._state.stir()

    def lease_lost(self, lease: Lease) -> None:
        """The lease's stream ended. Its process is killed, unless it was told to finish and has no attempts."""
        if not lease.is_finishing or lease.in_flight:
            self._state.kill(lease)
        self._placing.lose(lease, "the worker process is gone")
        self._state.stir()
