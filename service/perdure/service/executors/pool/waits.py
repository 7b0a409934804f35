"""Texts that say why work waits: what its shape wants, and what the attached clusters have."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from perdure import texts
from perdure.model import Function, Shape
from perdure.service.executors.pool.leases import AgentSession, Restricted, ShapeQueue
from perdure.service.executors.port import Waiting, WaitReason

CLUSTERS_MAX: Final = 3
"""A text lists at most this many clusters."""
_GIB: Final = 1024**3


def why(queue: ShapeQueue, agents: Collection[AgentSession], last_left: str, now_s: float) -> Waiting:
    """Why work of a shape has no lease. `last_left`: why the last agent left, "" for none."""
    if not agents:
        return Waiting(WaitReason.NO_AGENT, "waits: no cluster is attached" + (f"; {last_left}" if last_left else ""))
    if queue.trouble:
        again_s = max(queue.not_before_s - now_s, 0.0)
        text = f"waits: no worker could be started, the next try is in {again_s:.0f} s: {queue.trouble}"
        return Waiting(WaitReason.WORKER_START, text)
    wants = f"wants {_listed(_wanted(queue.shape))}"
    if not any(agent.holds(queue.shape) for agent in agents):
        return Waiting(WaitReason.RESOURCES, f"{wants}; {unfit(queue.shape, agents)}")
    if queue.starting():
        return Waiting(WaitReason.WORKER_START, f"{wants}; {_start(queue, now_s)}")
    return Waiting(WaitReason.RESOURCES, f"{wants}, and all of it is in use")


def without_function(function: Function, shape: Shape) -> Waiting | None:
    """That no agent has the function; None if one has."""
    if not isinstance(shape, Restricted) or shape.agents:
        return None
    named = texts.versioned(function.name, function.version)
    text = f"waits: no attached cluster has the function {named}; attach one whose workers import it (--import)"
    return Waiting(WaitReason.NO_FUNCTION, text)


def _start(queue: ShapeQueue, now_s: float) -> str:
    starting = [lease for lease in queue.leases.values() if not lease.is_connected]
    if not all(lease.is_stalled for lease in starting):
        return "the cluster starts a worker as soon as it has room"
    since_s = now_s - min(lease.asked_s for lease in starting)
    text = f"the cluster was asked for a worker {since_s:.0f} s ago, and has not started it"
    if queue.shape.scheduling not in ("", "DEFAULT", "SPREAD"):
        text += ". Look at the labels or the strategy that it asks for"
    return text


def unfit(shape: Shape, agents: Iterable[AgentSession]) -> str:
    """The resources of the clusters, of the kinds that a shape wants."""
    agents = list(agents)
    told = [_has(shape, agent) for agent in agents[:CLUSTERS_MAX]]
    if len(agents) > CLUSTERS_MAX:
        told.append(f"{len(agents) - CLUSTERS_MAX} more have no node for it")
    return "; ".join(told)


def _has(shape: Shape, agent: AgentSession) -> str:
    names = _wanted(shape)
    total = {name: agent.capacity.get(name, 0.0) for name in names}
    text = f"the cluster {agent.cluster_id!r} has {_listed(total)}"
    if len(agent.nodes) > 1 and any(total.values()):
        largest = {name: max(node.get(name, 0.0) for node in agent.nodes) for name in names}
        text += f" in all, nodes of at most {_listed(largest)}"
    return text


def _wanted(shape: Shape) -> dict[str, float]:
    return shape.resources.amounts() or {"CPU": 0.0}


def _listed(amounts: Mapping[str, float]) -> str:
    """Such as "CPU 2, memory 1.5 GiB, no GPU"."""
    return ", ".join(_amount(name, amount) for name, amount in amounts.items())


def _amount(name: str, amount: float) -> str:
    if not amount:
        return f"no {name}"
    return f"{name} {amount / _GIB:.3g} GiB" if name == "memory" else f"{name} {amount:g}"
