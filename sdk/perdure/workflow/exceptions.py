"""The errors of this package, by the names of Ray Workflows.

Each is also the error of `perdure.errors` that says the same, so code that knows either catches it.
Knows nothing of how they come about: that is `outcomes.py`.
"""

from __future__ import annotations

from perdure import errors


class WorkflowError(Exception):
    """The base of what goes wrong with workflows."""

    @property
    def message(self) -> str:
        """What it says."""
        return str(self)


class WorkflowExecutionError(WorkflowError, errors.WorkflowExecutionError):
    """A workflow failed. `__cause__` is the exception of the user's task, with its remote traceback as a note.
    Where Ray is installed it is a ray.exceptions.RayTaskError too."""


class WorkflowCancellationError(WorkflowError, errors.WorkflowCancellationError):
    """The workflow was canceled. That is no WorkflowExecutionError of this module: who handles failures does not
    handle what somebody wanted. Where Ray is installed it is a ray.exceptions.RayTaskError too."""


class WorkflowNotResumableError(WorkflowError):
    """The workflow is in a state that it cannot go on from: it was canceled, or does not exist."""


class WorkflowTaskNotRecoverableError(WorkflowNotResumableError):
    """A task's output is gone and cannot be made again."""


class WorkflowNotFoundError(WorkflowNotResumableError, errors.WorkflowNotFoundError, ValueError):
    """There is no workflow of this id. A ValueError, too, as Ray raised for some calls."""


class WorkflowStillActiveError(WorkflowError, errors.WorkflowStillActiveError):
    """The workflow has not ended, and what was asked for needs that it has."""


WorkflowRunningError = WorkflowStillActiveError
"""Its name in Ray 2.0."""
