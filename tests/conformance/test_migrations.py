"""Schemas and data of earlier versions: whatever the way to the present schema, it is the same, and nothing
is lost on it. The data were written by the earlier version and dumped; see `data`."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from perdure.cli.root import run as perdure
from perdure.model import RunStatus, TaskStatus
from perdure.storage.ports import MetadataStore, StorageError
from perdure.storage.postgres.schema import migrate
from perdure.storage.postgres.store import PostgresMetadataStore
from perdure.storage.queries import RunQuery
from perdure.storage.rows import EngineRow, RunRow, Timer, ValueKey
from perdure.storage.sqlite.check import damages_of
from perdure.storage.sqlite.store import SqliteMetadataStore
from perdure.storage.steps import Migration, migrations
from perdure.storage.writes import AddRun, SetRun
from postgres import PostgresServer

DATA = Path(__file__).with_name("data")
STEPS = migrations("postgres")
START = [STEPS[0]]
LONG_MS = 600_000


@pytest.fixture
async def url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """An empty database."""
    async with postgres_server.database(is_migrated=False) as url:
        yield url


def step(number: int, phase: Any, sql: str) -> Migration:
    return Migration(number, f"postgres_{number:04}_{phase}_x.sql", phase, sql)


def add(run_id: str) -> AddRun:
    return AddRun(RunRow(run_id, "default", f"id-{run_id}", RunStatus.RUNNING, "spec", 1, 1, owner="old"), b"graph")


async def ask(url: str, statement: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(record) for record in await connection.fetch(statement)]
    finally:
        await connection.close()


# ------------------------------------------------------------------------------ the same schema


CATALOG = """
    SELECT 'column', table_name, column_name, concat_ws(' ', data_type, collation_name, is_nullable, column_default)
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT 'sequence', sequence_name, data_type, increment FROM information_schema.sequences
    ORDER BY 1, 2, 3, 4
