"""Members of a PostgreSQL store hear of a commit once, however much is in it, and not of what does not concern them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from perdure.model import RunStatus, TaskStatus
from perdure.storage.ports import Entry
from perdure.storage.postgres.connections import CHANNEL
from perdure.storage.postgres.store import PostgresMetadataStore
from perdure.storage.rows import EngineRow, RunRow, TaskRow
from perdure.storage.writes import AddEvent, AddRun, DeleteRun, Limit, Mail, PutTask, SetAsideRuns, SetRun
from postgres import PostgresServer

LONG_MS = 600_000
COUNT = 40


class Heard:
    """Listens to the channel. Notifications up to now are complete once one of our own has arrived."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._said: list[str] = []
        self._wake = asyncio.Event()

    async def start(self) -> None:
        def hear(_connection: object, _pid: int, _channel: str, said: str) -> None:
            self._said.append(said)
            self._wake.set()

        await self._connection.add_listener(CHANNEL, hear)

    async def said(self) -> list[str]:
        await self._connection.execute(f"SELECT pg_notify('{CHANNEL}', 'until here')")
        while "until here" not in self._said:
            self._wake.clear()
            await self._wake.wait()
        said, self._said = self._said[:-1], []
        return said


@pytest.fixture
async def url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    async with postgres_server.database() as url:
        yield url


@pytest.fixture
async def heard(url: str) -> AsyncIterator[Heard]:
    connection = await asyncpg.connect(url)
    heard = Heard(connection)
    await heard.start()
    yield heard
    await connection.close()


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresMetadataStore]:
    """Of a member that is not alone."""
    store, other = PostgresMetadataStore(url), PostgresMetadataStore(url)
    for each, name in ((store, "me"), (other, "other")):
        await each.open()
        await each.join(EngineRow(name), LONG_MS)
    yield store
    await store.close()
    await other.close()


def add(run_id: str) -> AddRun:
    return AddRun(RunRow(run_id, "default", run_id, RunStatus.RUNNING, "spec", 1, 1, owner="me"), b"graph")


def end(run_id: str) -> SetRun:
    return SetRun(run_id, RunStatus.FAILED, 5)


def task(run_id: str) -> PutTask:
    return PutTask(TaskRow(run_id, "t", 0, TaskStatus.SUCCESSFUL, 1, output=b"x", output_bytes=1))


NAMES = [f"run-{number}" for number in range(COUNT)]
BATCHES: dict[str, Sequence[Entry]] = {
    "new runs": [(add(f"new-{name}"), task(f"new-{name}")) for name in NAMES],
    "ends": [(task(name), end(name)) for name in NAMES],
    "letters": [(Mail(name, "event"),) for name in NAMES],
    "events": [(AddEvent(name, "e", "k", b"", 1), Mail(name, "event")) for name in NAMES],
    "limits": [(Limit("default", RunStatus.RUNNING, 999), add(f"new-{name}")) for name in NAMES],
    "deletions between others": [
        entry for name in NAMES for entry in [(end(name),), (DeleteRun(name),), (add(f"new-{name}"),)]
    ],
    "set aside between others": [(add("one"),), (SetAsideRuns(7),), (add("two"), Mail("two", "event"))],
    "more than a statement takes": [(add("large"), *(task("large") for _ in range(3)))]
    + [(PutTask(TaskRow("large", f"t{n}", n, TaskStatus.SUCCESSFUL, 1, output=bytes(9 << 20))),) for n in range(3)]
    + [(end("large"),)],
}


@pytest.mark.parametrize("entries", BATCHES.values(), ids=BATCHES)
async def test_a_commit_is_told_once(store: PostgresMetadataStore, heard: Heard, entries: Sequence[Entry]) -> None:
    await store.commit([(add(name),) for name in NAMES])
    assert await heard.said() == ["me"]
    await store.commit(entries)
    assert await heard.said() == ["me"]


async def test_changes_of_tasks_send_no_notification(store: PostgresMetadataStore, heard: Heard) -> None:
    await store.commit([(add(name),) for name in NAMES])
    await heard.said()
    await store.commit([(task(name),) for name in NAMES])
    assert await heard.said() == []


async def test_a_lone_engine_sends_no_notification(url: str, heard: Heard) -> None:
    store = PostgresMetadataStore(url)
    await store.open()
    await store.join(EngineRow("me"), LONG_MS)
    for entries in BATCHES.values():
        await store.commit(entries)
    assert await heard.said() == []
    await store.close()
