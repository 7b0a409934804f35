"""Rows, writes and queries of the metadata store, as values.

Payloads, failures and graphs are bytes here (serialized messages of `perdure.v1`, see `perdure.wire`), which the store
does not decode. All times are milliseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from typing import Any, Final, NamedTuple, TypeAlias

from perdure.model import RunStatus, TaskStatus, frozen

GRAPH: Final = "graph"
"""The kind of all runs that were stored before runs had a kind."""

# ------------------------------------------------------------------------------ rows


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
        """A copy with other values in some fields, like `dataclasses.replace` at a tenth of the cost."""
        made = object.__new__(RunRow)
        made.__dict__.update(self.__dict__, **changes)
        if len(made.__dict__) != RUN_FIELDS:
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
    """What names an event of a run, without its payload."""

    sequence: int
    key: str
    event_id: str
    arrived_ms: int


@frozen
class Tombstone:
    """What a repeat of a request is answered after its run was deleted. `key` names the request."""

    key: str
    data: bytes
    expires_ms: int


# ------------------------------------------------------------------------------ writes


@frozen
class AddRun:
    """Insert a run with its graph and inputs.

    Refused, with its whole entry, if another run has its `request_id` ("" is no id), or if the current run of its
    workflow id is not `replaces` ("": there is none) or is not final. Adding the same `run_id` again is accepted and
    changes nothing.
    """

    row: RunRow
    spec: bytes
    inputs: Mapping[str, bytes] = field(default_factory=dict)
    replaces: str = ""

    def may_follow(self, run_id: str, status: RunStatus | None) -> bool:
        """Whether it may take the place of the current run of its workflow id; "": there is none. The status is None if
        it cannot be read, and such a run has failed."""
        return run_id == self.replaces and (not run_id or status is None or status.is_final)


@frozen
class SetRun:
    """Change the state of a run.

    - A final state sets `end_ms`, any other clears it. RUNNING sets `start_ms` if it was not set.
    - `resumed` adds one to `resume_count`. A non-empty `owner` takes the run over. A non-empty `code` becomes its
      `code_version`.
    - With `expects`, the whole entry is refused unless the run has that state, and is the current run of its workflow
      id or stays final: a replaced run never goes on.
    - With `expects_change` it is also refused unless that commit touched the row last. A run that was resumed and
      failed again has the same state, but another change.
    - A run with the state and time of this write was changed by it before: the commit is repeated. Then the write is
      accepted whatever it `expects`, and `resumed` adds nothing.
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
        """A write that changes nothing, but is refused with its entry if the run has changed since `row` was read."""
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
        """A write that moves a run to another state, unless it has changed since `row` was read. If the run had ended,
        this resumes it."""
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
        """Whether the run is as the write expects."""
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
    """Insert or replace the record of a task. `row.change` is ignored."""

    row: TaskRow


@frozen
class PutSpec:
    """Store a graph under its key, unless it exists."""

    key: str
    data: bytes


@frozen
class AddEvent:
    """Insert an event with a sequence above all others of the run. An event with the `event_id` and `key` of another
    event of the run is a duplicate and changes nothing."""

    run_id: str
    event_id: str
    key: str
    payload: bytes
    arrived_ms: int


@frozen
class ConsumeEvent:
    """Store that a task consumed an event."""

    run_id: str
    sequence: int
    task_id: str


@frozen
class UseBlobs:
    """Store that a run uses blobs, in the entry that refers to them. If the run does not exist, mark the blobs."""

    run_id: str
    blobs: tuple[str, ...]


@frozen
class MarkBlobs:
    """Mark blobs that may be unused. A marked blob is marked anew."""

    blobs: tuple[str, ...]


@frozen
class Unmark:
    """Remove marks, except of blobs that were marked anew since `change`."""

    marks: tuple[BlobMark, ...]


@frozen
class DeleteRun:
    """Remove a run with everything that belongs to it, and mark the blobs that it used. If the run does not exist,
    nothing changes."""

    run_id: str


@frozen
class KeepTombstones:
    """Store tombstones. One with the key of another replaces it. No key is given twice."""

    tombstones: tuple[Tombstone, ...]


@frozen
class DropTombstones:
    """Remove tombstones with an `expires_ms` below `before_ms`, the earliest first and at most `most`. Those that
    another commit is writing stay."""

    before_ms: int
    most: int


@frozen
class SetAsideRuns:
    """Make every RUNNING and PENDING run of every namespace RESUMABLE, except those of other live members."""

    at_ms: int


@frozen
class Limit:
    """Refuse the whole entry if `most` runs of the namespace have that state already. Changes by earlier entries of the
    commit are counted, those by this entry are not. Other commits with a Limit for the namespace wait meanwhile, so the
    limit holds over all members. If the run that the entry adds or sets is so already, the commit is repeated, and the
    entry is accepted as before."""

    namespace: str
    status: RunStatus
    most: int


@frozen
class Mail:
    """Leave a letter for the owner that a run has when it is read. A letter to a missing run is dropped. A repeated
    commit may leave it twice."""

    run_id: str
    kind: str
    data: bytes = b""


@frozen
class DropMail:
    """Remove mail. Missing numbers are ignored."""

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
    | KeepTombstones
    | DropTombstones
    | Limit
    | Mail
    | DropMail
)
TOLD: Final = frozenset({AddRun, SetRun, SetAsideRuns, DeleteRun, Mail})
"""Writes of which the members of a shared store are notified."""


def runs_of(entry: Sequence[Write]) -> set[str]:
    """The runs that an entry adds or sets, which its limits do not count."""
    added = {write.row.run_id for write in entry if isinstance(write, AddRun)}
    return added | {write.run_id for write in entry if isinstance(write, SetRun)}


def has_happened(entry: Sequence[Write], row_of: Callable[[str], RunRow | None]) -> bool:
    """Whether an entry with limits was accepted before, so that the limits are not asked again."""
    for write in entry:
        match write:
            case AddRun() if row_of(write.row.run_id) is not None:
                return True
            case SetRun() if (row := row_of(write.run_id)) is not None and write.was_applied_to(row):
                return True
            case _:
                pass
    return False


@frozen
class EntryResult:
    """The result of one entry. `sequence` and `is_duplicate` are of its AddEvent, if it has one."""

    is_refused: bool = False
    sequence: int = 0
    is_duplicate: bool = False


@frozen
class Committed:
    """The number of a commit, and the result of each of its entries."""

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

    `after` is the position of the previous page's last row: the value of the column and the run id.
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
"""Up to this many runs with a label are looked up by it. With more, a scan in the requested order finds some soon."""


def labels_of_all(where: Condition | None) -> list[tuple[str, str]]:
    """Labels (key, value) that a run must have to meet the condition."""
    match where:
        case AllOf(parts):
            return [label for part in parts for label in labels_of_all(part)]
        case Comparison(field=name, operator="=", value=str() as value) if name.startswith("labels."):
            return [(name.removeprefix("labels."), value)]
        case _:
            return []
