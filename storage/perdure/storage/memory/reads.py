"""Reads by subject. A class is a port of the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from perdure.model import RunStatus
from perdure.storage.memory.database import TIMED, Connected
from perdure.storage.memory.listing import page_of
from perdure.storage.queries import RunQuery
from perdure.storage.rows import (
    ACTOR,
    CALL_KEY,
    BlobMark,
    EventName,
    EventRow,
    RunRow,
    StoredRun,
    Timer,
    Tombstone,
    ValueKey,
)


class RunReads(Connected):
    """Implements RunStore."""

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


class EventReads(Connected):
    """Implements EventStore."""

    async def find_event(self, run_id: str, key: str, event_id: str) -> int | None:
        kept = self._runs.get(run_id)
        return kept.find_event(key, event_id) if kept is not None else None

    async def count_calls(self, run_id: str) -> int:
        kept = self._runs.get(run_id)
        return sum(event.key == CALL_KEY for event in kept.waiting()) if kept is not None else 0

    async def read_events(self, run_id: str, *, after: int) -> list[EventRow]:
        kept = self._runs.get(run_id)
        return [event for event in kept.waiting() if event.sequence > after] if kept is not None else []


class TombstoneReads(Connected):
    """Implements TombstoneStore."""

    async def read_tombstone(self, key: str) -> Tombstone | None:
        return self._tombstones.get(key)

    async def latest_events(self, run_id: str, *, limit: int) -> list[EventName]:
        kept = self._runs.get(run_id)
        events = sorted(kept.events.values(), key=lambda event: -event.sequence) if kept is not None else []
        return [EventName(event.sequence, event.key, event.event_id, event.arrived_ms) for event in events[:limit]]


class RecoveryReads(Connected):
    """Implements RecoveryStore."""

    async def unfinished_runs(self, *, after: str, limit: int) -> list[RunRow]:
        rows = (kept.row for run_id, kept in sorted(self._runs.items()) if run_id > after)
        mine = [row for row in rows if row.status is RunStatus.RUNNING and not row.is_dormant and self._is_mine(row)]
        return mine[:limit]

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


class SpecReads(Connected):
    """Implements SpecStore."""

    async def read_specs(self, keys: Iterable[str]) -> Mapping[str, bytes]:
        return {key: self._specs[key] for key in keys if key in self._specs}


class ValueReads(Connected):
    """Implements ValueStore."""

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


def _is_queued(row: RunRow, status: RunStatus) -> bool:
    return row.status is status and row.kind != ACTOR


class QueueReads(Connected):
    """Implements QueueStore."""

    async def running_runs(self) -> list[tuple[str, str]]:
        rows = (kept.row for kept in self._runs.values())
        return [(row.namespace, row.run_id) for row in rows if _is_queued(row, RunStatus.RUNNING)]

    async def count_pending(self) -> Mapping[str, int]:
        rows = (kept.row for kept in self._runs.values())
        return Counter(row.namespace for row in rows if _is_queued(row, RunStatus.PENDING))

    async def pending_runs(self, namespace: str, *, limit: int) -> list[RunRow]:
        rows = (kept.row for kept in self._runs.values())
        pending = [row for row in rows if _is_queued(row, RunStatus.PENDING) and row.namespace == namespace]
        return sorted(pending, key=lambda row: (row.change, row.run_id))[:limit]


class TimerReads(Connected):
    """Implements TimerStore."""

    async def next_timers(self, *, until_ms: int, limit: int) -> list[Timer]:
        timers = [
            Timer(row.run_id, row.task_id, row.attempt, row.wake_ms)
            for kept in self._runs.values()
            if kept.row.status is RunStatus.RUNNING and self._is_mine(kept.row)
            for row in kept.tasks.values()
            if row.wake_ms is not None and row.wake_ms <= until_ms and row.status in TIMED
        ]
        return sorted(timers, key=lambda timer: (timer.wake_ms, timer.run_id, timer.task_id))[:limit]


class ListingReads(Connected):
    """Implements ListingStore."""

    async def list_runs(self, query: RunQuery) -> list[RunRow]:
        return page_of((kept.row for kept in self._runs.values() if kept.is_current), query)


class ChangeReads(Connected):
    """Implements ChangeStore."""

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

    async def last_change(self) -> int:
        return self._all.change


class HousekeepingReads(Connected):
    """Implements HousekeepingStore."""

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
            if kept.row.kind != ACTOR or kept.row.status is RunStatus.CANCELED
        ]
        return [row for _, _, row in sorted(ended, key=lambda found: found[:2])[:limit]]
