"""Reads outputs, states and metadata of workflows; cancels and deletes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from perdure import texts
from perdure.infos import RunInfo
from perdure.model import RunStatus
from perdure.v1 import workflow_pb2
from perdure.workflow.connection import connect
from perdure.workflow.running import Started, check_id


def get_output(workflow_id: str, *, task_id: str | None = None, name: str | None = None) -> Any:
    """The value of a workflow or of one of its tasks. Waits for it, also for a task that does not exist yet.

    `name` is an alias of `task_id`, as in Ray 2.0. Raises the error of a run that failed, WorkflowNotFoundError,
    and ValueError if the run ends without such a task or the task's value is not stored.
    """
    return _output(workflow_id, _task(task_id, name)).wait()


def get_output_async(workflow_id: str, *, task_id: str | None = None, name: str | None = None) -> Any:
    """Like `get_output`, but returns a ray.ObjectRef of the value at once."""
    return _output(workflow_id, _task(task_id, name)).ref()


def _task(task_id: object, name: object) -> str:
    """The id of a task, "" if none is meant."""
    if task_id is not None and name is not None:
        raise TypeError("name is another word for task_id; give one of them")
    given = name if task_id is None else task_id
    if given is None:
        return ""
    if not isinstance(given, str):
        raise TypeError(f"a task id is a string, not {texts.kind_of(given)}")
    if not given:
        raise ValueError("a task id has at least one character")
    return given


def _output(workflow_id: str, task_id: str) -> Started:
    connection = connect()
    handle = connection.client.handle(check_id(workflow_id))
    # Asked now, so that this call raises the error of an unknown id, and the output is that of the current run.
    return Started(connection, workflow_id, connection.ask(handle.status()).run_id, task_id)


def get_status(workflow_id: str) -> RunStatus:
    """The state of a workflow. Raises WorkflowNotFoundError."""
    return _status(workflow_id).status


def _status(workflow_id: str) -> RunInfo:
    connection = connect()
    return connection.ask(connection.client.handle(check_id(workflow_id)).status())


def list_all(*filters: Any, status_filter: Any = None, filter: Any = None) -> list[tuple[str, RunStatus]]:
    """(workflow id, state) of all workflows, newest first, or of those in certain states. States or their names are
    given one by one, or as lists or sets; an empty one matches nothing. ValueError for an unknown name, TypeError for
    a wrong type."""
    given = [states for states in (*filters, status_filter, filter) if states is not None]
    statuses = _statuses(given)
    if given and not statuses:
        return []
    connection = connect()

    async def listing() -> list[tuple[str, RunStatus]]:
        condition = " OR ".join(f"status = {status}" for status in sorted(statuses))
        runs = connection.client.list(condition, page_size=1000)
        return [(known.workflow_id, known.status) async for known in runs]

    return connection.ask(listing())


def _statuses(given: Iterable[Any]) -> set[RunStatus]:
    found: set[RunStatus] = set()
    for item in given:
        if isinstance(item, str):
            if item not in RunStatus.__members__:
                raise ValueError(f"{item!r:.80} is no state of a workflow; there are {', '.join(RunStatus)}")
            found.add(RunStatus(item))
        elif isinstance(item, (list, tuple, set, frozenset)):
            found |= _statuses(item)
        else:
            raise TypeError(
                f"states are given as WorkflowStatus, strings or sets of them, not as {type(item).__name__}"
            )
    return found


def cancel(workflow_id: str) -> None:
    """Cancel a workflow: running tasks are stopped, no further task starts, and calls that wait for its output raise
    WorkflowCancellationError. A workflow that has ended does not change. Raises WorkflowNotFoundError."""
    connection = connect()
    connection.ask(connection.client.cancel(check_id(workflow_id)))


def delete(workflow_id: str) -> None:
    """Delete a workflow and its stored data; its id may be used again. Raises WorkflowStillActiveError if it has not
    ended, WorkflowNotFoundError."""
    connection = connect()
    connection.ask(connection.client.delete(check_id(workflow_id)))


# ------------------------------------------------------------------------------ metadata


def get_metadata(workflow_id: str, task_id: str | None = None, *, name: str | None = None) -> dict[str, Any]:
    """The metadata of a workflow or of one of its tasks, as a dictionary. Times are seconds since the epoch.

    A workflow has: status, user_metadata, stats (start_time, and end_time once it has ended), and tasks (the numbers
    total, running, successful, failed). A task has: task_id, name, status, task_options, user_metadata, workflow_refs
    (ids of the tasks whose values it got), stats and attempts. `name` is an alias of `task_id`, as in Ray 2.0, and
    `step_options` one of `task_options`, as in Ray 1. Raises
    WorkflowNotFoundError, and ValueError for an unknown task.
    """
    task_id = _task(task_id, name)
    connection = connect()
    handle = connection.client.handle(check_id(workflow_id))
    metadata = connection.ask(handle.metadata(task_id or None))
    told: dict[str, Any] = {
        "status": metadata.status,
        "user_metadata": _plain(metadata.user_metadata),
        "stats": _stats(metadata.stats),
    }
    if not task_id:
        known = connection.ask(handle.status())
        told["tasks"] = {
            "total": known.tasks,
            "running": known.tasks_running,
            "successful": known.tasks_successful,
            "failed": known.tasks_failed,
        }
        return told
    options = _plain(metadata.task_options)
    return {
        "task_id": task_id,
        "name": metadata.name,
        **told,
        "task_options": options,
        "step_options": options,
        "workflow_refs": list(metadata.upstream_task_ids),
        "attempts": metadata.stats.attempts,
    }


def _stats(stats: workflow_pb2.Stats) -> dict[str, float]:
    times = {"start_time": stats.start_time, "end_time": stats.end_time}
    return {name: stamp.ToNanoseconds() / 1e9 for name, stamp in times.items() if stats.HasField(name)}


def _plain(message: Message) -> dict[str, Any]:
    return {name: _whole(value) for name, value in MessageToDict(message).items()}


def _whole(value: Any) -> Any:
    """Messages have floats only; whole numbers were integers before."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case Mapping():
            return {name: _whole(item) for name, item in value.items()}
        case list():
            return [_whole(item) for item in value]
        case _:
            return value
