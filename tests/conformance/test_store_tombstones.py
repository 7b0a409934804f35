"""Promises of every metadata store about tombstones, and about the names of events that they are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conformance.stores import STORES, open_store
from perdure.model import RunStatus
from perdure.storage.ports import MetadataStore
from perdure.storage.rows import EventName, RunRow, Tombstone
from perdure.storage.writes import AddEvent, AddRun, ConsumeEvent, DeleteRun, DropTombstones, KeepTombstones, SetRun


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetadataStore]:
    async with open_store(request, tmp_path) as store:
        yield store


def tombstone(number: int, data: bytes = b"data", expires_ms: int | None = None) -> Tombstone:
    return Tombstone(f"{number:064}", data, number if expires_ms is None else expires_ms)


async def left(store: MetadataStore, count: int) -> list[int]:
    return [number for number in range(count) if await store.read_tombstone(f"{number:064}") is not None]


def add(name: str) -> AddRun:
    return AddRun(RunRow(name, "default", name, RunStatus.RUNNING, "spec", create_ms=1, update_ms=1), b"graph")


async def test_tombstones_are_read_by_key_and_replaced(store: MetadataStore) -> None:
    await store.commit([(KeepTombstones((tombstone(1), tombstone(2, b"\0\xff"))),)])
    assert await store.read_tombstone(tombstone(1).key) == tombstone(1)
    assert await store.read_tombstone(tombstone(2).key) == tombstone(2, b"\0\xff")
    assert await store.read_tombstone(tombstone(3).key) is None
    again = tombstone(1, b"other", 9)
    await store.commit(
        [(KeepTombstones((again,)),), (KeepTombstones((tombstone(3),)), KeepTombstones((tombstone(3, b"late"),)))]
    )
    assert await store.read_tombstone(again.key) == again
    assert await store.read_tombstone(tombstone(3).key) == tombstone(3, b"late")


async def test_the_earliest_expired_tombstones_go(store: MetadataStore) -> None:
    await store.commit([(KeepTombstones(tuple(tombstone(number) for number in range(8))),)])
    await store.commit([(DropTombstones(5, 2),)])
    assert await left(store, 8) == [2, 3, 4, 5, 6, 7]
    await store.commit([(DropTombstones(5, 100),)])
    assert await left(store, 8) == [5, 6, 7]


async def test_a_tombstone_that_is_kept_and_dropped_in_one_commit(store: MetadataStore) -> None:
    await store.commit([(KeepTombstones((tombstone(1), tombstone(2))),)])
    renewed = tombstone(1, b"new", 9)
    await store.commit([(DropTombstones(5, 9), KeepTombstones((renewed, tombstone(3))), DropTombstones(5, 9))])
    assert await left(store, 4) == [1]
    assert await store.read_tombstone(renewed.key) == renewed


async def test_a_tombstone_outlives_its_run_and_a_refused_entry_leaves_none(store: MetadataStore) -> None:
    await store.commit([(add("a"),)])
    refused = SetRun("a", RunStatus.FAILED, 5, expects=RunStatus.PENDING)
    await store.commit([(refused, DeleteRun("a"), KeepTombstones((tombstone(1),)))])
    assert await left(store, 2) == []
    await store.commit([(DeleteRun("a"), DropTombstones(0, 9), KeepTombstones((tombstone(1),)))])
    assert await store.get_run("a") is None
    assert await left(store, 2) == [1]


async def test_names_of_events_come_from_the_last_one_on(store: MetadataStore) -> None:
    events = [(AddEvent("a", f"e{number}", "k", b"x" * 100, 10 + number),) for number in range(3)]
    await store.commit([(add("a"), add("b")), *events, (AddEvent("b", "e9", "k", b"", 9),)])
    found = await store.latest_events("a", limit=2)
    assert [(event.key, event.event_id, event.arrived_ms) for event in found] == [("k", "e2", 12), ("k", "e1", 11)]
    await store.commit([(ConsumeEvent("a", found[0].sequence, "t"),)])
    assert await store.latest_events("a", limit=9) == [*found, EventName(found[1].sequence - 1, "k", "e0", 10)]
    assert await store.latest_events("none", limit=9) == []
