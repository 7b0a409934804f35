"""Answers to repeated calls whose run was deleted before the repeat came.

The first answer of a call may be lost, and the run be ended and deleted by others before the call is repeated. Without
the run's rows, the repeat of a start would make a new run. So the entry that deletes a run also stores tombstones:
under its request id, its workflow id, and the names of its latest events. They say what the run was, without values,
labels and metadata, and expire.

A tombstone answers a repeat only if the run was deleted after the call was made first. Then the answer is right for a
moment at which the caller waited for it. A call that was made after the deletion is a new one: it may be about the next
run of the id.

A start that attached to a run instead of making one leaves a tombstone as well, under its request id, because no run
has that id. It says which run that was, for repeats after a restart and at other engines.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

from perdure.model import RunStatus, frozen
from perdure.service.common.repeat import Repeat
from perdure.storage.ports import CorruptData, TombstoneStore
from perdure.storage.rows import EventName, RunRow, Tombstone
from perdure.storage.writes import DropTombstones, KeepTombstones, Write

KEPT_MS: Final = 3600 * 1000
"""The time for which tombstones are kept. A run that ended before that leaves none."""
EVENTS_MAX: Final = 1_000
"""The latest events of a run that leave tombstones."""
DROPPED_MAX: Final = 1_000
"""Expired tombstones that one deletion removes. It stores fewer than twice as many, so they do not pile up."""

_KEPT: Final = (
    "run_id", "namespace", "workflow_id", "create_ms", "update_ms", "start_ms", "end_ms", "name", "request_id",
    "request_digest", "resume_count", "change", "kind",
)  # fmt: skip

_DAMAGED: Final = (ValueError, TypeError, KeyError)


@frozen
class DeletedRun:
    """A deleted run, and the sequence of the event that was asked for (0: none was)."""

    row: RunRow
    sequence: int = 0


@frozen
class Attachment:
    """The run that a request attached to, as it was then, and the digest of the request."""

    row: RunRow
    digest: str


class Tombstones:
    """Makes tombstones and finds them."""

    def __init__(self, store: TombstoneStore, clock: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock

    async def of_deletion(self, row: RunRow) -> tuple[Write, ...]:
        """The writes that leave tombstones of a run, for the entry that deletes it. They remove expired ones, too."""
        now_ms = self._clock()
        drop = DropTombstones(now_ms, DROPPED_MAX)
        if row.damage or (row.status.is_final and row.update_ms < now_ms - KEPT_MS):
            return (drop,)
        names = [_workflow_key(row.namespace, row.workflow_id)]
        if row.request_id:
            names.append(_request_key(row.namespace, row.request_id))
        data = {"deleted_ms": now_ms, "status": row.status.value} | {name: getattr(row, name) for name in _KEPT}
        tombstones = {name: _tombstone(name, data, now_ms) for name in names}
        for event in await self._events(row.run_id):
            if event.arrived_ms >= now_ms - KEPT_MS:
                name = _event_key(row.namespace, row.workflow_id, event.key, event.event_id)
                tombstones[name] = _tombstone(name, data | {"sequence": event.sequence}, now_ms)
        return drop, KeepTombstones(tuple(tombstones.values()))

    def of_attaching(self, request_id: str, digest: str, row: RunRow) -> tuple[Write, ...]:
        """The writes that keep which run a request attached to. They remove expired tombstones, too."""
        now_ms = self._clock()
        data = {"status": row.status.value, "attached": digest} | {name: getattr(row, name) for name in _KEPT}
        tombstone = _tombstone(_attachment_key(row.namespace, request_id), data, now_ms)
        return DropTombstones(now_ms, DROPPED_MAX), KeepTombstones((tombstone,))

    async def attachment(self, namespace: str, request_id: str) -> Attachment | None:
        """The run that a request attached to. The request id alone tells a repeat, whenever it comes."""
        data = await self._read(_attachment_key(namespace, request_id))
        try:
            return None if data is None else Attachment(_row_of(data), data["attached"])
        except _DAMAGED:
            return None

    async def of_request(self, namespace: str, request_id: str, repeat: Repeat | None) -> DeletedRun | None:
        """The run that a request made, if it was deleted since the call was made first."""
        if repeat is None or not request_id:
            return None
        return await self._find(_request_key(namespace, request_id), repeat)

    async def of_workflow(self, namespace: str, workflow_id: str, repeat: Repeat | None) -> DeletedRun | None:
        """The last run of a workflow id that was deleted, if that was since the call was made first."""
        return None if repeat is None else await self._find(_workflow_key(namespace, workflow_id), repeat)

    async def of_event(
        self, namespace: str, workflow_id: str, key: str, event_id: str, repeat: Repeat | None
    ) -> DeletedRun | None:
        """The run that has had an event, if it was deleted since the call was made first."""
        if repeat is None:
            return None
        return await self._find(_event_key(namespace, workflow_id, key, event_id), repeat)

    async def _events(self, run_id: str) -> list[EventName]:
        try:
            return await self._store.latest_events(run_id, limit=EVENTS_MAX)
        except CorruptData:  # the run can be deleted all the same
            return []

    async def _find(self, key: str, repeat: Repeat) -> DeletedRun | None:
        if repeat.surely_since_ms <= 0:
            return None
        since_ms = self._clock() - repeat.surely_since_ms  # before the read, which may take long
        data = await self._read(key)
        try:
            if data is None or data["deleted_ms"] < since_ms:
                return None
            return DeletedRun(_row_of(data), data.get("sequence", 0))
        except _DAMAGED:
            return None

    async def _read(self, key: str) -> dict[str, Any] | None:
        found = await self._store.read_tombstone(key)
        try:
            data: dict[str, Any] | None = None if found is None else json.loads(found.data)
        except ValueError:  # damaged
            return None
        return data


def _row_of(data: dict[str, Any]) -> RunRow:
    """Raises one of _DAMAGED."""
    return RunRow(status=RunStatus(data["status"]), spec_key="", **{name: data[name] for name in _KEPT})


def _tombstone(key: str, data: dict[str, Any], now_ms: int) -> Tombstone:
    return Tombstone(key, json.dumps(data).encode(), now_ms + KEPT_MS)


def _request_key(*names: str) -> str:
    return _key("request", *names)


def _attachment_key(*names: str) -> str:
    return _key("attachment", *names)


def _workflow_key(*names: str) -> str:
    return _key("workflow", *names)


def _event_key(*names: str) -> str:
    return _key("event", *names)


def _key(*names: str) -> str:
    """A short key of long names."""
    return sha256(json.dumps(names).encode()).hexdigest()
