"""A cache of decoded definitions of runs (graphs, for instance), before the store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from perdure.bounded import Bounded
from perdure.service.common.aside import aside, is_large_spec
from perdure.service.machines.kinds import Kind, Kinds
from perdure.storage.ports import CorruptData, SpecStore

TASKS_MAX: Final = 50_000
"""Tasks of the definitions in the cache."""


class Definitions:
    """Reads the definitions of runs."""

    def __init__(self, store: SpecStore, kinds: Kinds) -> None:
        self.kinds = kinds
        self._store = store
        self._cache: Bounded[tuple[str, str], tuple[Kind[Any], Any]] = Bounded(TASKS_MAX, _size)

    def keep(self, kind: Kind[Any], key: str, definition: Any) -> None:
        """Cache the definition of a run that was just made."""
        place = kind.name, key
        if self._cache.get(place) is None:
            self._cache.keep(place, (kind, definition))

    async def read(self, kind: Kind[Any], keys: Iterable[str]) -> dict[str, Any]:
        """The definitions of these keys. A missing or damaged one raises CorruptData."""
        wanted = set(keys)
        found = {key: known[1] for key in wanted if (known := self._cache.get((kind.name, key))) is not None}
        missing = wanted - found.keys()
        stored = await self._store.read_specs(missing) if missing else {}
        for key in missing:
            if key not in stored:
                raise CorruptData(f"the {kind.name} {key} is not in the store", subject=key)
            decode = partial(_decoded, kind, key, stored[key])
            found[key] = await aside(decode) if is_large_spec(stored[key]) else decode()
            self.keep(kind, key, found[key])
        return found


def _size(known: tuple[Kind[Any], Any]) -> int:
    kind, definition = known
    return kind.size(definition)


def spec_key(data: bytes) -> str:
    """Names a serialized definition by its content."""
    return hashlib.sha256(data).hexdigest()


def _decoded(kind: Kind[Any], key: str, data: bytes) -> Any:
    if spec_key(data) != key:
        raise CorruptData(f"table specs, row {key}: the value of data has another hash", subject=key)
    try:
        return kind.decode(data)
    except ValueError as error:
        raise CorruptData(f"the {kind.name} {key} does not decode: {error}", subject=key) from error
