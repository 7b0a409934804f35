"""The write-ahead log of an embedded database is cut off while no engine uses it: what is lost is said."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from patience import PATIENCE_S
from perdure.model import RunStatus
from perdure.storage.examine import examine_rows
from perdure.storage.rows import RunRow
from perdure.storage.sqlite import commits as sqlite
from perdure.storage.sqlite.mark import LostCommits, mark_of, read_mark
from perdure.storage.sqlite.store import SqliteMetadataStore
from perdure.storage.writes import AddRun

COMMITS = 12
SPEC = hashlib.sha256(b"graph").hexdigest()
HEAD_BYTES = 32
FRAME_HEAD_BYTES = 24


def add(number: int) -> AddRun:
    row = RunRow(f"run-{number}", "default", f"id-{number}", RunStatus.RUNNING, SPEC, 1, 1)
    return AddRun(row, b"graph", {"x": b"x" * 3000})


@pytest.fixture
async def killed(tmp_path: Path) -> Path:
    """A folder as a killed engine leaves it: every commit is in the log."""
    folder = tmp_path / "killed"
    store = SqliteMetadataStore(tmp_path / "at-work" / "perdure.db")
    await store.open()
    for number in range(COMMITS):
        await store.commit([(add(number),)])
    shutil.copytree(tmp_path / "at-work", folder)
    await store.close()
    assert (folder / "perdure.db-wal").stat().st_size > COMMITS * 4096
    return folder


def ends(log: bytes) -> list[int]:
    """Lengths of the log at the end of every frame, and in the middle of each."""
    page_bytes = int.from_bytes(log[8:12], "big")
    frame_bytes = FRAME_HEAD_BYTES + page_bytes
    whole = range(HEAD_BYTES, len(log) + 1, frame_bytes)
    return sorted({0, *whole, *(end + frame_bytes // 2 for end in whole if end < len(log))})


def there(folder: Path) -> int:
    """How many runs a reader finds that knows of nothing else."""
    connection = sqlite3.connect(folder / "perdure.db")
    (is_made,) = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'runs'").fetchone()
    count = connection.execute("SELECT count(*) FROM runs").fetchone()[0] if is_made else 0
    connection.close()
    return int(count)


async def test_a_log_that_was_cut_anywhere_is_said(killed: Path, tmp_path: Path) -> None:
    log = (killed / "perdure.db-wal").read_bytes()
    for length in ends(log):
        folder, copy = tmp_path / f"cut-{length}", tmp_path / f"read-{length}"
        shutil.copytree(killed, folder)
        (folder / "perdure.db-shm").unlink(missing_ok=True)
        (folder / "perdure.db-wal").write_bytes(log[:length])
        shutil.copytree(folder, copy)
        count = there(copy)
        damages = await examine_rows(str(folder))
        store = SqliteMetadataStore(folder / "perdure.db")
        if count == COMMITS:
            assert damages == []
            await store.open()
            await store.close()
            continue
        assert damages is not None
        assert any("commits are lost" in damage for damage in damages), length
        with pytest.raises(LostCommits, match=rf"but commit {COMMITS} was acknowledged") as raised:
            await store.open()
        await store.close()
        assert "perdure.db.mark" in str(raised.value)
        assert (folder / "perdure.db-wal").read_bytes() == log[:length], "what can be saved from it is still there"


async def test_the_loss_is_accepted_by_removing_the_mark(killed: Path) -> None:
    (killed / "perdure.db-shm").unlink(missing_ok=True)
    (killed / "perdure.db-wal").write_bytes((killed / "perdure.db-wal").read_bytes()[:-9000])
    mark_of(killed / "perdure.db").unlink()
    store = SqliteMetadataStore(killed / "perdure.db")
    await store.open()
    assert 0 < await store.last_change() < COMMITS
    await store.close()
    assert read_mark(killed / "perdure.db") == there(killed)


async def test_a_database_that_is_gone_is_said(killed: Path) -> None:
    for name in ("perdure.db", "perdure.db-wal", "perdure.db-shm"):
        (killed / name).unlink(missing_ok=True)
    assert "commits are lost" in str(await examine_rows(str(killed)))
    store = SqliteMetadataStore(killed / "perdure.db")
    with pytest.raises(LostCommits, match="12 commits are lost"):
        await store.open()
    await store.close()


@pytest.mark.parametrize("text", ["", "perdure commit 9", "perdure commit 00000000000000000099 00000000\n"])
async def test_a_damaged_mark_raises_no_alarm(killed: Path, text: str) -> None:
    mark_of(killed / "perdure.db").write_text(text)
    store = SqliteMetadataStore(killed / "perdure.db")
    await store.open()
    await store.close()
    assert read_mark(killed / "perdure.db") == COMMITS


async def test_the_log_is_emptied_in_idle_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "IDLE_S", 0.01)
    path = tmp_path / "perdure.db"
    store = SqliteMetadataStore(path)
    await store.open()
    for number in range(COMMITS):
        await store.commit([(add(number),)])
    log = path.with_name("perdure.db-wal")
    async with asyncio.timeout(PATIENCE_S):
        while log.stat().st_size:
            await asyncio.sleep(0.01)
    shutil.copy(path, tmp_path / "alone.db")  # without the log
    await store.commit([(add(COMMITS),)])
    assert await store.get_run(f"run-{COMMITS}") is not None
    await store.close()
    connection = sqlite3.connect(tmp_path / "alone.db")
    assert connection.execute("SELECT count(*) FROM runs").fetchone() == (COMMITS,)
    connection.close()
