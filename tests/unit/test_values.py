"""Values of tasks and inputs: read from the store once while they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

from perdure import wire
from perdure.model import Payload
from perdure.service.runs.values import ENTRY_BYTES, Values
from perdure.storage.rows import ValueKey


class Store:
    """Has a value for every key, and counts how often it is asked."""

    def __init__(self) -> None:
        self.reads: list[ValueKey] = []

    async def read_values(self, keys: Sequence[ValueKey]) -> list[bytes | None]:
        self.reads += keys
        return [wire.encode_payload(Payload("json/plain", key.task_id.encode())) for key in keys]


def values_over(store: Store, entries: int) -> Values:
    return Values(store, cache_bytes_max=entries * (ENTRY_BYTES + 1))


async def test_a_value_that_was_read_is_read_once() -> None:
    """After a restart a fan-out asks once for each dependent."""
    store = Store()
    values = values_over(store, 10)
    key = ValueKey("run", task_id="a")
    for _ in range(100):
        (payload,) = await values.read([key])
        assert payload.data == b"a"
        assert await values.find(key) == payload
    assert store.reads == [key]


async def test_a_value_in_use_outlives_those_that_are_not() -> None:
    store = Store()
    values = values_over(store, 2)
    used = ValueKey("run", task_id="u")
    await values.read([used])
    for name in "bcdefg":
        await values.read([ValueKey("run", task_id=name)])
        assert values.cached(used) is not None
    assert store.reads.count(used) == 1
