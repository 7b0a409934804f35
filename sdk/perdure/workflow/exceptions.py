"""The errors of this package, by the names of Ray Workflows.

Each is a subclass of the matching error of `perdure.errors`, so code can catch either. `outcomes.py` raises them.
"""

from __future__ import annotations

from perdure import errors


class WorkflowError(Exception):
    """The base of errors of workflows."""

    @property
    def message(self) -> str:
        """The text of the error."""
        return str(self)


class WorkflowExecutionError(WorkflowError, errors.WorkflowExecutionError):
    """A workflow failed. `__cause__` is the exception of the user's task, with its remote traceback as a note. Where
    Ray is installed, the error is also a ray.exceptions.RayTaskError."""


class WorkflowCancellationError(WorkflowError, errors.WorkflowCancellationError):
    """The workflow was canceled. It is not a WorkflowExecutionError of this module, because a cancellation is not a
    failure. Where Ray is installed, it is also a ray.exceptions.RayTaskError."""


class WorkflowNotResumableError(WorkflowError):
    """The workflow cannot be resumed: it was canceled, or does not exist."""


class WorkflowTaskNotRecoverableError(WorkflowNotResumableError):
    """A task's output is gone and cannot be made again."""


class WorkflowNotFoundError(WorkflowNotResumableError, errors.WorkflowNotFoundError, ValueError):
    """There is no workflow of this id. It is also a ValueError, which Ray raised for some calls."""


class WorkflowStillActiveError(WorkflowError, errors.WorkflowStillActiveError):
    """The call needs a workflow that has ended, and this one has not."""


WorkflowRunningError = WorkflowStillActiveError
"""Its name in Ray 2.0."""
