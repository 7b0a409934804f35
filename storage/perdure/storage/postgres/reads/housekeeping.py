"""Blobs that may be unused, and runs that ended long ago."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.storage.postgres.connected import Connected
from perdure.storage.postgres.connections import Connection
from perdure.storage.postgres.reads.runs import RUN, runs_of
from perdure.storage.postgres.rows import OF_WORKFLOWS
from perdure.storage.rows import BlobMark, RunRow


async def _marked_blobs(connection: Connection, after: str, limit: int) -> list[BlobMark]:
    records = await connection.fetch(
        "SELECT sha256, change, EXISTS (SELECT 1 FROM blob_uses WHERE blob_uses.sha256 = blob_marks.sha256) "
        "FROM blob_marks WHERE sha256 > $1 ORDER BY sha256 LIMIT $2",
        after,
        limit,
    )
    return [BlobMark(*record) for record in records]


async def _unused_blobs(connection: Connection, sha256s: Sequence[str]) -> list[str]:
    records = await connection.fetch(
        "SELECT sha256 FROM unnest($1::text[]) AS given(sha256) "
        "WHERE NOT EXISTS (SELECT 1 FROM blob_uses WHERE blob_uses.sha256 = given.sha256) "
        "AND NOT EXISTS (SELECT 1 FROM blob_marks WHERE blob_marks.sha256 = given.sha256)",
        list(sha256s),
    )
    return [sha256 for (sha256,) in records]


async def _finished_runs(connection: Connection, before_ms: int, limit: int) -> list[RunRow]:
    # A run has an `end_ms` exactly while its state is final.
    where = f"end_ms IS NOT NULL AND end_ms < $1 AND ({OF_WORKFLOWS} OR status = 'CANCELED')"
    return await runs_of(connection, f"{RUN} WHERE {where} ORDER BY end_ms, run_id LIMIT $2", before_ms, limit)


class HousekeepingReads(Connected):
    """Implements HousekeepingStore."""

    async def marked_blobs(self, *, after: str, limit: int) -> list[BlobMark]:
        return await self._read(lambda connection: _marked_blobs(connection, after, limit))

    async def unused_blobs(self, sha256s: Sequence[str]) -> list[str]:
        return await self._read(lambda connection: _unused_blobs(connection, sha256s))

    async def finished_runs(self, *, before_ms: int, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: _finished_runs(connection, before_ms, limit))
