"""Commits, each in one step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import assert_never

from perdure.model import RunStatus
from perdure.storage.memory.database import UNFINISHED, Connected, Kept, spec_keys
from perdure.storage.ports import Entry, Unstorable
from perdure.storage.rows import ACTOR, EventRow, MailRow, RunRow
from perdure.storage.storable import fault_of
from perdure.storage.writes import (
    TOLD,
    AddEvent,
    AddRun,
    Committed,
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


class Commits(Connected):
    """Implements CommitStore."""

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        self._check_fence()
        if field := fault_of(entries):
            raise Unstorable("no store takes this value", field)
        self._all.change += 1
        committed = Committed(self._all.change, tuple(self._apply(entry) for entry in entries))
        if any(type(write) in TOLD for entry in entries for write in entry):
            self._tell()
        return committed

    def _apply(self, entry: Entry) -> EntryResult:
        if any(self._is_refused(write, entry) for write in entry):
            return EntryResult(is_refused=True)
        result = EntryResult()
        for write in entry:
            result = self._write(write) or result
        return result

    def _is_refused(self, write: Write, entry: Entry) -> bool:
        match write:
            case AddRun():
                return self._is_taken(write)
            case SetRun():
                kept = self._runs.get(write.run_id)
                if kept is None:
                    return not write.fits(None, is_current=False)
                return not write.fits(kept.row, is_current=kept.is_current)
            case DeleteRun(last_event=int(last)):
                kept = self._runs.get(write.run_id)
                return kept is not None and max(kept.events, default=0) > last
            case Limit():
                if has_happened(entry, self._row_of):
                    return False
                own = runs_of(entry)
                others = (kept.row for run_id, kept in self._runs.items() if run_id not in own)
                rows = (row for row in others if row.kind != ACTOR)
                count = sum((row.namespace, row.status) == (write.namespace, write.status) for row in rows)
                return count >= write.most
            case _:
                return False

    def _row_of(self, run_id: str) -> RunRow | None:
        kept = self._runs.get(run_id)
        return kept.row if kept is not None else None

    def _is_taken(self, write: AddRun) -> bool:
        row = write.row
        if row.run_id in self._runs:
            return False
        if row.request_id and (row.namespace, row.request_id) in self._requests:
            return True
        current = self._current.get((row.namespace, row.workflow_id))
        if current is None:
            return not write.may_follow("", None)
        return not write.may_follow(current.row.run_id, current.row.status)

    def _write(self, write: Write) -> EntryResult | None:
        match write:
            case AddRun():
                self._add_run(write)
            case SetRun():
                if kept := self._runs.get(write.run_id):
                    kept.row = write.applied_to(kept.row, self._all.change)
            case SetAsideRuns(at_ms=at_ms):
                for kept in self._runs.values():
                    row = kept.row
                    is_mine = self._is_mine(row) or not self._all.is_alive(row.owner)
                    if row.status in UNFINISHED and is_mine and not kept.is_idle_actor:
                        kept.row = kept.row.but(status=RunStatus.RESUMABLE, update_ms=at_ms, change=self._all.change)
            case SetDormant():
                if kept := self._runs.get(write.run_id):
                    kept.row = kept.row.but(is_dormant=write.is_dormant)
            case PutTask(row=row):
                if kept := self._runs.get(row.run_id):
                    kept.tasks[row.task_id] = replace(row, change=self._all.change)
            case PutSpec():
                self._specs.setdefault(write.key, write.data)
            case AddEvent():
                return self._add_event(write)
            case ConsumeEvent():
                if (kept := self._runs.get(write.run_id)) and (event := kept.events.get(write.sequence)):
                    kept.events[write.sequence] = replace(event, consumed_by=write.task_id)
            case DropTasks():
                if kept := self._runs.get(write.run_id):
                    self._drop_tasks(kept, write)
            case UseBlobs():
                self._use(write)
            case MarkBlobs(blobs=blobs):
                self._marks.update(dict.fromkeys(blobs, self._all.change))
            case Unmark(marks=marks):
                for mark in marks:
                    if self._marks.get(mark.sha256) == mark.change:
                        del self._marks[mark.sha256]
            case DeleteRun():
                self._delete(write.run_id)
            case KeepTombstones(tombstones=tombstones):
                self._tombstones.update((tombstone.key, tombstone) for tombstone in tombstones)
            case DropTombstones():
                expired = [kept for kept in self._tombstones.values() if kept.expires_ms < write.before_ms]
                for tombstone in sorted(expired, key=lambda tombstone: tombstone.expires_ms)[: write.most]:
                    del self._tombstones[tombstone.key]
            case Mail():
                if write.run_id in self._runs:
                    self._all.mail_number += 1
                    number = self._all.mail_number
                    self._mail[number] = MailRow(number, write.run_id, write.kind, write.data)
            case DropMail(numbers=numbers):
                for number in numbers:
                    self._mail.pop(number, None)
            case Limit():
                pass
            case _:
                assert_never(write)
        return None

    def _add_run(self, write: AddRun) -> None:
        row = write.row
        if row.run_id in self._runs:
            return
        kept = Kept(row.but(change=self._all.change), dict(write.inputs))
        before = self._current.get((row.namespace, row.workflow_id))
        if before is not None:
            before.is_current = False
        self._runs[row.run_id] = kept
        self._current[row.namespace, row.workflow_id] = kept
        if row.request_id:
            self._requests[row.namespace, row.request_id] = kept
        self._specs.setdefault(row.spec_key, write.spec)
        used = self._all.spec_uses.setdefault(row.spec_key, set())
        self._uses.update(set(write.blobs) - used)
        used.update(write.blobs)

    def _add_event(self, write: AddEvent) -> EntryResult | None:
        kept = self._runs.get(write.run_id)
        if kept is None:
            return None
        if (known := kept.find_event(write.key, write.event_id)) is not None:
            return EntryResult(sequence=known, is_duplicate=True)
        self._all.sequence += 1
        sequence = self._all.sequence
        kept.events[sequence] = EventRow(
            write.run_id, sequence, write.event_id, write.key, write.payload, write.arrived_ms
        )
        return EntryResult(sequence=sequence)

    def _drop_tasks(self, kept: Kept, write: DropTasks) -> None:
        gone = set(write.task_ids)
        tasks = [task for task_id in gone if (task := kept.tasks.pop(task_id, None)) is not None]
        self._release(kept, {use for use in kept.uses if use[0] in gone})
        for name in write.inputs:
            kept.inputs.pop(name, None)
        if write.and_graphs:
            self._drop_specs({task.spec_key for task in tasks})
        if write.and_events:
            for sequence in [event.sequence for event in kept.events.values() if event.consumed_by in gone]:
                del kept.events[sequence]

    def _use(self, write: UseBlobs) -> None:
        kept = self._runs.get(write.run_id)
        if kept is None:
            self._marks.update(dict.fromkeys(write.blobs, self._all.change))
            return
        new = {(write.task_id, sha256) for sha256 in write.blobs} - kept.uses
        kept.uses |= new
        self._uses.update(sha256 for _, sha256 in new)

    def _release(self, kept: Kept, uses: set[tuple[str, str]]) -> None:
        kept.uses -= uses
        self._unuse([sha256 for _, sha256 in uses])

    def _unuse(self, blobs: Collection[str]) -> None:
        self._uses.subtract(blobs)
        self._marks.update(dict.fromkeys(blobs, self._all.change))

    def _drop_specs(self, keys: set[str]) -> None:
        used = {key for kept in self._runs.values() for key in spec_keys(kept)}
        for key in keys - used:
            self._specs.pop(key, None)
            self._unuse(self._all.spec_uses.pop(key, set()))

    def _delete(self, run_id: str) -> None:
        kept = self._runs.pop(run_id, None)
        if kept is None:
            return
        row = kept.row
        if kept.is_current:
            del self._current[row.namespace, row.workflow_id]
        if row.request_id:
            del self._requests[row.namespace, row.request_id]
        self._release(kept, set(kept.uses))
        for number in [number for number, mail in self._mail.items() if mail.run_id == run_id]:
            del self._mail[number]
        self._drop_specs(spec_keys(kept))
