"""`perdure migrate`: brings the store of a URL up to date, whatever its kind (see `steps`)."""

from __future__ import annotations

from urllib.parse import urlsplit

from perdure.storage.addresses import POSTGRES
from perdure.storage.steps import Phase
from perdure.storage.urls import metadata_store


async def migrate(url: str, phase: Phase | None = None) -> list[str]:
    """Bring the store of a URL up to date, or one phase of it; gives the names of the steps applied now.
    Raises StorageError, and ValueError for what is no store that lasts."""
    scheme = urlsplit(url).scheme
    if scheme in POSTGRES:
        try:
            from perdure.storage.postgres.schema import migrate as migrate_postgres
        except ModuleNotFoundError as error:
            raise ValueError(f"PostgreSQL needs more packages: pip install 'perdure[server]' ({error})") from error
        return await migrate_postgres(url, phase)
    if scheme == "memory":
        raise ValueError("what is in memory needs no migration")
    store = metadata_store(url)
    try:
        await store.open()
    finally:
        await store.close()
    return []
