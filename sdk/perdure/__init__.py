"""Durable workflows on Ray, as a gRPC service.

@perdure.task
def double(x: int) -> int:
    return 2 * x

async with perdure.Client() as client:
    print(await client.run(double.bind(double.bind(1))))
"""

import os
from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

# Has to be set before grpc is imported: Ray forks, and gRPC's handling of forks stalls it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from perdure.actors import Actor, ActorClass, actor, method, readonly
from perdure.batches import EventItem, RunItem
from perdure.client import Client
from perdure.context import Context, context
from perdure.errors import ActorCallError, BatchError, PerdureError, WorkflowCancellationError, WorkflowExecutionError
from perdure.graph import Node, Task, event, input, sleep, sleep_until, task, wait
from perdure.handle import Handle
from perdure.infos import ActorCallInfo, ActorInfo, EngineInfo, FunctionInfo, RunInfo, TaskInfo, Update
from perdure.model import RunStatus, TaskStatus
from perdure.options import RetryPolicy
from perdure.references import StartedCall
from perdure.reminders import forget_reminder, remind
from perdure.sync import SyncClient, SyncHandle

__all__ = [
    "Actor",
    "ActorCallError",
    "ActorCallInfo",
    "ActorClass",
    "ActorInfo",
    "BatchError",
    "Client",
    "Context",
    "EngineInfo",
    "EventItem",
    "FunctionInfo",
    "Handle",
    "Node",
    "PerdureError",
    "RetryPolicy",
    "RunInfo",
    "RunItem",
    "RunStatus",
    "StartedCall",
    "SyncClient",
    "SyncHandle",
    "Task",
    "TaskInfo",
    "TaskStatus",
    "Update",
    "WorkflowCancellationError",
    "WorkflowExecutionError",
    "actor",
    "context",
    "event",
    "forget_reminder",
    "input",
    "method",
    "readonly",
    "remind",
    "sleep",
    "sleep_until",
    "task",
    "wait",
]
