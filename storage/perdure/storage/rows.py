"""Rows of the metadata store, as values.

Payloads, failures and graphs are bytes here (serialized messages of `perdure.v1`, see `perdure.wire`), which the store
does not decode. All times are milliseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, Final, NamedTuple

from perdure.model import RunStatus, TaskStatus, frozen

GRAPH: Final = "graph"
"""The kind of all runs that were stored before runs had a kind."""
ACTOR: Final = "actor"
"""The kind of virtual actors. They are not listed as workflows, and hold no slots: they live until they are deleted."""
CALL_KEY: Final = ".call"
"""The key of the events that record calls of actors. Keys of users' events do not begin with a dot."""
IDLE_TASK: Final = ".idle"
"""The task of an actor whose timer ends the time for which it may be idle."""


@frozen(slots=False)
class RunRow:
    """A run. `change` is the number of the commit that touched the row last.

    The newest run of a workflow id is its *current* one; older ones stay readable by `run_id`. `is_dormant`: only time
    or an event moves it on, so recovery need not load it. `owner` is the engine that works on it, or did last.
    `kind` names the machine of the engine that decides what the run does next; it never changes.
    `code_version` is the package of modules that replaces those of its graphs, "" for none.

    `damage` is not a column: it names the damaged value of the row, "" if there is none. A damaged run has FAILED,
    whatever its row says, and its other values are those that can still be read.
    """

    run_id: str
    namespace: str
    workflow_id: str
    status: RunStatus
    spec_key: str
    create_ms: int
    update_ms: int
    name: str = ""
    request_id: str = ""
    request_digest: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: str = ""
    queue: str = "default"
    priority: int = 0
    kind: str = GRAPH
    code_version: str = ""
    created_by: str = ""
    owner: str = ""
    is_dormant: bool = False
    start_ms: int | None = None
    end_ms: int | None = None
    resume_count: int = 0
    output_task: str = ""
    output_wraps: int = 0
    failure: bytes | None = None
    change: int = 0
    damage: str = ""

    def but(self, **changes: Any) -> RunRow:
        """A copy with other values in some fields, like `dataclasses.replace` at a twentieth of the cost."""
        made = object.__new__(RunRow)
        made.__dict__ = values = self.__dict__ | changes
        if len(values) != RUN_FIELDS:
            raise TypeError(f"RunRow has no field {', '.join(changes.keys() - self.__dict__.keys())}")
        return made


RUN_FIELDS: Final = len(fields(RunRow))
RUN_COLUMNS: Final = tuple(field.name for field in fields(RunRow) if field.name != "damage")


@frozen
class TaskRow:
    """The record of a task that ended, failed an attempt, or waits for a time.

    `output` is None if it was not read (`load_run`); `output_bytes` is its size in any case. `output_blob` is the
    SHA-256 of the blob it names, "" if it is inline.
    """

    run_id: str
    task_id: str
    seq: int
    status: TaskStatus
    attempt: int
    failures: int = 0
    output: bytes | None = None
    output_bytes: int = 0
    output_blob: str = ""
    failure: bytes | None = None
    spec_key: str = ""
    wake_ms: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    change: int = 0


@frozen
class EventRow:
    """An event that was sent to a run. `consumed_by` is the task that took it, "" while none has."""

    run_id: str
    sequence: int
    event_id: str
    key: str
    payload: bytes
    arrived_ms: int
    consumed_by: str = ""


@frozen
class Timer:
    """A task of a RUNNING run that waits for a time."""

    run_id: str
    task_id: str
    attempt: int
    wake_ms: int


@frozen
class StoredRun:
    """Everything that recovery needs: tasks without outputs, by `seq`, and events that are not consumed, by `sequence`.

    `last_event` is the highest sequence of all its events, consumed ones included; 0 if there is none. `damage` names
    the damaged value, "" if there is none; tasks and events of a damaged run are left out.
    """

    run: RunRow
    inputs: tuple[str, ...]
    tasks: tuple[TaskRow, ...]
    events: tuple[EventRow, ...]
    last_event: int = 0
    damage: str = ""

    @property
    def change(self) -> int:
        """The last commit that touched the run or one of its tasks."""
        return max(self.run.change, *(task.change for task in self.tasks), 0)


@frozen
class BlobMark:
    """A blob that may be unused, and the commit that marked it last."""

    sha256: str
    change: int
    is_used: bool = False


class ValueKey(NamedTuple):
    """Names a stored value: the output of a task, or an input of the run. A tuple, because caches hash it often."""

    run_id: str
    task_id: str = ""
    input: str = ""


DEAD_KEPT_MS: Final = 24 * 3600 * 1000


@frozen
class EngineRow:
    """A member of a shared store. `name`, `address` and `version` are informative. `started_ms` and `expires_ms` are
    by the clock of the store; `join` ignores the given ones.

    A dead member stays listed for DEAD_KEPT_MS; one that left does not.
    """

    engine_id: str
    name: str = ""
    address: str = ""
    version: str = ""
    started_ms: int = 0
    expires_ms: int = 0
    is_dead: bool = False


@frozen
class MailRow:
    """A letter to the owner of a run. Numbers are unique; those of one run grow."""

    number: int
    run_id: str
    kind: str
    data: bytes


@frozen
class EventName:
    """The identity of an event of a run, without its payload."""

    sequence: int
    key: str
    event_id: str
    arrived_ms: int


@frozen
class FunctionRow:
    """A function that workers have announced. `info` is a serialized FunctionInfo."""

    name: str
    version: str
    info: bytes
    announce_ms: int


@frozen
class Tombstone:
    """The answer to a request that is repeated after its run was deleted. `key` names the request."""

    key: str
    data: bytes
    expires_ms: int
