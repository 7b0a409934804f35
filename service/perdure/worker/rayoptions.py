"""Shapes as options of Ray tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from perdure import codec, snapshots
from perdure.model import BlobRef, Payload, Shape
from perdure.worker.blobs import BlockingBlobs


def ray_options(shape: Shape, package: Callable[[BlobRef, str], str]) -> dict[str, Any]:
    """The options of the Ray task that is a lease of a shape. `package` puts a stored package into this cluster and
    returns its URI."""
    resources = shape.resources
    strategy = _strategy(shape.scheduling)
    named: dict[str, Any] = {
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus,
        "memory": resources.memory_bytes,
        "resources": dict(resources.custom) or None,
        "accelerator_type": resources.accelerator_type or None,
        "runtime_env": _environment(json.loads(shape.runtime_env), package) if shape.runtime_env else None,
    }
    named |= strategy if isinstance(strategy, dict) else {"scheduling_strategy": strategy}
    return {name: value for name, value in named.items() if value is not None}


def _environment(named: dict[str, Any], package: Callable[[BlobRef, str], str]) -> dict[str, Any]:
    """The runtime environment, with stored packages replaced by packages of this cluster."""

    def here(uri: object) -> object:
        found = snapshots.snapshot_of(uri)
        return uri if found is None else package(*found)

    if "working_dir" in named:
        named["working_dir"] = here(named["working_dir"])
    if modules := named.pop("modules", None):  # unknown to Ray
        named["py_modules"] = [modules, *(named.get("py_modules") or ())]
    if "py_modules" in named:
        named["py_modules"] = [here(uri) for uri in named["py_modules"]]
    return named


def stored_package(blobs: BlockingBlobs, blob: BlobRef, name: str) -> str:
    """Put a package into the cluster if it does not have it, and return its URI. The cluster is asked each time,
    because it may have lost the package."""
    from ray._private.runtime_env.packaging import package_exists, upload_package_to_gcs

    endings = {".tar.gz": ".tar.gz", ".tgz": ".tar.gz", ".tar.xz": ".tar.xz"}
    ending = next((meant for ending, meant in endings.items() if name.endswith(ending)), ".zip")
    uri = f"gcs://{name}" if name.endswith(".whl") else f"gcs://_ray_pkg_{blob.sha256}{ending}"
    if not package_exists(uri):
        upload_package_to_gcs(uri, bytes(blobs.load(blob)))
    return uri


def _strategy(scheduling: str | Payload) -> Any:
    """The scheduling strategy as Ray takes it, or a dictionary of several options."""
    if isinstance(scheduling, Payload):
        return codec.decode(scheduling)
    if scheduling.startswith(("node:", "node?:")):
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        kind, _, node_id = scheduling.partition(":")
        return NodeAffinitySchedulingStrategy(node_id=node_id, soft=kind.endswith("?"))
    return scheduling or None