"""


def test_steps_are_numbered_without_gaps() -> None:
    for backend in ("sqlite", "postgres"):
        assert [step.number for step in migrations(backend)] == list(range(1, len(migrations(backend)) + 1))


@pytest.mark.parametrize("count", range(1, len(STEPS) + 1))
async def test_postgres_is_the_same_by_every_way(postgres_server: PostgresServer, url: str, count: int) -> None:
    for last in range(1, count + 1):
        assert await migrate(url, steps=STEPS[:last]) == [STEPS[last - 1].name]
    await migrate(url)
    async with postgres_server.database() as at_once:
        assert await ask(url, CATALOG) == await ask(at_once, CATALOG)
        assert await ask(url, "SELECT number, name, phase FROM migrations") == await ask(
            at_once, "SELECT number, name, phase FROM migrations"
        )


@pytest.mark.parametrize("count", range(1, len(migrations("sqlite")) + 1))
async def test_sqlite_is_the_same_by_every_way(tmp_path: Path, count: int) -> None:
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    for old in migrations("sqlite")[:count]:
        connection.executescript(f"{old.sql}; INSERT INTO migrations VALUES ({old.number}, '{old.name}');")
    connection.close()
    catalogs = []
    for file in (path, tmp_path / "new.db"):
        store = SqliteMetadataStore(file)
        await store.open()
        await store.close()
        connection = sqlite3.connect(file)
        rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()
        catalogs.append([(*row[:3], re.sub(r"\s+", " ", row[3] or "").replace("IF NOT EXISTS ", "")) for row in rows])
        connection.close()
    assert catalogs[0] == catalogs[1]


# ------------------------------------------------------------------------------ the same data


async def check(store: MetadataStore, first_change: int) -> None:
    """Data of the earlier version is kept, and its runs go on."""
    a = await store.load_run("run-a")
    assert a is not None
    assert (a.run.workflow_id, a.run.status, a.run.labels) == ("id-a", RunStatus.RUNNING, {"team": "pay", "x": "é"})
    assert (a.run.metadata, a.run.priority, a.run.owner, a.run.start_ms) == ('{"a":1}', 3, "engine-1", 5)
    assert (a.run.kind, a.run.damage) == ("graph", "")
    done, waits = a.tasks
    assert (done.task_id, done.attempt, done.failures, done.failure, done.spec_key) == ("t0", 2, 1, b"once", "sub")
    assert (done.output_bytes, done.output_blob, done.ended_ms) == (8, "1" * 64, 12)
    assert (waits.status, waits.wake_ms) == (TaskStatus.BACKING_OFF, 999)
    assert a.inputs == ("x", "y")
    assert [(event.event_id, event.payload) for event in a.events] == [("e1", b"event 1")]
    assert a.last_event == a.events[0].sequence
    values = await store.read_values([ValueKey("run-a", "t0"), ValueKey("run-a", input="x"), ValueKey("run-a", "t1")])
    assert values == [b"value \x00", b"input \x00", None]
    assert await store.find_event("run-a", "k", "e0") is not None
    assert await store.next_timers(until_ms=999, limit=9) == [Timer("run-a", "t1", 1, 999)]
    old, new = await store.get_run("run-c"), await store.find_run("default", "id-c")
    assert old is not None
    assert (old.status, old.output_task, old.output_wraps, old.resume_count) == (RunStatus.SUCCESSFUL, "t9", 1, 1)
    assert new is not None
    assert (new.run_id, new.is_dormant) == ("run-d", True)
    assert [row.run_id for row in await store.pending_runs("default", limit=9)] == ["run-b"]
    assert sorted(await store.running_runs()) == [("default", "run-a"), ("default", "run-d")]
    assert [row.workflow_id for row in await store.list_runs(RunQuery("default", 9))] == ["id-c", "id-b", "id-a"]
    request = await store.find_request("default", "r-a")
    assert request == a.run
    assert await store.get_run("run-gone") is None
    assert await store.read_specs(["spec-a", "sub"]) == {"spec-a": b"graph a", "sub": b"sub graph"}
    assert [mark.sha256[0] for mark in await store.marked_blobs(after="", limit=9)] == ["2"]
    changes = [row.change for row in await store.read_changes("default", after=0, limit=9)]
    committed = await store.commit([(SetRun("run-a", RunStatus.FAILED, 50),)])
    assert changes[0] >= first_change
    assert committed.change > max(changes)
    assert [row.run_id for row in await store.read_changes("default", after=max(changes), limit=9)] == ["run-a"]


@pytest.mark.parametrize("version", ["sqlite_0002", "sqlite_0005"])
async def test_data_of_an_earlier_sqlite_survive(tmp_path: Path, version: str) -> None:
    connection = sqlite3.connect(tmp_path / "perdure.db")
    connection.executescript((DATA / f"{version}.sql").read_text())
    connection.close()
    store = SqliteMetadataStore(tmp_path / "perdure.db")
    await store.open()
    await check(store, 1)
    await store.close()


async def test_rows_that_an_earlier_sqlite_sealed_stay_checked(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    connection = sqlite3.connect(path)
    connection.executescript((DATA / "sqlite_0005.sql").read_text())
    store = SqliteMetadataStore(path)
    await store.open()
    await store.close()
    damages = [text for text in damages_of(path) if not text.startswith("table specs")]  # whose keys are no hashes
    assert damages == []
    connection.execute("UPDATE runs SET kind = 'grapi' WHERE run_id = 'run-a'")
    connection.execute("UPDATE runs SET kind = 'actor' WHERE run_id = 'run-b'")
    connection.commit()
    connection.close()
    damages = [text for text in damages_of(path) if text.startswith("table runs")]
    assert [text.split(": ")[0] for text in damages] == ["table runs, row run-a", "table runs, row run-b"]
    assert "the value of kind is not" in damages[0]
    await store.open()
    assert [(await store.get_run(run_id)).damage for run_id in ("run-a", "run-b")] == damages  # type: ignore[union-attr]
    await store.close()


async def test_runs_that_an_earlier_version_adds_after_the_migration_are_of_graphs(url: str) -> None:
    await migrate(url)
    connection = await asyncpg.connect(url)
    await connection.execute("DELETE FROM numbering")
    await connection.execute((DATA / "postgres_0001.sql").read_text())  # its statements name no column of kinds
    await connection.close()
    store = PostgresMetadataStore(url)
    await store.open()
    run = await store.get_run("run-a")
    assert run is not None
    assert (run.kind, run.damage) == ("graph", "")
    await store.close()


async def test_data_of_an_earlier_postgres_survive_on_another_server_too(url: str) -> None:
    await migrate(url, steps=START)
    connection = await asyncpg.connect(url)
    await connection.execute("DELETE FROM numbering")
    # Numbers that this server's transactions are far from, as when the data come from a busier one.
    data = re.sub(r"VALUES \('(\d+)', -\d+\)", r"VALUES ('\1', 1000000000)", (DATA / "postgres_0001.sql").read_text())
    await connection.execute(data)
    await connection.execute("UPDATE runs SET change = change + 2000000000")
    await connection.close()
    await migrate(url)
    store = PostgresMetadataStore(url)
    await store.open()
    await check(store, 2_000_000_000)
    assert [(mail.kind, mail.data) for mail in await store.read_mail(limit=9)] == [("event", b"letter")]
    await store.close()
    ((shift,),) = await ask(url, "SELECT shift FROM numbering")
    assert shift > 2_000_000_000
    await migrate(url)
    assert await ask(url, "SELECT shift FROM numbering") == [(shift,)]


# ------------------------------------------------------------------------------ migrating


async def test_several_migrations_at_once_are_as_one(url: str) -> None:
    names = await asyncio.gather(*(migrate(url) for _ in range(5)))
    assert sorted(name for applied in names for name in applied) == [step.name for step in STEPS]
    store = PostgresMetadataStore(url)
    await store.open()
    await store.close()


async def test_a_step_that_fails_leaves_nothing_of_itself(url: str) -> None:
    broken = step(2, "pre", "CREATE TABLE extra (x int); SELECT 1 FROM nowhere;")
    with pytest.raises(StorageError, match="nowhere"):
        await migrate(url, steps=[*START, broken])
    assert await ask(url, "SELECT number FROM migrations") == [(1,)]
    assert await ask(url, "SELECT to_regclass('extra')::text") == [(None,)]
    assert await migrate(url, steps=[*START, step(2, "pre", "CREATE TABLE extra (x int)")]) == [
        "postgres_0002_pre_x.sql"
    ]


async def test_phases_come_one_after_the_other(url: str) -> None:
    widen = step(2, "pre", "ALTER TABLE runs ADD COLUMN hue text NOT NULL DEFAULT 'red'")
    narrow = step(3, "post", "ALTER TABLE runs DROP COLUMN hue")
    later = step(4, "pre", "CREATE TABLE later (x int)")
    assert await migrate(url, "pre", steps=[*START, widen, narrow]) == [START[0].name, widen.name]
    assert await migrate(url, "pre", steps=[*START, widen, narrow]) == []
    with pytest.raises(StorageError, match=r"0003_post.*--phase post.*first, once no engine"):
        await migrate(url, "pre", steps=[*START, widen, narrow, later])
    assert await migrate(url, "post", steps=[*START, widen, narrow, later]) == [narrow.name]
    assert await migrate(url, steps=[*START, widen, narrow, later]) == [later.name]


async def test_the_pre_phase_of_a_new_database_passes_over_post_steps(url: str) -> None:
    steps = [*START, step(2, "post", "SELECT 1"), step(3, "pre", "SELECT 1"), step(4, "post", "SELECT 1")]
    assert await migrate(url, "pre", steps=steps) == [each.name for each in steps[:3]]


async def test_the_post_phase_waits_for_the_pre_phase(url: str) -> None:
    with pytest.raises(StorageError, match="--phase pre` first"):
        await migrate(url, "post", steps=[*START, step(2, "post", "SELECT 1")])
    assert await ask(url, "SELECT number FROM migrations") == []


async def test_two_versions_run_side_by_side_between_the_phases(url: str) -> None:
    await migrate(url)
    old = PostgresMetadataStore(url)
    await old.open()
    await old.join(EngineRow("old", version="1"), LONG_MS)
    number = STEPS[-1].number
    steps: Sequence[Migration] = [
        *STEPS,
        step(number + 1, "pre", "ALTER TABLE runs ADD COLUMN hue text NOT NULL DEFAULT 'red'"),
        step(number + 2, "post", "ALTER TABLE runs DROP COLUMN priority"),
    ]
    # What the old one has prepared is void, and it goes on all the same.
    await old.commit([(add("a"),)])
    assert await old.get_run("a") is not None
    await migrate(url, "pre", steps=steps)
    await old.commit([(add("b"),)])
    assert await old.get_run("b") is not None
    again = PostgresMetadataStore(url)
    await again.open()
    await again.close()
    with pytest.raises(StorageError, match=r"older version still run: old \(version 1\)"):
        await migrate(url, "post", steps=steps)
    await old.leave()
    await migrate(url, "post", steps=steps)
    with pytest.raises(StorageError, match="belongs to a newer version"):
        await again.open()
    with pytest.raises(StorageError, match="belongs to a newer version"):
        await migrate(url)
    await old.close()


async def test_an_engine_refuses_what_it_cannot_use_and_says_what_to_do(url: str) -> None:
    store = PostgresMetadataStore(url)
    with pytest.raises(StorageError, match=f"no tables of Perdure yet; run `perdure migrate --storage {url}`"):
        await store.open()
    await migrate(url)
    last = [step for step in STEPS if step.phase == "pre"][-1]
    await ask(url, f"DELETE FROM migrations WHERE number = {last.number}")
    with pytest.raises(StorageError, match=f"older than this version of Perdure .{last.name} is missing"):
        await store.open()


def test_the_command_migrates_and_says_so(postgres_server: PostgresServer, capsys: pytest.CaptureFixture[str]) -> None:
    name = "by_command"
    url = postgres_server.url(name)
    asyncio.run(postgres_server.execute(f"CREATE DATABASE {name}"))
    assert perdure(["migrate", "--storage", url.replace("perdure@", "perdure:secret@"), "--phase", "pre"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == f"applied {STEPS[0].name}"
    assert said.splitlines()[-1] == f"{url} is up to date as to its pre steps"
    assert perdure(["migrate", "--storage", url]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{url} is up to date"
    assert perdure(["migrate", "--storage", postgres_server.url("nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert perdure(["migrate", "--storage", "memory:"]) == 2
    asyncio.run(postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)"))


def test_the_command_migrates_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    connection = sqlite3.connect(tmp_path / "perdure.db")
    connection.executescript((DATA / "sqlite_0002.sql").read_text())
    connection.close()
    assert perdure(["migrate", "--storage", str(tmp_path)]) == 0
    assert "up to date" in capsys.readouterr().out
    connection = sqlite3.connect(tmp_path / "perdure.db")
    ((number,),) = connection.execute("SELECT max(number) FROM migrations").fetchall()
    connection.close()
    assert number == migrations("sqlite")[-1].number
