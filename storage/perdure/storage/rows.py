"""What the metadata store keeps, as values.

Payloads, failures and graphs are bytes here (serialized messages of `perdure.v1`, see
`perdure.wire`): the store never looks into them. All moments are milliseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, Final, TypeAlias

from perdure.model import RunStatus, TaskStatus, frozen

# ------------------------------------------------------------------------------ rows


@frozen(slots=False)
class RunRow:
    """A run. `change` is the number of the commit that touched the row last.

    The newest run of a workflow id is its *current* one; older ones stay readable by `run_id`.
    `is_dormant`: only time or an event moves it on, so recovery need not load it. `owner` is the engine
    that works on it, or did last. `code_version` is the package of modules that stands in for the one of its
    graphs, "" for none.

    `damage` is no column: it names what of the row is not as it was written, "" if all of it is. Such a run
    has FAILED, whatever the store says, and its other values are those that can still be read.
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
        """A copy with other values in some fields: what `dataclasses.replace` gives, at a tenth of its price."""
        made = object.__new__(RunRow)
        made.__dict__.update(self.__dict__, **changes)
        return made


RUN_COLUMNS: Final = tuple(field.name for field in fields(RunRow) if field.name != "damage")


@frozen
class TaskRow:
    """What is known of a task that ended, failed an attempt, or waits for a moment.

    `output` is None where it was not asked for (`load`); `output_bytes` is its size all the same.
    `output_blob` is the SHA-256 of the blob it names, "" if it is inline.
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
    """A task of a RUNNING run that waits for a moment."""

    run_id: str
    task_id: str
    attempt: int
    wake_ms: int


@frozen
class StoredRun:
    """All that recovery needs: tasks by `seq` and without outputs, events not consumed by `sequence`.

    `last_event` is the highest sequence of all its events, consumed ones included; 0 if there is none.
    `damage` names what of it is not as it was written, "" if all of it is; tasks and events are left out then.
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
    """A blob that perhaps nobody uses, and the commit that marked it last."""

    sha256: str
    change: int
    is_used: bool = False


@frozen
class ValueKey:
    """Names a stored value: the output of a task, or an input of the run."""

    run_id: str
    task_id: str = ""
    input: str = ""


