"""Chooses the idle leases that end when other work of a cluster waits for resources. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from perdure.service.executors.pool.leases import AgentSession, Lease, is_reserved
from perdure.v1 import worker_service_pb2 as pb

SETTLED_S: Final = 0.1
"""A lease that is idle for less than this is between two attempts."""
_LEAST: Final = 1e-4
"""Ray counts in ten thousandths."""

Amounts = Mapping[str, float]


def idle_leases(agent: AgentSession, now_s: float) -> list[Lease]:
    """The idle leases that hold resources and are not kept warm, longest idle first."""
    idle = [
        lease
        for lease in agent.leases.values()
        if lease.is_connected
        and not lease.in_flight
        and not lease.is_finishing
        and now_s - lease.idle_since_s >= SETTLED_S
        and not lease.is_kept_warm(now_s)
        and lease.shape.resources.amounts()
        and not is_reserved(lease.shape)
    ]
    return sorted(idle, key=lambda lease: lease.idle_since_s)


def to_end(agent: AgentSession, demand: pb.ClusterDemand, now_s: float) -> list[Lease]:
    """The fewest idle leases that free the wanted resources. Demands that no node can meet are left out, and so are our
    own leases that are being started, which Ray reports as part of the demand."""
    ours = [lease.held() for lease in agent.leases.values() if not lease.is_connected and not is_reserved(lease.shape)]
    missing: dict[str, float] = {}
    for request in demand.requests:
        wanted = dict(request.wanted.amounts)
        count = request.count - sum(_is_same(wanted, amounts) for amounts in ours)
        if count > 0 and agent.has_node_for(wanted):
            for name, amount in wanted.items():
                missing[name] = missing.get(name, 0.0) + amount * count
    ending: list[Lease] = []
    for lease in idle_leases(agent, now_s):
        given = lease.held()
        if any(missing.get(name, 0.0) >= _LEAST for name in given):
            ending.append(lease)
            for name, amount in given.items():
                missing[name] = missing.get(name, 0.0) - amount
    return ending


def _is_same(one: Amounts, other: Amounts) -> bool:
    return all(abs(one.get(name, 0.0) - other.get(name, 0.0)) < _LEAST for name in _names((one, other)))


def _names(amounts: Iterable[Amounts]) -> set[str]:
    return {name for each in amounts for name in each}
