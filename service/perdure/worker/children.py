"""The Ray tasks that an attempt started. They end with it."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any


def ray_task() -> Any:
    """Ray's id of the task that runs in this thread; None without Ray."""
    ray: Any = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    return ray._private.worker.global_worker.current_task_id


def of(task: Any) -> list[Any]:
    """Ids of the Ray tasks that it started and that have not ended."""
    if task is None:
        return []
    ray: Any = sys.modules["ray"]
    worker = ray._private.worker.global_worker
    found: list[Any] = worker.core_worker.get_pending_children_task_ids(task)
    return found


def cancel(child: Any) -> None:
    """Cancel a Ray task with all its children, by force. Calls of actors cannot be forced and are cancelled without."""
    import ray

    first_return: Any = ray.ObjectRef(child.binary() + (1).to_bytes(4, "little"))
    for force in (True, False):
        with suppress(Exception):  # it has just ended, or Ray refuses
            ray.cancel(first_return, force=force, recursive=True)
            return
