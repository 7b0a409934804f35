"""The Ray cluster that an agent is a driver of: joining it, what it has, and how one sees that it is dead.

Ray tells its drivers late or not at all. A raylet that was killed is noticed by the GCS after some 13 seconds, calls
to a GCS that was killed block for a minute, and then Ray ends the process of the driver. So the processes of a Ray of
our own are looked at directly, and of any Ray the GCS is asked with a deadline.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from perdure.model import frozen
from perdure.storage.ports import BlobNotFound, CorruptData, StorageError

LOCAL: Final = "local"
NODES_MAX: Final = 1000
"""Sorts of nodes that the engine is told of: with memory to the byte, no two may be equal."""
_VITAL: Final = ("gcs_server", "raylet")
"""Processes of a node without which nothing runs there."""
_NO_DEMAND: Final = ("node:", "object_store_memory")
"""Resources that say where something is, or that no task holds."""


@frozen
class ClusterState:
    """What the cluster has, by Ray's names of resources: in all, and the nodes that are alive, equal ones once.
    `has_us`: whether the node of this driver is one of those."""

    total: dict[str, float]
    nodes: tuple[dict[str, float], ...]
    has_us: bool = True


class Cluster:
    """One connection to Ray. Its methods block, and may be called in any thread once it is connected."""

    def __init__(self, address: str, cpus: int = 0, namespace: str = "") -> None:
        self._address = address
        self._namespace = namespace
        self._cpus = cpus

    @property
    def name(self) -> str:
        """For people."""
        return "the Ray of this agent" if self._address == LOCAL else f"the Ray at {self._address}"

    def connect(self) -> None:
        """In the main thread, where Ray wants to set its handlers of signals."""
        import ray

        how: dict[str, Any] = {"address": self._address, "log_to_driver": True, "logging_level": "warning"}
        how["namespace"] = self._namespace or None
        if self._address == LOCAL:
            # A Ray of its own that listens on this machine only has nobody to keep out.
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")
            how |= {"include_dashboard": False, "num_cpus": self._cpus or None}
        ray.init(**how)

    def disconnect(self) -> None:
        import ray

        ray.shutdown()

    def end_by_force(self) -> None:
        """Kill what is left of a Ray of our own; nothing is asked of it."""
        node = _own_node()
        if node is not None and self._address == LOCAL:
            node.kill_all_processes(check_alive=False, allow_graceful=False)

    def id(self) -> str:
        import ray

        return str(ray.get_runtime_context().gcs_address)

    def state(self) -> ClusterState:
        """Asks the GCS, and waits for it for as long as Ray does."""
        import ray

        us = ray.get_runtime_context().get_node_id()
        alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        total: dict[str, float] = {}
        sorts: dict[tuple[tuple[str, float], ...], dict[str, float]] = {}
        for node in alive:
            has = _resources(node["Resources"])
            for name, amount in has.items():
                total[name] = total.get(name, 0.0) + amount
            sorts.setdefault(tuple(sorted(has.items())), has)
        nodes = tuple(sorts.values())[:NODES_MAX]
        return ClusterState(total, nodes, any(node["NodeID"] == us for node in alive))

    def demand(self) -> list[tuple[dict[str, float], int]]:
        """What waits for resources, and how often the same: tasks, actors and placement groups of the whole cluster.
        The GCS hears of it from the nodes every second."""
        from ray.autoscaler.v2.sdk import get_cluster_resource_state

        ray: Any = sys.modules["ray"]
        state: Any = get_cluster_resource_state(ray._private.worker.global_worker.gcs_client)
        waiting = [(dict(each.request.resources_bundle), each.count) for each in state.pending_resource_requests]
        for gang in state.pending_gang_resource_requests:
            bundles = list(gang.requests)
            selectors = getattr(gang, "bundle_selectors", None)
            if not bundles and selectors:  # any of them will do
                bundles = list(selectors[0].resource_requests)
            waiting += [(dict(bundle.resources_bundle), 1) for bundle in bundles]
        return waiting

    def death(self) -> str:
        """How a Ray of our own has died; "" while its processes live. Costs a system call for each."""
        node = _own_node()
        if node is None:
            return ""
        for kind, process in node.dead_processes():
            if kind in _VITAL:
                return f"its {kind} (process {process.pid}) ended with code {process.returncode}"
        return ""


def _own_node() -> Any:
    ray: Any = sys.modules["ray"]
    return ray._private.worker._global_node


def _resources(amounts: dict[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in amounts.items() if not name.startswith(_NO_DEMAND)}


# ------------------------------------------------------------------------------ errors of leases


def is_death(error: BaseException) -> bool:
    """Whether an error says that this driver can start nothing any more, whatever it is."""
    from ray.exceptions import LocalRayletDiedError

    return isinstance(error, LocalRayletDiedError)


def is_refusal(error: BaseException) -> bool:
    """Whether a lease of this shape will not start however often it is tried: its environment cannot be made, what it
    should run on is gone, its options are wrong, or its code fails. Anything else (a worker, a node, the GCS or the
    blob store that is gone) is no matter of the shape."""
    from ray import exceptions

    if isinstance(error, exceptions.RayError):
        refusals = (
            exceptions.RuntimeEnvSetupError,
            exceptions.TaskUnschedulableError,
            exceptions.TaskPlacementGroupRemoved,
            exceptions.RayTaskError,
        )
        return isinstance(error, refusals)
    if isinstance(error, (CorruptData, BlobNotFound)):  # a package that the environment names
        return True
    return not isinstance(error, (StorageError, OSError, RuntimeError))
