"""Starts and resumes workflows."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from perdure import errors, raydag, rayobjects, texts
from perdure.conversion import to_spec
from perdure.graph import is_node
from perdure.handle import Handle
from perdure.infos import RunInfo
from perdure.model import Failure, RunStatus
from perdure.workflow import exceptions, fingerprint, gateway, host, outcomes
from perdure.workflow.connection import Connection, connect, in_main_thread_of_a_worker
from perdure.workflow.engines import start_ray

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """A run, or one of its tasks, whose output can be waited for."""

    connection: Connection
    workflow_id: str
    run_id: str = ""
    task_id: str = ""

    def wait(self) -> Any:
        """The value. Raises the run's error."""
        if in_main_thread_of_a_worker():
            import ray

            # Frees the worker's CPU while it waits, because the run may need it.
            return ray.get(self.ref())
        return self.connection.ask(self._wait())

    async def _wait(self) -> Any:
        handle = self.connection.client.handle(self.workflow_id, self.run_id)
        outcome = await handle.outcome(self.task_id or None)
        if isinstance(outcome, Failure):
            raise outcomes.failed(self.workflow_id, outcome)
        return await handle.value_of(outcome)

    def ref(self) -> Any:
        """A ray.ObjectRef of the value."""
        start_ray()
        connection = self.connection
        return gateway.output_ref(connection.address, connection.namespace, self.workflow_id, self.run_id, self.task_id)


# ------------------------------------------------------------------------------ run


def run(
    dag: T, *args: Any, workflow_id: str | None = None, metadata: Mapping[str, Any] | None = None, **kwargs: Any
) -> T:
    """Run a graph as a workflow and return its value. `args` and `kwargs` are its inputs.

    If the id was used before, the graph must be the same. Then a finished run returns its value, a failed or stopped
    run is resumed, and finished tasks do not run again. Raises RuntimeError if it is running, queue.Full if the queue
    is full, WorkflowExecutionError with the task's own exception as `__cause__` if it fails, WorkflowCancellationError
    if it is canceled, TypeError or ValueError for invalid arguments.
    """
    value: T = _start(dag, args, kwargs, workflow_id, metadata).wait()
    return value


def run_async(
    dag: Any, *args: Any, workflow_id: str | None = None, metadata: Mapping[str, Any] | None = None, **kwargs: Any
) -> Any:
    """Like `run`, but returns a ray.ObjectRef of the value as soon as the workflow is recorded."""
    return _start(dag, args, kwargs, workflow_id, metadata).ref()


def create(dag: T) -> Workflow[T]:
    """The graph with methods to run it."""
    _check_graph(dag)
    return Workflow(dag)


class Workflow(Generic[T]):
    """A graph that can be run."""

    def __init__(self, dag: T) -> None:
        self._dag = dag

    def run(
        self, *args: Any, workflow_id: str | None = None, metadata: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> T:
        """See `workflow.run`."""
        return run(self._dag, *args, workflow_id=workflow_id, metadata=metadata, **kwargs)

    def run_async(
        self, *args: Any, workflow_id: str | None = None, metadata: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """See `workflow.run_async`."""
        return run_async(self._dag, *args, workflow_id=workflow_id, metadata=metadata, **kwargs)


def _start(
    dag: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], workflow_id: str | None, metadata: Any
) -> Started:
    _check_graph(dag)
    named = check_id(workflow_id) if workflow_id is not None else None
    _check_metadata(metadata)
    with rayobjects.as_ray_raises():
        spec = to_spec(dag, rayobjects.LaterObjects(_objects))
    inputs = {str(position): value for position, value in enumerate(args)} | dict(kwargs)
    if len(inputs) == len(args) == 1:
        inputs[raydag.WHOLE_INPUT] = args[0]
    if missing := sorted(spec.inputs() - inputs.keys()):
        raise ValueError(f"the graph uses inputs that were not given: {', '.join(map(_input_name, missing))}")
    if unknown := kwargs.keys() - spec.inputs():
        raise TypeError(f"{sorted(unknown)[0]!r} is neither an option of a run nor an input that the graph uses")
    inputs = {name: inputs[name] for name in spec.inputs()}
    mark = fingerprint.of(spec, inputs) if named else ""
    connection = connect()
    starting = connection.client.start(
        spec,
        workflow_id=named,
        inputs=inputs,
        metadata=metadata,
        labels={fingerprint.LABEL: mark} if mark else None,
    )
    try:
        handle: Handle = connection.ask(starting)
    except errors.WorkflowAlreadyExistsError:
        assert named is not None  # an id that is made here is new
        return _attach(connection, named, mark)
    log.info('Workflow job created. [id="%s"].', handle.workflow_id)
    return Started(connection, handle.workflow_id, handle.run_id)


def _objects() -> rayobjects.RayObjects:
    connection = connect()
    return connection.ask(connection.client.objects())


def _attach(connection: Connection, workflow_id: str, mark: str) -> Started:
    """Attach to the run that has the id. ValueError if it has another graph."""
    known = connection.ask(connection.client.handle(workflow_id).status())
    if known.status in (RunStatus.RUNNING, RunStatus.PENDING) and not _was_taken_over(connection, known):
        raise _active(workflow_id)
    if known.labels.get(fingerprint.LABEL, mark) != mark:
        raise ValueError(
            f"workflow id {workflow_id!r} belongs to another graph, or to this one with other arguments: get_output, "
            "resume and delete are for that one, a new one needs another id"
        )
    return _resume(connection, workflow_id)


def _check_graph(dag: object) -> None:
    if not is_node(dag):
        raise TypeError(f"a workflow is a graph, made by .bind(), not {texts.kind_of(dag)}")


def check_id(workflow_id: object) -> str:
    """The workflow id. TypeError or ValueError if it is invalid."""
    if not isinstance(workflow_id, str):
        raise TypeError(f"a workflow id is a string, not {texts.kind_of(workflow_id)}")
    return texts.name(workflow_id, "workflow_id")


def _check_metadata(metadata: object) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, Mapping):
        raise ValueError(f"metadata is a dictionary, not {texts.kind_of(metadata)}")
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be JSON: {error}") from error
    texts.json_text(text, "metadata")


