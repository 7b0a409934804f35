"""The interface for programs of Ray 2.0 to 2.47: names, signatures, and errors with their base classes."""

from __future__ import annotations

import inspect
import pickle
import queue
from typing import Any

import pytest
from ray.exceptions import RayTaskError

import perdure
from perdure import workflow
from perdure.model import Failure, FailureKind
from perdure.workflow import event_listener, exceptions, outcomes

CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("init", (), {}),
    ("init", (), {"max_running_workflows": 1, "max_pending_workflows": -1}),
    ("run", ("dag", 1, 2), {"workflow_id": "id", "metadata": {}, "an_input": 1}),
    ("run_async", ("dag", 1, 2), {"workflow_id": "id", "metadata": {}, "an_input": 1}),
    ("run", (), {"dag": "dag"}),
    ("resume", (), {"workflow_id": "id"}),
    ("resume_async", (), {"workflow_id": "id"}),
    ("resume_all", (), {"include_failed": True}),
    ("resume_all", (True,), {}),
    ("list_all", (), {}),
    ("list_all", ({"RUNNING"},), {}),
    ("list_all", (), {"status_filter": "RUNNING"}),
    ("get_output", ("id",), {"task_id": "task"}),
    ("get_output", (), {"workflow_id": "id", "name": "task"}),
    ("get_output_async", ("id",), {"task_id": "task"}),
    ("get_output_async", ("id",), {"name": "task"}),
    ("get_status", (), {"workflow_id": "id"}),
    ("get_metadata", ("id", "task"), {}),
    ("get_metadata", (), {"workflow_id": "id", "task_id": "task"}),
    ("get_metadata", ("id",), {"name": "task"}),
    ("cancel", (), {"workflow_id": "id"}),
    ("delete", (), {"workflow_id": "id"}),
    ("sleep", (), {"duration": 1}),
    ("wait_for_event", ("listener", 1), {"two": 2}),
    ("wait_for_event", (), {"event_listener_type": "listener"}),
    ("continuation", (), {"dag_node": "dag"}),
    ("options", (), {"task_id": "id", "metadata": {}, "catch_exceptions": True, "checkpoint": False}),
    ("options", (), {"name": "id"}),
    ("wait", (["dag"],), {"num_returns": 1, "timeout": None}),
    ("create", ("dag",), {}),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), CALLS)
def test_it_is_called_as_it_was(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    inspect.signature(getattr(workflow, name)).bind(*args, **kwargs)


@pytest.mark.parametrize(
    ("name", "bases"),
    [
        ("WorkflowError", (Exception,)),
        ("WorkflowExecutionError", (exceptions.WorkflowError, perdure.WorkflowExecutionError)),
        ("WorkflowCancellationError", (exceptions.WorkflowError, perdure.WorkflowCancellationError)),
        ("WorkflowNotResumableError", (exceptions.WorkflowError,)),
        ("WorkflowTaskNotRecoverableError", (exceptions.WorkflowNotResumableError,)),
        ("WorkflowNotFoundError", (exceptions.WorkflowNotResumableError, perdure.errors.WorkflowNotFoundError)),
        ("WorkflowStillActiveError", (exceptions.WorkflowError, perdure.errors.WorkflowStillActiveError)),
        ("WorkflowRunningError", (exceptions.WorkflowStillActiveError,)),
    ],
)
def test_errors_derive_from_what_they_did_and_from_ours(name: str, bases: tuple[type, ...]) -> None:
    kind = getattr(exceptions, name)
    assert all(issubclass(kind, base) for base in bases)
    assert issubclass(perdure.errors.QueueFullError, queue.Full)


@pytest.mark.parametrize("kind", [FailureKind.APPLICATION, FailureKind.CANCELED])
def test_the_end_of_a_run_is_told_by_one_of_two_errors(kind: FailureKind) -> None:
    error = outcomes.failed("order-1", Failure(kind, "builtins.ValueError", "bad"))
    is_canceled = kind is FailureKind.CANCELED
    for told in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(told, RayTaskError)
        assert isinstance(told, exceptions.WorkflowError)
        assert isinstance(told, exceptions.WorkflowCancellationError) is is_canceled
        assert isinstance(told, exceptions.WorkflowExecutionError) is not is_canceled
        words = "was canceled: bad" if is_canceled else "failed: builtins.ValueError: bad"
        assert told.message == str(told) == f"workflow 'order-1' {words}"


def test_types_and_names_are_where_they_were() -> None:
    listener: event_listener.EventListenerType = event_listener.TimerListener
    assert isinstance(listener(), workflow.EventListener)
    for name in ("WorkflowError", "WorkflowExecutionError", "WorkflowCancellationError"):
        assert getattr(workflow, name) is getattr(exceptions, name)
    for status in ("RUNNING", "CANCELED", "SUCCESSFUL", "FAILED", "RESUMABLE", "PENDING"):
        assert getattr(workflow, status) is workflow.WorkflowStatus(status) == status