@frozen
class EngineRow:
    """A member of a shared store. `name`, `address` and `version` are for people. `started_ms` and
    `expires_ms` are by the clock of the store; what `join` is given for them does not count.

    A dead one is kept for a day, for people; one that left is not.
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
    """Something for the owner of a run. Numbers are unique; those of one run grow."""

    number: int
    run_id: str
    kind: str
    data: bytes


# ------------------------------------------------------------------------------ writes


@frozen
class AddRun:
    """Insert a run with its graph and inputs.

    Refused, with the whole entry it stands in, if another run has its `request_id`, or if the
    current run of its workflow id is not `replaces` ("": there is none) or is not final. Adding the same
    `run_id` again is accepted and changes nothing. `request_id` "" is no id.
    """

    row: RunRow
    spec: bytes
    inputs: Mapping[str, bytes] = field(default_factory=dict)
    replaces: str = ""


@frozen
class SetRun:
    """Change the state of a run. `resumed` adds one to `resume_count`; `end_ms` is set by a final state and
    cleared by any other; `start_ms` is set by RUNNING if it was not set; an `owner` that is not "" takes
    the run over, and a `code` that is not "" becomes its `code_version`.

    With `expects` the whole entry is refused unless the run has that state, and unless it is
    the current run of its workflow id or stays final: one that was replaced never goes on. With
    `expects_change`, too, it is refused unless that commit touched the row last: a run that has been at work
    and failed again has the same state, and yet is not what it was.

    A run that has the state and moment of this write already was changed by it before (the commit is
    repeated): that is accepted whatever it `expects`, and `resumed` adds nothing.
    """

    run_id: str
    status: RunStatus
    at_ms: int
    output_task: str = ""
    output_wraps: int = 0
    failure: bytes | None = None
    resumed: bool = False
    expects: RunStatus | None = None
    owner: str = ""
    expects_change: int = 0
    code: str = ""

    @classmethod
    def unchanged(cls, row: RunRow) -> SetRun:
        """Changes nothing, but is refused with its entry unless the run is still as the row says."""
        return cls(
            row.run_id,
            row.status,
            row.update_ms,
            row.output_task,
            row.output_wraps,
            row.failure,
            expects=row.status,
            expects_change=row.change,
        )

    @classmethod
    def of(
        cls,
        row: RunRow,
        status: RunStatus,
        at_ms: int,
        *,
        failure: bytes | None = None,
        owner: str = "",
        code: str = "",
    ) -> SetRun:
        """Moves a run that is still as the row says to another state; from one in which it had ended, it is resumed."""
        return cls(
            row.run_id,
            status,
            at_ms,
            failure=failure,
            resumed=row.status is not RunStatus.PENDING and not status.is_final,
            expects=row.status,
            owner=owner,
            expects_change=row.change,
            code=code,
        )

    def fits(self, row: RunRow | None, *, is_current: bool) -> bool:
        """Whether the run is what the write expects."""
        if self.expects is None:
            return True
        if row is None or not (is_current or self.status.is_final):
            return False
        is_same = row.status is self.expects and self.expects_change in (0, row.change)
        return is_same or self.was_applied_to(row)

    def was_applied_to(self, row: RunRow) -> bool:
        """Whether the row is as this write left it."""
        is_mine = not self.owner or row.owner == self.owner
        return row.status is self.status and row.update_ms == self.at_ms and is_mine

    def applied_to(self, row: RunRow, change: int) -> RunRow:
        """The row after this write in that commit."""
        started = self.status is RunStatus.RUNNING and row.start_ms is None
        return row.but(
            status=self.status,
            update_ms=self.at_ms,
            start_ms=self.at_ms if started else row.start_ms,
            end_ms=self.at_ms if self.status.is_final else None,
            output_task=self.output_task,
            output_wraps=self.output_wraps,
            failure=self.failure,
            resume_count=row.resume_count + int(self.resumed and not self.was_applied_to(row)),
            owner=self.owner or row.owner,
            code_version=self.code or row.code_version,
            change=change,
        )


@frozen
class SetDormant:
    """Change `is_dormant`; nothing else, `change` included."""

    run_id: str
    is_dormant: bool


@frozen
class PutTask:
    """Insert a task, or replace what is known of it. `row.change` does not count."""

    row: TaskRow


@frozen
class PutSpec:
    """Store a graph under its key, if it is not there."""

    key: str
    data: bytes


@frozen
class AddEvent:
    """Insert an event; its number follows all that the run has. One with the same `event_id` and `key` for
    the same run is a duplicate and changes nothing."""

    run_id: str
    event_id: str
    key: str
    payload: bytes
    arrived_ms: int


@frozen
class ConsumeEvent:
    """Note that a task took an event."""

    run_id: str
    sequence: int
    task_id: str


@frozen
class UseBlobs:
    """Note that a run uses blobs, in the entry that mentions them. If there is no such run, mark them."""

    run_id: str
    blobs: tuple[str, ...]


@frozen
class MarkBlobs:
    """Mark blobs that perhaps nobody uses. One that is marked already is marked anew."""

    blobs: tuple[str, ...]


@frozen
class Unmark:
    """Remove marks, but for those of blobs that were marked anew since `change`."""

    marks: tuple[BlobMark, ...]


@frozen
class DeleteRun:
    """Remove a run with everything that is its own, and mark the blobs that it used. Removing one that
    is not there changes nothing."""

    run_id: str


@frozen
class SetAsideRuns:
    """Mark every RUNNING and PENDING run of every namespace RESUMABLE, but for those of other members
    that live."""

    at_ms: int


@frozen
class Limit:
    """Refuse the whole entry if so many runs of the namespace have that state already: those that earlier
    entries of the commit changed count, those that this entry adds or sets do not. Whoever else commits
    a Limit for the namespace waits meanwhile, so it holds over all members. An entry that adds a run which is
    there, or sets one that is as set already, was accepted before (the commit is repeated), and is again."""

    namespace: str
    status: RunStatus
    most: int


@frozen
class Mail:
    """Leave something for the owner of a run, whoever that is when it is read. To a run that is not there
    it is lost. A commit that is repeated may leave it twice."""

    run_id: str
    kind: str
    data: bytes = b""


@frozen
class DropMail:
    """Remove mail. Removing what is not there changes nothing."""

    numbers: tuple[int, ...]


Write: TypeAlias = (
    AddRun
    | SetRun
    | SetAsideRuns
    | SetDormant
    | PutTask
    | PutSpec
    | AddEvent
    | ConsumeEvent
    | UseBlobs
    | MarkBlobs
    | Unmark
    | DeleteRun
    | Limit
    | Mail
    | DropMail
)


@frozen
class EntryResult:
    """What became of one entry. `sequence` and `is_duplicate` speak of its AddEvent, if it has one."""

    is_refused: bool = False
    sequence: int = 0
    is_duplicate: bool = False


@frozen
class Committed:
    """The number of a commit, and what became of each of its entries."""

    change: int
    results: tuple[EntryResult, ...]


# ------------------------------------------------------------------------------ queries


@frozen
class Comparison:
    """`field` is a column of RunRow or "labels.KEY"; `operator` one of = != < <= > >= and ":" (has the prefix)."""

    field: str
    operator: str
    value: str | int


@frozen
class AllOf:
    parts: tuple[Condition, ...]


@frozen
class AnyOf:
    parts: tuple[Condition, ...]


Condition: TypeAlias = Comparison | AllOf | AnyOf


@frozen
class RunQuery:
    """Current runs of a namespace, ordered by a column and then by `run_id`, both in one direction.

    `after` is the place of the last row of the page before: the value of the column and the run id.
    """

    namespace: str
    limit: int
    where: Condition | None = None
    order_by: str = "create_ms"
    descending: bool = True
    after: tuple[str | int, str] | None = None


FILTER_FIELDS = frozenset(
    {"status", "workflow_id", "name", "queue", "priority", "created_by", "create_ms", "start_ms", "end_ms"}
)
ORDER_FIELDS = frozenset({"create_ms", "update_ms", "workflow_id"})
LABELLED_MAX = 1_000
"""Runs with a label that are looked up by it; where there are more, those in the order asked for have it soon."""


def labels_of_all(where: Condition | None) -> list[tuple[str, str]]:
    """Labels (key, value) that every run has for which the condition holds."""
    match where:
        case AllOf(parts):
            return [label for part in parts for label in labels_of_all(part)]
        case Comparison(field=name, operator="=", value=str() as value) if name.startswith("labels."):
            return [(name.removeprefix("labels."), value)]
        case _:
            return []