def _input_name(name: str) -> str:
    if name == raydag.WHOLE_INPUT:
        return "one positional argument and nothing else, for an InputNode that is used as a whole"
    return f"the positional argument {name}" if name.isdigit() else name


# ------------------------------------------------------------------------------ resume


def resume(workflow_id: str) -> Any:
    """Resume a workflow that failed or stopped, and return its value. The value of a successful workflow is returned
    at once.

    Raises RuntimeError if it is running, WorkflowNotFoundError, WorkflowNotResumableError if it was canceled, and the
    errors of `run`.
    """
    return _resume(connect(), check_id(workflow_id)).wait()


def resume_async(workflow_id: str) -> Any:
    """Like `resume`, but returns a ray.ObjectRef of the value."""
    return _resume(connect(), check_id(workflow_id)).ref()


def resume_all(include_failed: bool = False) -> list[tuple[str, Any]]:
    """Resume all workflows that stopped with their engine or cluster, and with `include_failed` also failed ones.

    Returns (workflow id, ray.ObjectRef of its value) for each, running ones first, then pending ones. Workflows that
    the engine has resumed by itself are included. A workflow that cannot be resumed is logged and left out.
    """
    connection = connect()
    statuses = ["RESUMABLE", "RUNNING", "PENDING", *(["FAILED"] if include_failed else [])]
    condition = " OR ".join(f"status = {status}" for status in statuses)

    async def listing() -> list[RunInfo]:
        return [known async for known in connection.client.list(condition, order_by="create_time asc", page_size=1000)]

    found = [
        known
        for known in connection.ask(listing())
        if known.status not in (RunStatus.RUNNING, RunStatus.PENDING) or _was_taken_over(connection, known)
    ]
    found.sort(key=lambda known: known.started is None)
    resumed = []
    for known in found:
        try:
            resumed.append((known.workflow_id, _resume(connection, known.workflow_id).ref()))
        except (exceptions.WorkflowError, errors.PerdureError, RuntimeError) as error:
            log.warning("workflow %r cannot be resumed: %s", known.workflow_id, error)
    return resumed


def _resume(connection: Connection, workflow_id: str) -> Started:
    try:
        resumed = connection.ask(connection.client.resume(workflow_id))
    except errors.WorkflowAlreadyFinalError as error:
        if error.fields.get("status") != RunStatus.SUCCESSFUL:
            raise exceptions.WorkflowNotResumableError(
                f"workflow {workflow_id!r} was canceled and does not go on; delete it to use its id again"
            ) from None
        return Started(connection, workflow_id)
    if not resumed:
        known = connection.ask(connection.client.handle(workflow_id).status())
        if known.status in (RunStatus.RUNNING, RunStatus.PENDING) and not _was_taken_over(connection, known):
            raise _active(workflow_id)
    return Started(connection, workflow_id)


def _was_taken_over(connection: Connection, known: RunInfo) -> bool:
    """Whether the engine found the run unfinished when it started. That is known for a cluster's own engine only."""
    since = host.serving_since(connection.address)
    return since is not None and known.created is not None and known.created.timestamp() < since


def _active(workflow_id: str) -> RuntimeError:
    return RuntimeError(f"workflow {workflow_id!r} is already running or pending")
