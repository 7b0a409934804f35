"""Ray clusters of tests. Ray gives its processes 15 or 30 s to start, which a busy machine may need more of."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import psutil

from patience import PATIENCE_S

TRIES: Final = 6

T = TypeVar("T")


def init_ray(*where: str, **how: Any) -> None:
    """`ray.init`, again as long as Ray was too slow for itself."""
    import ray

    def start() -> None:
        try:
            ray.init(*where, include_dashboard=False, log_to_driver=False, logging_level="error", **how)
        except Exception:
            ray.shutdown()
            raise

    patiently(start)


def shut_down_ray() -> None:
    """`ray.shutdown`, until the processes of the cluster are gone. Older versions do not wait for them, and an object
    of a process that is freed while the process runs warns."""
    import ray

    node: Any = ray._private.worker._global_node
    started = [info.process for infos in node.all_processes.values() for info in infos] if node else []
    ray.shutdown()
    for process in started:
        process.wait(PATIENCE_S)


def start_cluster(**head: Any) -> Any:
    """A cluster in processes of its own, with a head of these resources."""
    from ray.cluster_utils import Cluster

    def start() -> Cluster:
        cluster = Cluster()
        try:
            cluster.add_node(include_dashboard=False, **head)
        except Exception:
            cluster.shutdown()
            raise
        return cluster

    return patiently(start)


def patiently(start: Callable[[], T]) -> T:
    """Start something of Ray's, and leave nothing behind of a try that failed."""
    with warnings.catch_warnings():
        # Of a try that failed Ray leaves objects of processes and files, which warn when they are freed or collected.
        warnings.simplefilter("ignore", ResourceWarning)
        for left in reversed(range(TRIES)):
            before = set(psutil.Process().children())
            try:
                return start()
            except Exception as error:
                _end(set(psutil.Process().children()) - before)
                if not left or not _is_slow_start(error):
                    raise
            gc.collect()
    raise AssertionError("the last try raises or returns")


def _is_slow_start(error: Exception) -> bool:
    return "timed out during startup" in str(error) or "Failed to start" in str(error)


def _end(processes: set[psutil.Process]) -> None:
    """Ray leaves the processes of a node that was not there in time, and they make the next node late, too."""
    family = set(processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            family.update(process.children(recursive=True))
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=PATIENCE_S)
