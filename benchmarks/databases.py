"""A throw-away PostgreSQL to measure on: the server of the tests, with its files where temporary files survive a
restart of the machine (so on a disk, not in memory) and with the settings that PostgreSQL has by default."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from postgres import SETTINGS, running_postgres

ON_A_DISK = "/var/tmp"
DEFAULTS = {"shared_buffers": "128MB", "autovacuum_naptime": "1min", "deadlock_timeout": "1s"}


@dataclass(frozen=True)
class Database:
    """`pid` is the server's, whose children work on the database."""

    url: str
    pid: int


@asynccontextmanager
async def throw_away() -> AsyncIterator[Database]:
    """A database with Perdure's tables, gone afterwards, the server too."""
    with running_postgres(ON_A_DISK, SETTINGS | DEFAULTS) as server:
        async with server.database() as url:
            yield Database(url, server.pid)
