"""Puts `perdure.workflow` in the place of `ray.workflow`, for programs that cannot change their imports."""

from __future__ import annotations

import sys
from typing import Any


def replace_ray_workflow() -> None:
    """From here on `ray.workflow`, `from ray import workflow` and its modules `exceptions`, `event_listener` and
    `http_event_provider` are those of Perdure, in this process. Calling it again changes nothing.

    A task that names `ray.workflow` runs in another process: the module that defines it has to call this, too.
    """
    import ray

    from perdure.workflow import event_listener, exceptions, http_event_provider

    workflow = sys.modules[__name__.rpartition(".")[0]]  # an import would be a circle: it imports this module
    place: Any = ray
    place.workflow = workflow
    sys.modules["ray.workflow"] = workflow
    for module in (event_listener, exceptions, http_event_provider):
        sys.modules[f"ray.workflow.{module.__name__.rpartition('.')[2]}"] = module
