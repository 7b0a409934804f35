"""Converts outcomes of runs, and errors of the engine, into the values and errors of this package.

Where Ray is installed, the error of a failed run is also Ray's RayTaskError. Outcomes travel between processes as
stored bytes and are decoded where they arrive, so processes in between need no user code.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import Any

from perdure import errors, failures, rayobjects
from perdure.model import Failure, FailureKind
from perdure.workflow import exceptions


def failed(workflow_id: str, failure: Failure) -> errors.WorkflowExecutionError:
    """The error of a run that failed or was canceled, with its cause."""
    canceled = failure.kind is FailureKind.CANCELED
    error = _failure_class(canceled)(workflow_id, failure)
    if not canceled:
        error.__cause__ = failures.to_exception(failure)
    return error


@functools.cache
def _failure_class(canceled: bool) -> type[errors.WorkflowExecutionError]:
    plain: type[errors.WorkflowExecutionError]
    plain = exceptions.WorkflowCancellationError if canceled else exceptions.WorkflowExecutionError
    if find_spec("ray") is None:
        return plain
    from ray.exceptions import RayTaskError

    bases: tuple[Any, ...] = (_AsRayTaskError, plain, RayTaskError)
    both: type[errors.WorkflowExecutionError] = type(f"RayTaskError({plain.__name__})", bases, {"plain": plain})
    return both


class _AsRayTaskError:
    """The mixin that makes an error also one of Ray's."""

    plain: type[errors.WorkflowExecutionError]
    __cause__: BaseException | None

    def __init__(self, workflow_id: str, failure: Failure) -> None:
        alone = self.plain(workflow_id, failure)  # RayTaskError cannot be initialised in a row of classes
        self.args = alone.args
        self.__dict__.update(alone.__dict__)
        self.workflow_id, self.failure = workflow_id, failure
        self.function_name = failure.task_id or workflow_id
        self.traceback_str = failure.stack_trace or f"{failure.type}: {failure.message}"

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return failed, (self.workflow_id, self.failure)

    @property
    def cause(self) -> Any:
        """Ray's word for `__cause__`."""
        return self.__cause__ or self

    def as_instanceof_cause(self) -> Any:
        """The error that Ray raises for this one: itself."""
        return self


# ------------------------------------------------------------------------------ what was refused


def refused(error: errors.PerdureError) -> BaseException:
    """The error that programs of Ray Workflows expect, with the texts that they may look for."""
    match error:
        case errors.WorkflowNotFoundError():
            return _like(exceptions.WorkflowNotFoundError, error)
        case errors.WorkflowStillActiveError():
            return _like(exceptions.WorkflowStillActiveError, error)
        case errors.QueueFullError():
            return _like(errors.QueueFullError, error, f"Workflow queue has been full: {error.message}")
        case errors.TaskNotFoundError() | errors.OutputNotStoredError():
            return ValueError(error.message)
        case _:
            return error


def _like(kind: type[errors.PerdureError], error: errors.PerdureError, message: str = "") -> errors.PerdureError:
    made = kind(message or error.message)
    made.fields = error.fields
    return made


# ------------------------------------------------------------------------------ travelling


class FailedRun:
    """The error of a run in transit. It unpickles to the error."""

    def __init__(self, workflow_id: str, failure: Failure) -> None:
        self._of = (workflow_id, failure)

    def __reduce__(self) -> tuple[Any, ...]:
        return failed, self._of


Carried = rayobjects.contents
"""A value in transit: pickled as stored bytes, unpickled to the value."""
