"""Values by task or input: the store, with a bounded cache (LRU) before it.

Values that are read here may be given to clients: they are durable, or outputs of volatile tasks (`checkpoint=False`).
Outputs of volatile tasks are pinned in memory as long as a task may need them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from perdure import wire
from perdure.bounded import Bounded
from perdure.model import Payload
from perdure.storage.ports import CorruptData, ValueStore
from perdure.storage.rows import ValueKey

CACHE_BYTES_MAX: Final = 64 * 1024 * 1024
ENTRY_BYTES: Final = 500
"""The approximate cost of an entry besides its data."""


class Values:
    """Implements the executors' ValueReader."""

    def __init__(self, store: ValueStore, *, cache_bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._store = store
        self._cache: Bounded[ValueKey, Payload] = Bounded(cache_bytes_max, _weight)
        self._pinned: dict[str, dict[str, Payload]] = {}  # by run, by task

    def keep(self, key: ValueKey, payload: Payload) -> None:
        """Cache a value that has just become durable, which dependent tasks will probably need soon."""
        self._cache.keep(key, payload)

    def forget(self, key: ValueKey) -> None:
        """The value was removed from the store. A call of an actor may get the id of a forgotten one."""
        self._cache.drop(key)

    def pin(self, key: ValueKey, payload: Payload) -> None:
        """Keep a value that is not in the store."""
        self._pinned.setdefault(key.run_id, {})[key.task_id] = payload

    def unpin(self, key: ValueKey) -> None:
        if (values := self._pinned.get(key.run_id)) is not None:
            values.pop(key.task_id, None)

    def unpin_run(self, run_id: str) -> None:
        self._pinned.pop(run_id, None)

    def cached(self, key: ValueKey) -> Payload | None:
        payload = self._cache.get(key)
        if payload is None and (pinned := self._pinned.get(key.run_id)) is not None:
            return pinned.get(key.task_id)
        return payload

    async def find(self, key: ValueKey) -> Payload | None:
        """The value, or None if there is none."""
        if (payload := self.cached(key)) is not None:
            return payload
        (data,) = await self._store.read_values([key])
        return None if data is None else self._kept(key, data)

    async def find_stored(self, key: ValueKey) -> Payload | None:
        """The same without the cache, for a value that another engine may have replaced."""
        (data,) = await self._store.read_values([key])
        return None if data is None else _decode(key, data)

    async def read(self, keys: Sequence[ValueKey]) -> list[Payload]:
        found = {key: payload for key in keys if (payload := self.cached(key)) is not None}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        for key, data in zip(missing, await self._store.read_values(missing) if missing else (), strict=True):
            if data is None:
                raise CorruptData(f"run {key.run_id} has no value of {_name(key)}", subject=key.run_id)
            found[key] = self._kept(key, data)
        return [found[key] for key in keys]

    def _kept(self, key: ValueKey, data: bytes) -> Payload:
        """Cache a value that was just read, because other dependents of the task will ask for it too. A value that came
        in meanwhile is newer."""
        payload = _decode(key, data)
        if key not in self._cache:
            self._cache.keep(key, payload)
        return payload


def _weight(payload: Payload) -> int:
    return len(payload.data) + ENTRY_BYTES


def _name(key: ValueKey) -> str:
    return f"task {key.task_id!r}" if key.task_id else f"input {key.input!r}"


def _decode(key: ValueKey, data: bytes) -> Payload:
    try:
        return wire.decode_payload(data)
    except (DecodeError, ValueError) as error:
        message = f"the value of {_name(key)} of run {key.run_id} does not decode: {error}"
        raise CorruptData(message, subject=key.run_id) from error
