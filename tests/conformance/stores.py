"""The metadata stores that the suites run over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import MetadataStore
from perdure.storage.postgres.store import PostgresMetadataStore
from perdure.storage.sqlite.store import SqliteMetadataStore

STORES = ("memory", "sqlite", "postgres")


@asynccontextmanager
async def open_store(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[MetadataStore]:
    """The store that the parameter of the fixture names, empty and open."""
    store: MetadataStore
    match request.param:
        case "memory":
            store = MemoryMetadataStore()
        case "sqlite":
            store = SqliteMetadataStore(folder / "perdure.db")
        case _:
            async with request.getfixturevalue("postgres_server").database() as url:
                store = PostgresMetadataStore(url)
                await store.open()
                yield store
                await store.close()
            return
    await store.open()
    yield store
    await store.close()
