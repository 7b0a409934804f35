"""Damage of what is stored: the run that needs it fails and names it, no other one is touched; and blobs
that are away for a while cost nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

import perdure
from perdure import RunStatus
from perdure.model import BlobRef
from perdure.service.app import running_server
from perdure.service.common.settings import Settings
from perdure.storage.blobs.filesystem import FilesystemBlobStore
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.storage.blobs.s3 import S3BlobStore
from perdure.storage.ports import StorageFull, StorageUnavailable
from perdure.storage.urls import blob_store
from perdure.worker import blobs as worker_blobs
from s3 import S3Server

LARGE = 200_000


@perdure.task
def make(letter: str) -> bytes:
    return letter.encode() * LARGE


@perdure.task
def measure(data: bytes, _go: object) -> int:
    return len(data)


@perdure.task
def add(left: int, right: int) -> int:
    return left + right


@asynccontextmanager
async def serving(folder: Path, blobs: str = "") -> AsyncIterator[perdure.Client]:
    settings = Settings(listen="127.0.0.1:0", storage=str(folder), blobs=blobs, executor="local")
    async with running_server(settings) as server, perdure.Client(server.address) as client:
        yield client


def blob_of(folder: Path, letter: str) -> Path:
    """The file with the value that was made of a letter."""
    found = [path for path in (folder / "blobs").glob("??/??/*") if letter.encode() * 1000 in path.read_bytes()]
    assert len(found) == 1
    return found[0]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "wrong hash": flip,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("is_restarted", [False, True], ids=["same engine", "next engine"])
async def test_a_run_whose_value_is_damaged_fails(
    tmp_path: Path, damage: Callable[[Path], object], is_restarted: bool
) -> None:
    graphs = {letter: measure.bind(make.bind(letter), perdure.event("go")) for letter in "ab"}
    async with serving(tmp_path) as client:
        for letter, graph in graphs.items():
            await client.start(graph, workflow_id=letter)
            await values_made(client, letter)
        path = blob_of(tmp_path, "a")
        damage(path)
        if not is_restarted:
            await check(client, path.name)
    if is_restarted:
        async with serving(tmp_path) as client:
            await check(client, path.name)


OBJECTS: dict[str, Callable[[bytes], bytes | None]] = {
    "wrong hash": lambda data: data[:-1] + b"!",
    "cut off": lambda data: data[:-100],
    "missing": lambda data: None,
}


@pytest.mark.parametrize("damage", OBJECTS.values(), ids=OBJECTS)
async def test_a_run_whose_value_on_s3_is_damaged_fails(
    tmp_path: Path, s3_server: S3Server, damage: Callable[[bytes], bytes | None]
) -> None:
    url = s3_server.blobs_url("off")
    graphs = {letter: measure.bind(make.bind(letter), perdure.event("go")) for letter in "ab"}
    async with serving(tmp_path, url) as client:
        for letter, graph in graphs.items():
            await client.start(graph, workflow_id=letter)
            await values_made(client, letter)
        store = blob_store(url)
        assert isinstance(store, S3BlobStore)
        values = {blob.sha256: bytes(await store.get(blob.sha256)) async for blob in store.list()}
        (sha256,) = (sha256 for sha256, data in values.items() if b"a" * LARGE in data)
        where = {"Bucket": store._bucket, "Key": store._key(sha256, "data")}
        requests = await store._clients.get()
        data = damage(values[sha256])
        await (requests.delete_object(**where) if data is None else requests.put_object(**where, Body=data))
        await store.close()
        await check(client, sha256)


async def values_made(client: perdure.Client, workflow_id: str) -> None:
    async for update in client.handle(workflow_id).watch():
        if update.task is not None and update.task.status is perdure.TaskStatus.SUCCESSFUL:
            return
    raise AssertionError("it ended")


async def check(client: perdure.Client, sha256: str) -> None:
    for letter in "ab":
        await client.handle(letter).send_event("go")
    with pytest.raises(perdure.WorkflowExecutionError, match=f"data is lost: blob {sha256}"):
        await client.handle("a").output()
    failure = await client.handle("a").outcome()
    assert "perdure.CorruptData" in repr(failure)
    assert [task.attempts async for task in client.handle("a").tasks(perdure.TaskStatus.FAILED)] == [1]
    assert await client.handle("b").output() == LARGE
    assert await client.run(measure.bind(make.bind("c"), 1)) == LARGE


ROWS = {
    "graph garbled": """UPDATE specs SET data = x'ff00ff'
        WHERE key = (SELECT spec_key FROM runs WHERE workflow_id = 'a')""",
    "graph gone": "DELETE FROM specs WHERE key = (SELECT spec_key FROM runs WHERE workflow_id = 'a')",
    "record of nothing": """UPDATE tasks SET task_id = 'nowhere'
        WHERE run_id = (SELECT run_id FROM runs WHERE workflow_id = 'a')""",
    "event garbled": """UPDATE events SET payload = x'ff00ff'
        WHERE run_id = (SELECT run_id FROM runs WHERE workflow_id = 'a')""",
    "value gone": """UPDATE tasks SET output = NULL
        WHERE output IS NOT NULL AND run_id = (SELECT run_id FROM runs WHERE workflow_id = 'a')""",
    "value garbled": """UPDATE tasks SET output = x'ff00ff'
        WHERE output IS NOT NULL AND run_id = (SELECT run_id FROM runs WHERE workflow_id = 'a')""",
}


@pytest.mark.parametrize("statement", ROWS.values(), ids=ROWS)
async def test_a_run_whose_row_is_damaged_fails(tmp_path: Path, statement: str) -> None:
    async with serving(tmp_path) as client:
        for number, name in enumerate("ab"):
            await client.start(add.bind(add.bind(number, 1), perdure.event("go")), workflow_id=name)
            await values_made(client, name)
            await client.handle(name).send_event("beside", 1)
    connection = sqlite3.connect(tmp_path / "perdure.db")
    with connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()
    async with serving(tmp_path) as client:
        with suppress(perdure.errors.WorkflowAlreadyFinalError):  # it may have failed at the start
            await client.handle("a").send_event("go", 10)
        await client.handle("b").send_event("go", 10)
        assert await client.handle("b").output() == 12
        with pytest.raises(perdure.WorkflowExecutionError, match=r"perdure\.CorruptData"):
            await client.handle("a").output()
        assert (await client.handle("a").status()).status is RunStatus.FAILED
        assert await client.run(add.bind(1, 2)) == 3


class Away(MemoryBlobStore):
    """Refuses so many calls of each kind."""

    def __init__(self, error: type[Exception], times: int) -> None:
        super().__init__()
        self._error = error
        self.left = {"put": times, "get": times}

    def _refuse(self, what: str) -> None:
        if self.left[what]:
            self.left[what] -= 1
            raise self._error("for a while")

    async def put(self, chunks: Iterable[bytes | memoryview]) -> BlobRef:
        self._refuse("put")
        return await super().put(chunks)

    async def get(self, sha256: str) -> memoryview:
        self._refuse("get")
        return await super().get(sha256)


@pytest.mark.parametrize("error", [StorageUnavailable, StorageFull])
async def test_blobs_that_are_away_for_a_while_cost_no_attempt(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_blobs, "PAUSE_FIRST_S", 0.001)
    monkeypatch.setattr(worker_blobs, "PAUSE_MAX_S", 0.001)
    away = Away(error, 20)
    settings = Settings(listen="127.0.0.1:0", storage="memory:", executor="local")
    async with running_server(settings, blobs=away) as server, perdure.Client(server.address) as client:
        assert await client.run(measure.bind(make.bind("x"), 1), workflow_id="w") == LARGE
        assert [task.attempts async for task in client.handle("w").tasks()] == [1, 1]
    assert away.left == {"put": 0, "get": 0}


async def test_damage_of_files_is_found_by_their_hash(tmp_path: Path) -> None:
    """The tests above rely on this: another process detects a blob that was changed in place."""
    store = FilesystemBlobStore(tmp_path)
    blob = await store.put([b"x" * LARGE])
    flip(store.path_of(blob.sha256))
    with pytest.raises(Exception, match=blob.sha256):
        await FilesystemBlobStore(tmp_path).get(blob.sha256)
