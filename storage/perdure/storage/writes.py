"""Writes of the metadata store, as values. A list of them is an entry, which is committed as a whole or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Final, TypeAlias

from perdure.model import RunStatus, frozen
from perdure.storage.rows import BlobMark, RunRow, TaskRow, Tombstone


@frozen
class AddRun:
    """Insert a run with its graph and inputs.

    Refused, with its whole entry, if another run has its `request_id` ("" is no id), or if the current run of its
    workflow id is not `replaces` ("": there is none) or is not final. Adding the same `run_id` again is accepted and
    changes nothing.

    `blobs` are those that the graph uses. They are used for as long as the graph is stored, and marked when it goes.
    """

    row: RunRow
    spec: bytes
    inputs: Mapping[str, bytes] = field(default_factory=dict)
    replaces: str = ""
    blobs: tuple[str, ...] = ()

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
class DropTasks:
    """Remove the records of tasks and their uses of blobs, which are marked, and `inputs` of the run. Missing ones are
    ignored. The writes of a commit are in order: what was written before is removed, what is written later stays.

    - With `and_events` the events that the tasks consumed are removed, too. Their numbers are never given again, and
      their ids are forgotten: an event that comes again is new.
    - With `and_graphs` the graphs of the tasks are removed as well, unless another record names them. Without it they
      stay, even after the run was deleted.
    """

    run_id: str
    task_ids: tuple[str, ...]
    and_events: bool = False
    and_graphs: bool = False
    inputs: tuple[str, ...] = ()


NO_RUN: Final = ""
"""The run id with which stores keep the uses by graphs, each with the key of the graph in place of a task."""


@frozen
class UseBlobs:
    """Store that a run uses blobs, in the entry that refers to them. If the run does not exist, mark the blobs.

    The run uses them until it is deleted; with a `task_id`, until that task is dropped. Uses by several tasks, and by
    the run itself, are apart from each other.
    """

    run_id: str
    blobs: tuple[str, ...]
    task_id: str = ""


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
    nothing changes. With `last_event` the whole entry is refused if the run has an event with a sequence above it, or
    if an earlier entry of the commit adds one."""

    run_id: str
    last_event: int | None = None


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
    """Make every RUNNING and PENDING run of every namespace RESUMABLE, except those of other live members, and actors
    that do nothing: dormant ones without a recorded call that no task has consumed, and without a timer except that of
    IDLE_TASK."""

    at_ms: int


@frozen
class Limit:
    """Refuse the whole entry if `most` runs of the namespace have that state already, actors left out. Changes by
    earlier entries of the commit are counted, those by this entry are not. Other commits with a Limit for the namespace
    wait meanwhile, so the limit holds over all members. If the run that the entry adds or sets is so already, the
    commit is repeated, and the entry is accepted as before."""

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
    | DropTasks
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
TOLD: Final = frozenset({AddRun, SetRun, SetAsideRuns, DeleteRun, ConsumeEvent, Mail})
"""Writes of which the members of a shared store are notified. The end of an actor's call consumes an event."""


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
