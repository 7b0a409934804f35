"""Examines a store for `perdure doctor`: whether it exists, its state and its speed. Changes nothing."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import sqlite3
import statistics
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from perdure.storage.addresses import POSTGRES, shown
from perdure.storage.ports import StorageError
from perdure.storage.sqlite.check import damages_of
from perdure.storage.sqlite.mark import lost, read_mark
from perdure.storage.steps import migrations
from perdure.storage.urls import database_path

TRIES: Final = 5


async def examine_rows(url: str, kinds: Collection[str] = ()) -> list[str] | None:
    """The damages of a database, each as a sentence. With `kinds`, runs of other kinds are damage as well. None: the
    store is not a database, or does not exist yet. Reads all of it. Raises StorageError if nothing can be read."""
    scheme = urlsplit(url).scheme
    if scheme in POSTGRES:
        from perdure.storage.postgres.check import damages_of as damages_of_postgres

        return await damages_of_postgres(url, kinds)
    if scheme == "memory":
        return None
    path = database_path(url)
    if not path.exists():
        marked = read_mark(path)
        return [str(lost(path, 0, marked))] if marked else None
    try:
        return await asyncio.to_thread(damages_of, path, kinds)
    except sqlite3.Error as error:
        raise StorageError(f"{path} cannot be read: {error}") from error


async def examine_metadata(url: str) -> Mapping[str, Any]:
    """Facts about a metadata store by name. Raises StorageError, saying what to do, if it cannot be used.

    `milliseconds` is the time of a durable write, `skew_ms` by how much the database's clock is ahead of ours,
    `free_bytes` the free space of the disk.
    """
    scheme = urlsplit(url).scheme
    if scheme in POSTGRES:
        return await _postgres(url)
    if scheme == "memory":
        return {"kind": "memory", "note": "nothing is kept when the engine ends"}
    return await asyncio.to_thread(_sqlite, database_path(url))


def _sqlite(path: Path) -> Mapping[str, Any]:
    folder = next((folder for folder in path.parents if folder.is_dir()), Path("/"))
    if not os.access(folder, os.W_OK):
        raise StorageError(f"{folder} may not be written to; make it this user's")
    facts: dict[str, Any] = {
        "kind": "sqlite",
        "path": str(path),
        "library": sqlite3.sqlite_version,
        "free_bytes": shutil.disk_usage(folder).free,
        "milliseconds": _fsync_ms(folder),
    }
    if not path.exists():
        return {**facts, "note": "there is no database yet; the engine makes it"}
    facts["is_in_use"] = _is_locked(path.with_name(path.name + ".lock"))
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            connection.execute("PRAGMA integrity_check(1)").fetchone()  # raises if the pages are unreadable
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            applied = [0]
            if "migrations" in tables:
                applied += [number for (number,) in connection.execute("SELECT number FROM migrations")]
        finally:
            connection.close()
    except (sqlite3.Error, UnicodeDecodeError) as error:  # a message of SQLite may have a damaged name
        raise StorageError(f"{path} is no database that can be read: {error}; restore a backup") from error
    known = max(step.number for step in migrations("sqlite"))
    if max(applied) > known:
        raise StorageError(
            f"{path} was made by a newer version of Perdure (migration {max(applied)}); install that version"
        )
    return {**facts, "schema": max(applied), "schema_known": known}


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _fsync_ms(folder: Path) -> float:
    """The median time of writing a page and flushing it to the disk."""
    path = folder / f".perdure-doctor-{secrets.token_hex(6)}"
    took = []
    try:
        with path.open("xb", buffering=0) as file:
            for _ in range(TRIES):
                start_s = time.perf_counter()
                file.write(bytes(4096))
                os.fsync(file.fileno())
                took.append((time.perf_counter() - start_s) * 1000)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written to: {error}") from error
    finally:
        path.unlink(missing_ok=True)
    return round(statistics.median(took), 2)


async def _postgres(url: str) -> Mapping[str, Any]:
    from perdure.storage.postgres.connections import connect, meaning
    from perdure.storage.postgres.schema import known, verify

    with meaning(url):
        connection = await connect(url)
        try:
            before_ms = time.time() * 1000
            server_ms = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8 * 1000")
            after_ms = time.time() * 1000
            await verify(connection, url)
            settings = dict(
                await connection.fetch(
                    "SELECT name, setting FROM pg_settings "
                    "WHERE name IN ('fsync', 'full_page_writes', 'server_version', 'synchronous_commit')"
                )
            )
            applied = await connection.fetchval("SELECT max(number) FROM migrations")
            has_checksums = await connection.fetchval("SELECT current_setting('data_checksums', true) = 'on'")
            took = []
            for _ in range(TRIES):
                start_s = time.perf_counter()
                async with connection.transaction():  # writes to the write-ahead log only
                    await connection.fetchval("SELECT pg_logical_emit_message(true, 'perdure', 'doctor')")
                took.append((time.perf_counter() - start_s) * 1000)
        finally:
            connection.terminate()
    skew_ms = server_ms - (before_ms + after_ms) / 2
    return {
        "kind": "postgres",
        "url": shown(url),
        "server": settings["server_version"],
        "schema": applied,
        "schema_known": known(),
        "skew_ms": round(skew_ms, 1),
        "round_trip_ms": round(after_ms - before_ms, 2),
        "milliseconds": round(statistics.median(took), 2),
        "has_checksums": bool(has_checksums),
        "unsafe": [f"{name} is {settings[name]}" for name in ("fsync", "full_page_writes") if settings[name] != "on"],
    }
