"""The API of Ray Workflows: `from perdure import workflow` replaces `from ray import workflow`.

Every function may be called from any thread, with or without a running event loop, and in tasks and actors. The first
call finds the engine: the one at PERDURE_ADDRESS, or the one of this Ray cluster, which is started if it does not run.
"""

from __future__ import annotations

from perdure.context import context
from perdure.workflow import event_listener, exceptions, http_event_provider
from perdure.workflow.connection import init
from perdure.workflow.dynamic import continuation, wait
from perdure.workflow.event_listener import EventListener
from perdure.workflow.events import sleep, wait_for_event
from perdure.workflow.exceptions import (
    WorkflowCancellationError,
    WorkflowError,
    WorkflowExecutionError,
    WorkflowNotFoundError,
    WorkflowNotResumableError,
    WorkflowStillActiveError,
)
from perdure.workflow.management import (
    cancel,
    delete,
    get_metadata,
    get_output,
    get_output_async,
    get_status,
    list_all,
)
from perdure.workflow.replacement import replace_ray_workflow
from perdure.workflow.running import create, resume, resume_all, resume_async, run, run_async
from perdure.workflow.status import CANCELED, FAILED, PENDING, RESUMABLE, RUNNING, SUCCESSFUL, WorkflowStatus
from perdure.workflow.step_options import options
from perdure.workflow.steps import step
from perdure.workflow.virtual_actors import get_actor, virtual_actor

__all__ = [
    "CANCELED",
    "FAILED",
    "PENDING",
    "RESUMABLE",
    "RUNNING",
    "SUCCESSFUL",
    "EventListener",
    "WorkflowCancellationError",
    "WorkflowError",
    "WorkflowExecutionError",
    "WorkflowNotFoundError",
    "WorkflowNotResumableError",
    "WorkflowStatus",
    "WorkflowStillActiveError",
    "cancel",
    "context",
    "continuation",
    "create",
    "delete",
    "event_listener",
    "exceptions",
    "get_actor",
    "get_metadata",
    "get_output",
    "get_output_async",
    "get_status",
    "http_event_provider",
    "init",
    "list_all",
    "options",
    "replace_ray_workflow",
    "resume",
    "resume_all",
    "resume_async",
    "run",
    "run_async",
    "sleep",
    "step",
    "virtual_actor",
    "wait",
    "wait_for_event",
]
