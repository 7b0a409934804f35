"""An agent's connection to its Ray cluster: joining it, its state and its demand, and noticing its death.

Ray reports its death to drivers late or not at all. The GCS notices a killed raylet after some 13 seconds. Calls to a
killed GCS block for a minute, and then Ray ends the process of the driver. So the agent checks the processes of a Ray
that it started itself, and asks any GCS with a deadline.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any, Final

from perdure.model import frozen
from perdure.storage.ports import BlobNotFound, CorruptData, StorageError

LOCAL: Final = "local"
REACH_S: Final = 3.0
"""The longest time that a connection to a Ray head may take."""
NODES_MAX: Final = 1000
"""The most kinds of nodes that are reported to the engine. Memory is in bytes, so perhaps no two nodes are equal."""
_VITAL: Final = ("gcs_server", "raylet")
"""Processes that a node cannot work without."""
_NO_DEMAND: Final = ("node:", "object_store_memory")
"""Prefixes of resources that only name a node, or that no task holds."""


@frozen
class ClusterState:
    """The resources of the cluster by Ray's names: in total, and of each kind of live node. `has_us`: whether the node
    of this driver is alive."""

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
        """A name of the cluster for logs and errors."""
        return "the Ray of this agent" if self._address == LOCAL else f"the Ray at {self._address}"

    def connect(self) -> None:
        """Start or join Ray. Call it in the main thread, because Ray sets signal handlers. Raises ConnectionError, and
        whatever Ray raises."""
        _reach(self._address)
        import ray

        how: dict[str, Any] = {"address": self._address, "log_to_driver": True, "logging_level": "warning"}
        how["namespace"] = self._namespace or None
        if self._address == LOCAL:
            # The Ray of an agent listens on this machine only, so it needs no authentication.
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")
            how |= {"include_dashboard": False, "num_cpus": self._cpus or None}
        ray.init(**how)

    def disconnect(self) -> None:
        import ray

        ray.shutdown()

    def end_by_force(self) -> None:
        """Kill the remaining processes of a Ray that we started, without asking it."""
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
        """The resources that tasks, actors and placement groups of the whole cluster wait for, each with a count. Nodes
        report them to the GCS every second."""
        from ray.autoscaler.v2.sdk import get_cluster_resource_state

        ray: Any = sys.modules["ray"]
        state: Any = get_cluster_resource_state(ray._private.worker.global_worker.gcs_client)
        waiting = [(dict(each.request.resources_bundle), each.count) for each in state.pending_resource_requests]
        for gang in state.pending_gang_resource_requests:
            bundles = list(gang.requests)
            selectors = getattr(gang, "bundle_selectors", None)
            if not bundles and selectors:  # any of the alternatives
                bundles = list(selectors[0].resource_requests)
            waiting += [(dict(bundle.resources_bundle), 1) for bundle in bundles]
        return waiting

    def death(self) -> str:
        """How a Ray that we started has died; "" while its processes live. Costs a system call for each process."""
        node = _own_node()
        if node is None:
            return ""
        for kind, process in node.dead_processes():
            if kind in _VITAL:
                return f"its {kind} (process {process.pid}) ended with code {process.returncode}"
        return ""


def _reach(address: str) -> None:
    """Raises ConnectionError if nothing listens at a host and port. Ray itself says so after a minute."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():  # a word such as "auto", or a URL
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"nothing answers there ({error}); is this the address of a Ray head?") from error


def _own_node() -> Any:
    ray: Any = sys.modules["ray"]
    return ray._private.worker._global_node


def _resources(amounts: dict[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in amounts.items() if not name.startswith(_NO_DEMAND)}


# ------------------------------------------------------------------------------ errors of leases


def is_death(error: BaseException) -> bool:
    """Whether the error means that this driver cannot start any task any more."""
    from ray.exceptions import LocalRayletDiedError

    return isinstance(error, LocalRayletDiedError)


def is_refusal(error: BaseException) -> bool:
    """Whether a lease of this shape can never start: its environment cannot be made, its node or placement group is
    gone, its options are wrong, or its code fails. Other errors (a lost worker, node, GCS or blob store) do not depend
    on the shape."""
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
