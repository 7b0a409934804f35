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


async def test_a_value_that_was_made_anew_replaces_the_old_one() -> None:
    store = Store()
    values = values_over(store, 10)
    key = ValueKey("run", task_id="a")
    old, new = Payload("json/plain", b"old"), Payload("json/plain", b"new")
    values.keep(key, old)
    values.keep(key, new)
    assert values.cached(key) == new
    values.forget(key)
    assert values.cached(key) is None


async def test_a_read_that_was_overtaken_by_a_new_value_does_not_replace_it() -> None:
    new = Payload("json/plain", b"new")

    class Slow(Store):
        async def read_values(self, keys: Sequence[ValueKey]) -> list[bytes | None]:
            found = await super().read_values(keys)
            values.keep(key, new)
            return found

    key = ValueKey("run", task_id="a")
    values = values_over(Slow(), 10)
    await values.find(key)
    assert values.cached(key) == new


async def test_a_value_that_others_may_replace_is_read_from_the_store_each_time() -> None:
    store = Store()
    values = values_over(store, 10)
    key = ValueKey("run", task_id="a")
    values.keep(key, Payload("json/plain", b"old"))
    for _ in range(2):
        payload = await values.find_stored(key)
        assert payload is not None
        assert payload.data == b"a"
    assert store.reads == [key, key]
