"""Promises of every metadata store about announced functions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conformance.stores import STORES, open_store
from perdure.storage.ports import MetadataStore
from perdure.storage.rows import FunctionRow


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetadataStore]:
    async with open_store(request, tmp_path) as store:
        yield store


async def test_functions_are_read_by_name_and_version(store: MetadataStore) -> None:
    assert await store.read_functions() == []
    charge = [FunctionRow("billing.charge", version, b"info", 7) for version in ("", "10", "9")]
    refund = FunctionRow("billing.Refund", "1", b"\0" * 100_000, 8)
    await store.write_functions([*reversed(charge), refund])
    assert await store.read_functions() == [refund, *charge]


async def test_a_function_that_is_written_again_is_replaced(store: MetadataStore) -> None:
    row, other = FunctionRow("a", "1", b"old", 7), FunctionRow("a", "2", b"other", 7)
    await store.write_functions([row, other])
    again = FunctionRow("a", "1", b"new", 8)
    for _ in range(2):
        await store.write_functions([again])
        assert await store.read_functions() == [again, other]


async def test_writing_none_changes_nothing(store: MetadataStore) -> None:
    await store.write_functions([FunctionRow("a", "", b"", 1)])
    await store.write_functions([])
    assert len(await store.read_functions()) == 1
