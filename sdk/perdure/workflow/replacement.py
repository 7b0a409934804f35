"""Replaces `ray.workflow` by `perdure.workflow`, for programs that cannot change their imports."""

from __future__ import annotations

import sys
from typing import Any


def replace_ray_workflow() -> None:
    """Make `ray.workflow` and its modules `exceptions`, `event_listener` and `http_event_provider` those of Perdure,
    in this process. A second call has no effect.

    A task that uses `ray.workflow` runs in another process, so the module that defines it must call this too.
    """
    import ray

    from perdure.workflow import event_listener, exceptions, http_event_provider

    workflow = sys.modules[__name__.rpartition(".")[0]]  # an import would be a circle: it imports this module
    place: Any = ray
    place.workflow = workflow
    sys.modules["ray.workflow"] = workflow
    for module in (event_listener, exceptions, http_event_provider):
        sys.modules[f"ray.workflow.{module.__name__.rpartition('.')[2]}"] = module
