"""Blobs that may be unused, and runs that ended long ago."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from perdure.storage.rows import BlobMark, RunRow
from perdure.storage.sqlite.connected import Connected
from perdure.storage.sqlite.reads.runs import RUN
from perdure.storage.sqlite.rows import run_of
from perdure.storage.sqlite.runs import OF_WORKFLOWS


def _marked_blobs(sql: sqlite3.Connection, after: str, limit: int) -> list[BlobMark]:
    return [
        BlobMark(sha256, change, bool(is_used))
        for sha256, change, is_used in sql.execute(
            "SELECT sha256, change, EXISTS (SELECT 1 FROM blob_uses WHERE blob_uses.sha256 = blob_marks.sha256) "
            "FROM blob_marks WHERE sha256 > ? ORDER BY sha256 LIMIT ?",
            (after, limit),
        )
    ]


def _unused_blobs(sql: sqlite3.Connection, sha256s: Sequence[str]) -> list[str]:
    found = sql.execute(
        "SELECT given.value FROM json_each(?) AS given "
        "WHERE NOT EXISTS (SELECT 1 FROM blob_uses WHERE blob_uses.sha256 = given.value) "
        "AND NOT EXISTS (SELECT 1 FROM blob_marks WHERE blob_marks.sha256 = given.value)",
        (json.dumps(list(sha256s)),),
    )
    return [sha256 for (sha256,) in found]


def _finished_runs(sql: sqlite3.Connection, before_ms: int, limit: int) -> list[RunRow]:
    order = "ORDER BY end_ms, run_id LIMIT ?"
    # A run has an `end_ms` exactly while its state is final.
    where = f"end_ms IS NOT NULL AND end_ms < ? AND ({OF_WORKFLOWS} OR status = 'CANCELED')"
    return [run_of(values) for values in sql.execute(f"{RUN} WHERE {where} {order}", (before_ms, limit))]


class HousekeepingReads(Connected):
    """Implements HousekeepingStore."""

    async def marked_blobs(self, *, after: str, limit: int) -> list[BlobMark]:
        return await self._read(lambda connection: _marked_blobs(connection, after, limit))

    async def unused_blobs(self, sha256s: Sequence[str]) -> list[str]:
        return await self._read(lambda connection: _unused_blobs(connection, sha256s))

    async def finished_runs(self, *, before_ms: int, limit: int) -> list[RunRow]:
        return await self._read(lambda connection: _finished_runs(connection, before_ms, limit))
