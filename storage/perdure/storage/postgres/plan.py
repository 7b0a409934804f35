"""Plans a commit to PostgreSQL: which entries are refused, and which rows are written.

Pure. Its input is the state of the database (`Found`, read under locks). It goes through the writes in order and
gathers rows by table, so that a commit is a few statements, however many writes it has. Within one `Rows` no row is
written twice; where the order matters, another `Rows` begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never

from perdure.model import RunStatus
from perdure.storage.ports import Entry
from perdure.storage.postgres.gathered import DeletedRuns, EventKey, Forgetting, Found, PlanStep, Rows, RunState
from perdure.storage.rows import ACTOR, RunRow
from perdure.storage.writes import (
    NO_RUN,
    AddEvent,
    AddRun,
    ConsumeEvent,
    DeleteRun,
    DropMail,
    DropTasks,
    DropTombstones,
    EntryResult,
    KeepTombstones,
    Limit,
    Mail,
    MarkBlobs,
    PutSpec,
    PutTask,
    SetAsideRuns,
    SetDormant,
    SetRun,
    Unmark,
    UseBlobs,
    Write,
    has_happened,
    runs_of,
)

BYTES_MAX: Final = 16 * 1024 * 1024
"""The payload of one statement, of which several copies are in memory on the way."""

_SIMPLE: Final = frozenset(
    {
        PutTask, PutSpec, ConsumeEvent, UseBlobs, MarkBlobs, Unmark, SetDormant, Mail, DropMail,
        KeepTombstones, DropTombstones,
    }
)  # fmt: skip


def is_simple(write: Write) -> bool:
    """Whether it can be written without reading first. A new run that replaces none can: the unique indexes refuse it
    if its ids are taken."""
    match write:
        case AddRun():
            return not write.replaces
        case SetRun():
            return write.status.is_final and write.expects is None and not (write.resumed or write.owner)
        case DropTasks():
            return not write.and_graphs
        case _:
            return type(write) in _SIMPLE


def mentions(write: Write) -> bool:
    """Whether it refers to a graph."""
    return type(write) in (AddRun, PutSpec) or (isinstance(write, PutTask) and write.row.spec_key != "")


class CommitPlan:
    """`steps` are in order. `results` lack those of events, which are in `events_of` by place, with the number of the
    step that writes the event. `found` None: the writes are simple, so nothing was read."""

    def __init__(self, found: Found | None, change: int) -> None:
        self.steps: list[PlanStep] = []
        self.results: list[EntryResult] = []
        self.events_of: dict[int, tuple[int, EventKey]] = {}
        self._repeated: set[int] = set()
        self._is_blind = found is None
        self._found = found or Found()
        self._runs = self._found.runs
        self._gone: set[str] = set()
        self._change = change
        self._seen_events: dict[str, dict[EventKey, int]] = {}  # by run, with their steps
        self._rows = Rows()

    def add(self, entries: Sequence[Entry]) -> None:
        """Add entries to the plan. Everything that they need must be in `found`."""
        for entry in entries:
            if any(self._is_refused(write, entry) for write in entry):
                self.results.append(_REFUSED)
                continue
            for write in entry:
                if self._rows.byte_count > BYTES_MAX:
                    self._next_rows()
                self._write(write)
            self.results.append(_DONE)

    def finish(self) -> None:
        self._next_rows()

    def event_result(self, place: int, sequence: int, is_new: bool) -> EntryResult:
        """The result of the entry at a place, from the result of its event."""
        return EntryResult(sequence=sequence, is_duplicate=not is_new or place in self._repeated)

    def _next_rows(self) -> None:
        if self._rows:
            self.steps.append(self._rows)
        self._rows = Rows(known=self._rows.known)

    # -------------------------------------------------------------------------- conditions

    def _is_refused(self, write: Write, entry: Entry) -> bool:
        match write:
            case AddRun():
                return self._is_taken(write)
            case SetRun(expects=RunStatus()):
                state = self._runs.get(write.run_id)
                if state is None:
                    return not write.fits(None, is_current=False)
                return not write.fits(state.row, is_current=state.is_current)
            case DeleteRun(last_event=int(last)):
                is_newer = bool(self._seen_events.get(write.run_id))
                return write.run_id in self._runs and (is_newer or self._found.last_events.get(write.run_id, 0) > last)
            case Limit():
                if has_happened(entry, self._row_of):
                    return False
                which = (write.namespace, write.status)
                states = (self._runs[run_id] for run_id in runs_of(entry) if run_id in self._runs)
                counted = sum(_counted_as(state.row) == which for state in states)
                return self._found.counts[which] - counted >= write.most
            case _:
                return False

    def _row_of(self, run_id: str) -> RunRow | None:
        state = self._runs.get(run_id)
        return state.row if state is not None else None

    def _is_taken(self, write: AddRun) -> bool:
        row = write.row
        if row.run_id in self._runs:
            return False
        if row.request_id and (row.namespace, row.request_id) in self._found.requests:
            return True
        current = self._found.current.get((row.namespace, row.workflow_id), "")
        found = self._row_of(current)  # only what the write names was looked at
        return not write.may_follow(current, found.status if found is not None else None)

    # -------------------------------------------------------------------------- writes

    def _write(self, write: Write) -> None:
        rows = self._rows
        match write:
            case PutTask(row=row):
                if row.run_id not in self._gone:
                    rows.tasks[row.run_id, row.task_id] = row
                    rows.forgotten.pop((row.run_id, row.task_id), None)
                    rows.byte_count += len(row.output or b"") + len(row.failure or b"")
            case AddRun():
                self._add_run(write)
            case SetRun():
                self._set_run(write)
            case SetDormant():
                self._set_dormant(write)
            case PutSpec():
                self._put_spec(write.key, write.data)
            case AddEvent():
                self._add_event(write)
            case ConsumeEvent():
                if write.run_id in rows.taken:
                    self._next_rows()
                self._rows.consumed[write.run_id, write.sequence] = write.task_id
            case DropTasks(and_graphs=True):
                self._next_rows()
                self._drop_tasks(write)
                self.steps.append(Forgetting(write.run_id, write.task_ids, self._rows))
                self._rows = Rows(known=self._rows.known)
            case DropTasks():
                self._drop_tasks(write)
            case UseBlobs(run_id=run_id, blobs=blobs):
                self._marking(blobs) if run_id in self._gone else self._using(write)
            case MarkBlobs(blobs=blobs):
                self._marking(blobs)
            case Unmark(marks=marks):
                if rows.marks or rows.uses or rows.released:
                    self._next_rows()
                self._rows.unmarks += [(mark.sha256, mark.change) for mark in marks]
            case Mail():
                if write.run_id not in self._gone:
                    rows.mail.append(write)
                    rows.byte_count += len(write.data)
            case DropMail(numbers=numbers):
                rows.dropped += numbers
            case DeleteRun():
                self._delete(write.run_id)
            case KeepTombstones(tombstones=tombstones):
                rows.tombstones.update((tombstone.key, tombstone) for tombstone in tombstones)
                rows.byte_count += sum(len(tombstone.data) for tombstone in tombstones)
            case DropTombstones():
                if any(tombstone.expires_ms < write.before_ms for tombstone in rows.tombstones.values()):
                    self._next_rows()
                self._rows.expired.append(write)
            case SetAsideRuns():
                self._next_rows()
                self.steps.append(write)
            case Limit():
                pass
            case _:
                assert_never(write)

    def _add_run(self, write: AddRun) -> None:
        row = write.row.but(change=self._change)
        if row.run_id in self._runs:
            return
        if write.replaces:
            before = self._runs[write.replaces]
            before.is_current = False
            if write.replaces not in self._rows.added:
                self._rows.replaced.append(write.replaces)
        self._put_spec(row.spec_key, write.spec)
        if write.blobs:
            self._using(UseBlobs(NO_RUN, write.blobs, row.spec_key))
        state = RunState(row, is_current=True)
        self._runs[row.run_id] = self._rows.added[row.run_id] = state
        self._rows.known.add(row.run_id)
        self._gone.discard(row.run_id)
        self._rows.inputs += [(row.run_id, name, data) for name, data in write.inputs.items()]
        self._rows.byte_count += sum(map(len, write.inputs.values()))
        self._found.current[row.namespace, row.workflow_id] = row.run_id
        if row.request_id:
            self._found.requests.add((row.namespace, row.request_id))
        self._count(row, 1)

    def _count(self, row: RunRow, by: int) -> None:
        if (counted := _counted_as(row)) is not None:
            self._found.counts[counted] += by

    def _set_run(self, write: SetRun) -> None:
        state = self._runs.get(write.run_id)
        if state is None:
            if self._is_blind:
                self._end_run(write)
            return
        self._count(state.row, -1)
        state.row = write.applied_to(state.row, self._change)
        self._count(state.row, 1)
        if write.run_id not in self._rows.added:
            self._rows.changed[write.run_id] = state
            self._rows.dormant.pop(write.run_id, None)

    def _end_run(self, write: SetRun) -> None:
        if write.run_id in self._rows.ended:
            self._next_rows()
        self._rows.ended[write.run_id] = (write, self._rows.dormant.pop(write.run_id, None))

    def _set_dormant(self, write: SetDormant) -> None:
        state = self._runs.get(write.run_id)
        if state is not None:
            state.row = state.row.but(is_dormant=write.is_dormant)
            if write.run_id in self._rows.added or write.run_id in self._rows.changed:
                return
        if (ended := self._rows.ended.get(write.run_id)) is not None:
            self._rows.ended[write.run_id] = (ended[0], write.is_dormant)
        else:
            self._rows.dormant[write.run_id] = write.is_dormant

    def _put_spec(self, key: str, data: bytes) -> None:
        if key not in self._rows.specs:
            self._rows.specs[key] = data
            self._rows.byte_count += len(data)

    def _add_event(self, write: AddEvent) -> None:
        if write.run_id not in self._runs:
            return
        if write.run_id in self._rows.taken:
            self._next_rows()
        key = (write.run_id, write.key, write.event_id)
        place = len(self.results)
        seen = self._seen_events.setdefault(write.run_id, {})
        if key in seen:
            self._repeated.add(place)
        else:
            self._repeated.discard(place)
            seen[key] = len(self.steps)
            self._rows.events[key] = write
            self._rows.byte_count += len(write.payload)
        self.events_of[place] = (seen[key], key)

    def _drop_tasks(self, write: DropTasks) -> None:
        if self._rows.unmarks or (write.inputs and write.run_id in self._rows.added):
            self._next_rows()
        rows, run_id = self._rows, write.run_id
        rows.spent += [(run_id, name) for name in write.inputs]
        for task_id in write.task_ids:
            task = run_id, task_id
            rows.tasks.pop(task, None)
            rows.forgotten[task] = rows.released[task] = None
            rows.marks.update(rows.uses.pop(task, {}))
        if write.and_events:
            gone = set(write.task_ids)
            unread = [key for key, task_id in rows.consumed.items() if key[0] == run_id and task_id in gone]
            for key in unread:
                del rows.consumed[key]
            rows.unread += unread
            rows.taken.setdefault(run_id, set()).update(gone)
            self._seen_events.pop(run_id, None)

    def _using(self, write: UseBlobs) -> None:
        user = write.run_id, write.task_id
        if self._rows.unmarks or user in self._rows.released:
            self._next_rows()
        self._rows.uses.setdefault(user, {}).update(dict.fromkeys(write.blobs))

    def _marking(self, blobs: Sequence[str]) -> None:
        if self._rows.unmarks:
            self._next_rows()
        self._rows.marks.update(dict.fromkeys(blobs))

    def _delete(self, run_id: str) -> None:
        self._gone.add(run_id)
        state = self._runs.pop(run_id, None)
        if state is None:
            return
        row = state.row
        if state.is_current:
            self._found.current.pop((row.namespace, row.workflow_id), None)
        self._found.requests.discard((row.namespace, row.request_id))
        self._count(row, -1)
        self._seen_events.pop(run_id, None)
        if self._rows:
            self._next_rows()
        self._rows.known.discard(run_id)
        if self.steps and isinstance(before := self.steps[-1], DeletedRuns):
            before.run_ids.append(run_id)
        else:
            self.steps.append(DeletedRuns([run_id]))


def _counted_as(row: RunRow) -> tuple[str, RunStatus] | None:
    """The namespace and the status by which limits count the run; None for an actor."""
    return (row.namespace, row.status) if row.kind != ACTOR else None


_DONE: Final = EntryResult()
_REFUSED: Final = EntryResult(is_refused=True)
