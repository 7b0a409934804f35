"""The transitions between the states of a task, each with its cause.

`Run` makes no other transitions; all tests run with a check of that. Restoring a task is not a transition: it puts the
task straight into its recorded state. The diagram in ARCHITECTURE.md is generated from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from perdure.model import TaskStatus

TRANSITIONS: Final[Mapping[tuple[TaskStatus, TaskStatus], str]] = {
    (TaskStatus.BLOCKED, TaskStatus.READY): "the needs of a call are done",
    (TaskStatus.BLOCKED, TaskStatus.RUNNING): "the needs of a sleep, an event or a wait are done",
    (TaskStatus.BLOCKED, TaskStatus.SUCCESSFUL): "what it waits for is there already",
    (TaskStatus.READY, TaskStatus.RUNNING): "the attempt begins",
    (TaskStatus.READY, TaskStatus.BACKING_OFF): "the attempt is lost before it begins",
    (TaskStatus.READY, TaskStatus.FAILED): "the last attempt fails before it begins",
    (TaskStatus.READY, TaskStatus.CANCELED): "the run or the graph around it ends",
    (TaskStatus.RUNNING, TaskStatus.BACKING_OFF): "an attempt fails, and another one is left",
    (TaskStatus.RUNNING, TaskStatus.SUCCESSFUL): "it has a value, or returns a graph",
    (TaskStatus.RUNNING, TaskStatus.FAILED): "the last attempt fails, or the event does not come in time",
    (TaskStatus.RUNNING, TaskStatus.CANCELED): "the run or the graph around it ends",
    (TaskStatus.BACKING_OFF, TaskStatus.READY): "its time comes",
    (TaskStatus.BACKING_OFF, TaskStatus.CANCELED): "the run or the graph around it ends",
    (TaskStatus.FAILED, TaskStatus.SUCCESSFUL): "it catches its own failure",
    (TaskStatus.FAILED, TaskStatus.BLOCKED): "the run is resumed",
    (TaskStatus.CANCELED, TaskStatus.BLOCKED): "the run is resumed",
    (TaskStatus.SUCCESSFUL, TaskStatus.BLOCKED): "its value was not recorded and is needed after a restart",
}


def mermaid() -> str:
    """The table as a state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> BLOCKED"]
    lines += [f"    {before} --> {after}: {cause}" for (before, after), cause in TRANSITIONS.items()]
    lines += [f"    {end} --> [*]" for end in (TaskStatus.SUCCESSFUL, TaskStatus.FAILED, TaskStatus.CANCELED)]
    return "\n".join(lines)
