"""Ray clusters of tests. Ray gives its processes 30 s to start, which a busy machine may need more of."""

from __future__ import annotations

import gc
import warnings
from typing import Any, Final

TRIES: Final = 4


def _is_slow_start(error: Exception) -> bool:
    return "timed out during startup" in str(error) or "Failed to start" in str(error)


def _forget() -> None:
    """Of a try that failed Ray leaves objects of processes, which warn when they are collected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def init_ray(*where: str, **how: Any) -> None:
    """`ray.init`, again as long as Ray was too slow for itself."""
    import ray

    for left in reversed(range(TRIES)):
        try:
            ray.init(*where, include_dashboard=False, log_to_driver=False, logging_level="error", **how)
            return
        except Exception as error:
            if not left or not _is_slow_start(error):
                raise
            ray.shutdown()
        _forget()


def start_cluster(**head: Any) -> Any:
    """A cluster in processes of its own, with a head of these resources."""
    from ray.cluster_utils import Cluster

    for left in reversed(range(TRIES)):
        cluster = Cluster()
        try:
            cluster.add_node(include_dashboard=False, **head)
            return cluster
        except Exception as error:
            cluster.shutdown()
            if not left or not _is_slow_start(error):
                raise
        _forget()
    raise AssertionError("the last try raises or returns")
