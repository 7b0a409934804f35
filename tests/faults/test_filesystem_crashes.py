"""Whatever dies, and wherever: what was acknowledged is there, and nothing is there by halves.

The blob store is crashed at its first call to the file system, then at the second, ... until a run has
none left to crash at, with and without a power failure after it. The database loses its process by
SIGKILL in the middle of commits.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from faults.disk import Crash, Disk, When
from perdure.model import RunStatus, TaskStatus
from perdure.storage.blobs.filesystem import TEMPORARY, FilesystemBlobStore
from perdure.storage.ports import BlobNotFound
from perdure.storage.rows import RunRow, TaskRow, ValueKey
from perdure.storage.sqlite.store import SqliteMetadataStore
from perdure.storage.writes import AddRun, PutTask, Write

OLD, NEW, PIECES, GONE = b"old" * 1000, b"new" * 1000, b"pieces" * 1000, b"gone" * 1000


def name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def work(store: FilesystemBlobStore, acknowledged: set[bytes]) -> None:
    """All that changes a store: a new blob, one that is there already, one in pieces, one removed."""
    await store.put([NEW[:1000], NEW[1000:]])
    acknowledged.add(NEW)
    await store.put([OLD])
    async with store.writer() as writer:
        await writer.write(PIECES[:5000])
        await writer.write(PIECES[5000:])
        await writer.commit()
        acknowledged.add(PIECES)
    acknowledged.discard(GONE)
    await store.delete(name(GONE))


async def check(store: FilesystemBlobStore, acknowledged: set[bytes], where: str) -> None:
    """Every blob is there whole, or not at all; those that were acknowledged are there."""
    seen = {blob.sha256: blob.size async for blob in store.list()}
    for data in (OLD, NEW, PIECES, GONE):
        assert await store.size(name(data)) in (None, len(data)), where
        try:
            assert await store.get(name(data)) == data, where
            assert seen.pop(name(data)) == len(data), where
        except BlobNotFound:
            assert data not in acknowledged, where
    assert not seen, where


def grow_old(folder: Path) -> None:
    for path in (folder / TEMPORARY).iterdir():
        os.utime(path, (1, 1))


@pytest.mark.parametrize("after", ["nothing", "power lost", "power lost, names kept"])
@pytest.mark.parametrize("when", ["before", "in", "after"])
async def test_blobs_survive_a_crash_at_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: When, after: str
) -> None:
    disk = Disk(monkeypatch)
    calls: list[str] = []
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        acknowledged = {OLD, GONE}
        for data in (OLD, GONE):
            await FilesystemBlobStore(folder).put([data])
        disk.arm(number, when)
        with suppress(Crash):
            await work(FilesystemBlobStore(folder), acknowledged)
        if not (has_crashed := disk.has_crashed):
            calls = disk.calls
        where = f"crash {when} call {number}, {disk.calls[-1]}"
        disk.heal()
        if after != "nothing":
            disk.lose_power(folder, keep_names="kept" in after)
        await check(FilesystemBlobStore(folder), acknowledged, where)

        await work(FilesystemBlobStore(folder), acknowledged)
        grow_old(folder)
        again = FilesystemBlobStore(folder)
        await again.put([GONE])
        assert list((folder / TEMPORARY).iterdir()) == [], where
        await check(again, {OLD, NEW, PIECES, GONE}, where)
        if not has_crashed:
            break
    assert set(calls) == {"open", "write", "fsync", "mkdir", "replace", "unlink"}
    assert number == len(calls) + 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_was_acknowledged_after_a_crash_survives_the_loss_of_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: When
) -> None:
    """The successor finds names that its predecessor did not live to flush."""
    disk = Disk(monkeypatch)
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        disk.arm(number, when)
        with suppress(Crash):
            await FilesystemBlobStore(folder).put([NEW])
        has_crashed = disk.has_crashed
        where = f"crash {when} call {number}, {disk.calls[-1]}"
        disk.heal()
        await FilesystemBlobStore(folder).put([NEW])
        disk.lose_power(folder, keep_names=False)
        await check(FilesystemBlobStore(folder), {NEW}, where)
        if not has_crashed:
            break
    assert number > 10


# ------------------------------------------------------------------------------ the database

BATCH = 20
TASKS = 5
ROUNDS = 12


def entries(batch: int) -> list[tuple[Write, ...]]:
    """Transactions that must be whole: runs with all their tasks."""
    made: list[tuple[Write, ...]] = []
    for index in range(BATCH):
        run = f"run-{batch:06}-{index:02}"
        row = RunRow(run, "default", run, RunStatus.RUNNING, f"spec-{batch}", create_ms=1, update_ms=1)
        tasks = [
            PutTask(TaskRow(run, f"t{task}", task, TaskStatus.SUCCESSFUL, 1, output=bytes(200), output_bytes=200))
            for task in range(TASKS)
        ]
        made.append((AddRun(row, bytes(500), {"x": f"{batch}".encode()}), *tasks))
    return made


WRITER = """
import asyncio, os, sys
from faults.test_filesystem_crashes import entries
from perdure.storage.sqlite.store import SqliteMetadataStore

async def main(path, first):
    store = SqliteMetadataStore(path)
    await store.open()
    batch = first
    while True:
        await store.commit(entries(batch))
        os.write(1, b"%d\\n" % batch)
        batch += 1

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def write_until_killed(path: Path, first: int, acks: int, more: int) -> int:
    """Gives the number of the last batch that was acknowledged; `more` bytes of log later it is killed."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(first)], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        log = path.with_name(path.name + "-wal")
        for _ in range(acks):
            assert process.stdout.readline()
        size = log.stat().st_size
        for _ in range(2000):  # bounded: a checkpoint keeps the log at its size
            if not 0 <= log.stat().st_size - size < more:
                break
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read().split(b"\n")
        last = first + acks - 1
    whole = [int(line) for line in said[:-1]]  # a line that was cut is no acknowledgement
    return max([last, *whole])


async def test_sqlite_keeps_every_acknowledged_commit_and_no_part_of_another(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    luck = random.Random(7)
    first = 0
    for _ in range(ROUNDS):
        last = write_until_killed(path, first, acks=luck.randint(1, 12), more=luck.randint(0, 60_000))
        store = SqliteMetadataStore(path)
        await store.open()
        try:
            rows = await store.unfinished_runs(after=f"run-{first:06}", limit=100_000)
            there = [row.run_id for row in rows]
            batches = len(there) // BATCH
            assert there == [f"run-{first + n // BATCH:06}-{n % BATCH:02}" for n in range(batches * BATCH)]
            assert last < first + batches <= last + 2, "all that were acknowledged, and at most the one in flight"
            for run in there:
                tasks = await store.read_tasks(run, after=0)
                assert [task for task, _ in tasks] == [f"t{index}" for index in range(TASKS)]
            keys = [ValueKey(run, task_id=f"t{index}") for run in there[-BATCH:] for index in range(TASKS)]
            assert await store.read_values(keys) == [bytes(200)] * len(keys)
            assert await store.last_change() == first + batches
        finally:
            await store.close()
        first += batches
    assert first > ROUNDS
