"""Runs in a dict: the reference implementation of the metadata store, embedded or shared.

Keeps nothing after the end of the process. Every call happens in one step on the event loop, so the store is as
deterministic as its caller.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from perdure.model import RunStatus, TaskStatus
from perdure.storage.memory.listing import page_of
from perdure.storage.ports import Entry, Fenced, Unstorable
from perdure.storage.rows import (
    AddEvent,
    AddRun,
    BlobMark,
    Committed,
    ConsumeEvent,
    DeleteRun,
    DropMail,
    DropTombstones,
    EngineRow,
    EntryResult,
    EventName,
    EventRow,
    KeepTombstones,
    Limit,
    Mail,
    MailRow,
    MarkBlobs,
    PutSpec,
    PutTask,
    RunQuery,
    RunRow,
    SetAsideRuns,
    SetDormant,
    SetRun,
    StoredRun,
    TaskRow,
    Timer,
    Tombstone,
    Unmark,
    UseBlobs,
    ValueKey,
    Write,
    has_happened,
    runs_of,
)
from perdure.storage.storable import fault_of

UNFINISHED = (RunStatus.RUNNING, RunStatus.PENDING)
TIMED = (TaskStatus.RUNNING, TaskStatus.BACKING_OFF)
DEAD_KEPT_MS: Final = 24 * 3600 * 1000
TOLD: Final = (AddRun, SetRun, SetAsideRuns, DeleteRun, Mail)
"""Writes of which other members are notified."""


@dataclass(slots=True)
class _Kept:
    """A run with everything that belongs to it."""

    row: RunRow
    inputs: dict[str, bytes]
    is_current: bool = True
    tasks: dict[str, TaskRow] = field(default_factory=dict)
    events: dict[int, EventRow] = field(default_factory=dict)
    blobs: set[str] = field(default_factory=set)

    def find_event(self, key: str, event_id: str) -> int | None:
        for event in self.events.values():
            if (event.key, event.event_id) == (key, event_id):
                return event.sequence
        return None

    def waiting(self) -> list[EventRow]:
        return [event for _, event in sorted(self.events.items()) if not event.consumed_by]


class SharedMemory:
    """The database that several members share. `clock` returns milliseconds; leases end by it."""

    def __init__(self, clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self.clock = clock
        self.runs: dict[str, _Kept] = {}
        self.current: dict[tuple[str, str], _Kept] = {}
        self.requests: dict[tuple[str, str], _Kept] = {}
        self.specs: dict[str, bytes] = {}
        self.uses: Counter[str] = Counter()  # how many runs use a blob
        self.marks: dict[str, int] = {}
        self.mail: dict[int, MailRow] = {}
        self.tombstones: dict[str, Tombstone] = {}
        self.engines: dict[str, EngineRow] = {}
        self.listeners: dict[MemoryMetadataStore, Callable[[], None]] = {}
        self.change = 0
        self.sequence = 0
        self.mail_number = 0

    def member(self) -> MemoryMetadataStore:
        """A store object for one more engine."""
        return MemoryMetadataStore(self)

    def is_alive(self, engine_id: str) -> bool:
        engine = self.engines.get(engine_id)
        return engine is not None and not engine.is_dead


class MemoryMetadataStore:
    """Implements MetadataStore: embedded, or as a member of a shared one."""

    def __init__(self, shared: SharedMemory | None = None) -> None:
        self.is_shared = shared is not None
        self._all = all_ = shared or SharedMemory()
        self._runs, self._current, self._requests = all_.runs, all_.current, all_.requests
        self._specs, self._uses, self._marks, self._mail = all_.specs, all_.uses, all_.marks, all_.mail
        self._tombstones = all_.tombstones
        self._engine_id = ""

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Stop calling the listener. The data stays."""
        self._all.listeners.pop(self, None)

    # -------------------------------------------------------------------------- members

    async def join(self, engine: EngineRow, lease_ms: int) -> None:
        if not self.is_shared:
            return
        if engine.engine_id in self._all.engines:
            self._engine_id = engine.engine_id
            return await self.renew(lease_ms)
        now_ms = self._all.clock()
        joined = replace(engine, started_ms=now_ms, expires_ms=now_ms + lease_ms, is_dead=False)
        self._all.engines[engine.engine_id] = joined
        self._engine_id = engine.engine_id

    async def renew(self, lease_ms: int) -> None:
        if self._engine_id:
            self._check_fence()
            mine = self._all.engines[self._engine_id]
            self._all.engines[self._engine_id] = replace(mine, expires_ms=self._all.clock() + lease_ms)

    async def leave(self) -> None:
        if self._all.engines.pop(self._engine_id, None) is not None:
            self._tell()

    async def engines(self) -> list[EngineRow]:
        return sorted(self._all.engines.values(), key=lambda engine: (engine.started_ms, engine.engine_id))

    async def bury(self) -> list[str]:
        now_ms = self._all.clock()
        ended = [engine for engine in self._all.engines.values() if engine.expires_ms <= now_ms]
        for engine in ended:
            if engine.is_dead and engine.expires_ms <= now_ms - DEAD_KEPT_MS:
                del self._all.engines[engine.engine_id]
            else:
                self._all.engines[engine.engine_id] = replace(engine, is_dead=True)
        return sorted(engine.engine_id for engine in ended if not engine.is_dead)

    async def take_over(self, limit: int) -> list[RunRow]:
        if not self._engine_id:
            return []
        self._check_fence()
        left = [
            kept
            for _, kept in sorted(self._runs.items())
            if kept.row.status in UNFINISHED and not self._all.is_alive(kept.row.owner)
        ]
        awake = [kept for kept in left if kept.row.status is RunStatus.RUNNING and not kept.row.is_dormant]
        left = (awake or left)[:limit]
        for kept in left:
            kept.row = kept.row.but(owner=self._engine_id)
        return [kept.row for kept in left]

    async def read_mail(self, *, limit: int) -> list[MailRow]:
        return [mail for _, mail in sorted(self._mail.items()) if self._is_mine(self._runs[mail.run_id].row)][:limit]

    async def listen(self, heard: Callable[[], None]) -> None:
        self._all.listeners[self] = heard

    def _check_fence(self) -> None:
        if self._engine_id and not self._all.is_alive(self._engine_id):
            raise Fenced(f"engine {self._engine_id} is no member any more")

    def _is_mine(self, row: RunRow) -> bool:
        return not self._engine_id or row.owner == self._engine_id

    def _tell(self) -> None:
        for member, heard in self._all.listeners.items():
            if member is not self:
                asyncio.get_running_loop().call_soon(heard)

    # -------------------------------------------------------------------------- writing

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        self._check_fence()
        if field := fault_of(entries):
            raise Unstorable("no store takes this value", field)
        self._all.change += 1
        committed = Committed(self._all.change, tuple(self._apply(entry) for entry in entries))
        if any(isinstance(write, TOLD) for entry in entries for write in entry):
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
            case Limit():
                if has_happened(entry, self._row_of):
                    return False
                own = runs_of(entry)
                rows = (kept.row for run_id, kept in self._runs.items() if run_id not in own)
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
                    if kept.row.status in UNFINISHED and (
                        self._is_mine(kept.row) or not self._all.is_alive(kept.row.owner)
                    ):
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
        kept = _Kept(row.but(change=self._all.change), dict(write.inputs))
        before = self._current.get((row.namespace, row.workflow_id))
        if before is not None:
            before.is_current = False
        self._runs[row.run_id] = kept
        self._current[row.namespace, row.workflow_id] = kept
        if row.request_id:
            self._requests[row.namespace, row.request_id] = kept
        self._specs.setdefault(row.spec_key, write.spec)

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

    def _use(self, write: UseBlobs) -> None:
        kept = self._runs.get(write.run_id)
        if kept is None:
            self._marks.update(dict.fromkeys(write.blobs, self._all.change))
            return
        new = set(write.blobs) - kept.blobs
        kept.blobs |= new
        self._uses.update(new)

    def _delete(self, run_id: str) -> None:
        kept = self._runs.pop(run_id, None)
        if kept is None:
            return
        row = kept.row
        if kept.is_current:
            del self._current[row.namespace, row.workflow_id]
        if row.request_id:
            del self._requests[row.namespace, row.request_id]
        self._uses -= Counter(kept.blobs)
        self._marks.update(dict.fromkeys(kept.blobs, self._all.change))
        for number in [number for number, mail in self._mail.items() if mail.run_id == run_id]:
            del self._mail[number]
        used = {key for other in self._runs.values() for key in _spec_keys(other)}
        for key in _spec_keys(kept) - used:
            self._specs.pop(key, None)

    # -------------------------------------------------------------------------- reading

    async def find_run(self, namespace: str, workflow_id: str) -> RunRow | None:
        kept = self._current.get((namespace, workflow_id))
        return kept.row if kept is not None else None

    async def find_request(self, namespace: str, request_id: str) -> RunRow | None:
        kept = self._requests.get((namespace, request_id))
        return kept.row if kept is not None else None

    async def get_run(self, run_id: str) -> RunRow | None:
        kept = self._runs.get(run_id)
        return kept.row if kept is not None else None

    async def get_runs(self, run_ids: Collection[str]) -> list[RunRow]:
        return [kept.row for run_id in run_ids if (kept := self._runs.get(run_id)) is not None]

    async def find_event(self, run_id: str, key: str, event_id: str) -> int | None:
        kept = self._runs.get(run_id)
        return kept.find_event(key, event_id) if kept is not None else None

    async def read_events(self, run_id: str, *, after: int) -> list[EventRow]:
        kept = self._runs.get(run_id)
        return [event for event in kept.waiting() if event.sequence > after] if kept is not None else []

    async def latest_events(self, run_id: str, *, limit: int) -> list[EventName]:
        kept = self._runs.get(run_id)
        events = sorted(kept.events.values(), key=lambda event: -event.sequence) if kept is not None else []
        return [EventName(event.sequence, event.key, event.event_id, event.arrived_ms) for event in events[:limit]]

    async def read_tombstone(self, key: str) -> Tombstone | None:
        return self._tombstones.get(key)

    async def load_run(self, run_id: str) -> StoredRun | None:
        kept = self._runs.get(run_id)
        if kept is None:
            return None
        return StoredRun(
            kept.row,
            tuple(sorted(kept.inputs)),
            tuple(replace(row, output=None) for row in sorted(kept.tasks.values(), key=lambda row: row.seq)),
            tuple(kept.waiting()),
            max(kept.events, default=0),
        )

    async def read_specs(self, keys: Iterable[str]) -> Mapping[str, bytes]:
        return {key: self._specs[key] for key in keys if key in self._specs}

    async def read_values(self, keys: Sequence[ValueKey]) -> list[bytes | None]:
        return [self._value(key) for key in keys]

    def _value(self, key: ValueKey) -> bytes | None:
        kept = self._runs.get(key.run_id)
        if kept is None:
            return None
        if not key.task_id:
            return kept.inputs.get(key.input)
        task = kept.tasks.get(key.task_id)
        return task.output if task is not None else None

    async def unfinished_runs(self, *, after: str, limit: int) -> list[RunRow]:
        rows = (kept.row for run_id, kept in sorted(self._runs.items()) if run_id > after)
        mine = [row for row in rows if row.status is RunStatus.RUNNING and not row.is_dormant and self._is_mine(row)]
        return mine[:limit]

    async def running_runs(self) -> list[tuple[str, str]]:
        rows = (kept.row for kept in self._runs.values())
        return [(row.namespace, row.run_id) for row in rows if row.status is RunStatus.RUNNING]

    async def count_pending(self) -> Mapping[str, int]:
        rows = (kept.row for kept in self._runs.values())
        return Counter(row.namespace for row in rows if row.status is RunStatus.PENDING)

    async def pending_runs(self, namespace: str, *, limit: int) -> list[RunRow]:
        rows = (kept.row for kept in self._runs.values())
        pending = [row for row in rows if row.status is RunStatus.PENDING and row.namespace == namespace]
        return sorted(pending, key=lambda row: (row.change, row.run_id))[:limit]

    async def next_timers(self, *, until_ms: int, limit: int) -> list[Timer]:
        timers = [
            Timer(row.run_id, row.task_id, row.attempt, row.wake_ms)
            for kept in self._runs.values()
            if kept.row.status is RunStatus.RUNNING and self._is_mine(kept.row)
            for row in kept.tasks.values()
            if row.wake_ms is not None and row.wake_ms <= until_ms and row.status in TIMED
        ]
        return sorted(timers, key=lambda timer: (timer.wake_ms, timer.run_id, timer.task_id))[:limit]

    async def list_runs(self, query: RunQuery) -> list[RunRow]:
        return page_of((kept.row for kept in self._runs.values() if kept.is_current), query)

    async def read_changes(self, namespace: str | None, *, after: int, limit: int) -> list[RunRow]:
        rows = sorted(
            (
                kept.row
                for kept in self._runs.values()
                if namespace in (None, kept.row.namespace) and kept.row.change > after
            ),
            key=lambda row: (row.change, row.run_id),
        )
        last = rows[:limit][-1].change if rows else 0
        return [row for row in rows if row.change <= last]

    async def read_tasks(self, run_id: str, *, after: int) -> list[tuple[str, int]]:
        kept = self._runs.get(run_id)
        changed = [row for row in kept.tasks.values() if row.change > after] if kept is not None else []
        return [(row.task_id, row.change) for row in sorted(changed, key=lambda row: (row.change, row.seq))]

    async def marked_blobs(self, *, after: str, limit: int) -> list[BlobMark]:
        marks = sorted((sha256, change) for sha256, change in self._marks.items() if sha256 > after)
        return [BlobMark(sha256, change, self._uses[sha256] > 0) for sha256, change in marks[:limit]]

    async def unused_blobs(self, sha256s: Sequence[str]) -> list[str]:
        return [sha256 for sha256 in sha256s if self._uses[sha256] <= 0 and sha256 not in self._marks]

    async def finished_runs(self, *, before_ms: int, limit: int) -> list[RunRow]:
        ended = [
            (kept.row.end_ms, kept.row.run_id, kept.row)
            for kept in self._runs.values()
            if kept.row.status.is_final and kept.row.end_ms is not None and kept.row.end_ms < before_ms
        ]
        return [row for _, _, row in sorted(ended, key=lambda found: found[:2])[:limit]]

    async def last_change(self) -> int:
        return self._all.change


def _spec_keys(kept: _Kept) -> set[str]:
    return {kept.row.spec_key, *(task.spec_key for task in kept.tasks.values() if task.spec_key)}
