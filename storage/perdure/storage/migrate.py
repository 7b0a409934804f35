"""`perdure migrate`: brings the store of a URL up to date, whatever its kind (see `steps`)."""

from __future__ import annotations

from urllib.parse import urlsplit

from perdure.storage.addresses import POSTGRES
from perdure.storage.steps import Phase
from perdure.storage.urls import metadata_store


async def migrate(url: str, phase: Phase | None = None) -> list[str]:
    """Apply the missing steps to the store of a URL, all or those of one phase. Returns the names of the applied steps.
    Raises StorageError, and ValueError if the store is in memory."""
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
