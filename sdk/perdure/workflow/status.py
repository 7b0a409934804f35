"""The states of a workflow under the names that programs of Ray Workflows use."""

from __future__ import annotations

from typing import Final

from perdure.model import RunStatus

WorkflowStatus = RunStatus

PENDING: Final = RunStatus.PENDING
RUNNING: Final = RunStatus.RUNNING
RESUMABLE: Final = RunStatus.RESUMABLE
SUCCESSFUL: Final = RunStatus.SUCCESSFUL
FAILED: Final = RunStatus.FAILED
CANCELED: Final = RunStatus.CANCELED
