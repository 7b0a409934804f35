"""Rows of PostgreSQL that no engine can have written: the runs concerned fail and name the place, all others go on, and
doctor finds them. Whether pages are as they were written is the server's matter, which has checksums of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg
import pytest

import perdure
from patience import PATIENCE_S
from perdure import RunStatus, errors
from perdure.service import doctor
from perdure.service.app import running_server
from perdure.service.common.settings import Settings
from perdure.service.kernel import KINDS
from perdure.storage.examine import examine_rows
from postgres import SETTINGS, PostgresServer, running_postgres

IN_RUN: Final = "(SELECT run_id FROM runs WHERE workflow_id = '{0}')"
RUNS: Final = {
    "status": "'RUNNIN'",
    "labels": "'[1, 2'",
    "create_ms": "-1",
    "update_ms": "1::bigint << 60",
    "start_ms": "-5",
    "priority": "1::bigint << 40",
    "resume_count": "-1",
    "output_wraps": "1::bigint << 33",
}
TASKS: Final = {
    "status": "'SUCCESSFULL'",
    "seq": "-1",
    "attempt": "1::bigint << 40",
    "failures": "-1",
    "started_ms": "1::bigint << 60",
    "ended_ms": "-1",
    "output_bytes": "-1",
}
DAMAGES: Final[dict[str, tuple[str, str, bool]]] = {
    # workflow id: a statement, what the failure says, and whether the doctor sees it
    **{
        f"runs-{name}": (f"UPDATE runs SET {name} = {value} WHERE workflow_id = '{{0}}'", f"value of {name}", True)
        for name, value in RUNS.items()
    },
    **{
        f"tasks-{name}": (
            f"UPDATE tasks SET {name} = {value} WHERE run_id = {IN_RUN} AND status = 'SUCCESSFUL'",
            f"value of {name}",
            True,
        )
        for name, value in TASKS.items()
    },
    "runs-kind": ("UPDATE runs SET kind = 'comet' WHERE workflow_id = '{0}'", "not know the kind", True),
    "tasks-task_id": (f"UPDATE tasks SET task_id = 'nowhere' WHERE run_id = {IN_RUN} AND seq = 0", "nowhere", False),
    "specs-data": (
        "UPDATE specs SET data = '\\x00ff' WHERE key = (SELECT spec_key FROM runs WHERE workflow_id = '{0}')",
        "value of data",
        True,
    ),
    "specs-gone": (
        "DELETE FROM specs WHERE key = (SELECT spec_key FROM runs WHERE workflow_id = '{0}')",
        "is not in the store",
        True,
    ),
    "events-arrived_ms": (f"UPDATE events SET arrived_ms = -1 WHERE run_id = {IN_RUN}", "value of arrived_ms", True),
    "events-payload": (f"UPDATE events SET payload = '\\x00ff' WHERE run_id = {IN_RUN}", "value of payload", False),
    "tasks-failure": (
        f"UPDATE tasks SET failure = '\\xff' WHERE run_id = {IN_RUN} AND status = 'SUCCESSFUL'",
        "value of failure",
        False,
    ),
    "outputs-data": (f"UPDATE outputs SET data = '\\x00ff' WHERE run_id = {IN_RUN}", "does not decode", False),
    "outputs-gone": (f"DELETE FROM outputs WHERE run_id = {IN_RUN}", "no value", False),
    "inputs-data": (f"UPDATE inputs SET data = '\\x00ff' WHERE run_id = {IN_RUN}", "does not decode", False),
}
WELL: Final = ("well-1", "well-2", "well-3")


@perdure.task
def add(left: object, right: object) -> object:
    return f"{left}+{right}"


def graph(name: str) -> object:
    """One of its own for each run, with an output, a use of it, an input, and an event that comes later."""
    return add.bind(add.bind(add.bind(name, 1), perdure.event("go")), perdure.input("x"))


@asynccontextmanager
async def serving(url: str, folder: Path) -> AsyncIterator[perdure.Client]:
    settings = Settings(listen="127.0.0.1:0", storage=url, blobs=str(folder / "blobs"), executor="local", drain_s=1)
    async with running_server(settings) as server, perdure.Client(server.address) as client:
        yield client


async def make(url: str, folder: Path, names: tuple[str, ...]) -> None:
    """Runs that wait for an event, each after one that no task takes."""
    async with serving(url, folder) as client:
        for name in names:
            await client.start(graph(name), workflow_id=name, inputs={"x": 7}, labels={"kind": name})
            await client.handle(name).send_event("beside", 1)
        for name in names:
            while not [task async for task in client.handle(name).tasks(perdure.TaskStatus.SUCCESSFUL)]:
                await asyncio.sleep(0.02)


async def change(url: str, statement: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.execute(statement))
    finally:
        await connection.close()


async def ends(client: perdure.Client, name: str) -> tuple[RunStatus, str]:
    """How a run ends once its event has come, and what it says."""
    async with asyncio.timeout(PATIENCE_S):
        with suppress(errors.CorruptDataError, errors.WorkflowAlreadyFinalError):
            await client.handle(name).send_event("go", 2)
        try:
            outcome = repr(await client.handle(name).outcome())
        except errors.CorruptDataError as error:
            return RunStatus.FAILED, repr(error)
        status = (await client.handle(name).status()).status
        return status, repr(await client.handle(name).output()) if status is RunStatus.SUCCESSFUL else outcome


async def test_malformed_rows_fail_only_their_runs(postgres_server: PostgresServer, tmp_path: Path) -> None:
    async with postgres_server.database() as url:
        await make(url, tmp_path, (*DAMAGES, *WELL))
        assert await examine_rows(url, KINDS.names) == []
        for name, (statement, _, _) in DAMAGES.items():
            assert (await change(url, statement.format(name))).endswith(" 1"), name
        found = "\n".join(await examine_rows(url, KINDS.names) or ())
        for name, (_, said, is_seen) in DAMAGES.items():
            if is_seen:
                assert f"table {name.split('-')[0]}" in found, name
                assert said in found or name.startswith("specs"), name
        async with serving(url, tmp_path) as client:
            for name in WELL:
                assert await ends(client, name) == (RunStatus.SUCCESSFUL, f"'{name}+1+2+7'"), name
            for name, (_, said, _) in DAMAGES.items():
                status, outcome = await ends(client, name)
                assert status is RunStatus.FAILED, f"{name}: {outcome}"
                assert "CorruptData" in outcome, f"{name}: {outcome}"
                assert said in outcome, f"{name}: {outcome}"
            listed = {run.workflow_id async for run in client.list()}
            assert listed == {*DAMAGES, *WELL}


async def test_orphaned_labels_and_rows_are_found(postgres_server: PostgresServer, tmp_path: Path) -> None:
    async with postgres_server.database() as url:
        await make(url, tmp_path, WELL)
        await change(url, "DELETE FROM labels WHERE value = 'well-1'")
        await change(url, "UPDATE labels SET value = 'other' WHERE value = 'well-2'")
        await change(url, "DELETE FROM runs WHERE workflow_id = 'well-3'")
        await change(url, "INSERT INTO blob_uses (run_id, task_id, sha256) VALUES ('', 'none', 'blob')")
        found = await examine_rows(url) or []
        assert "table blob_uses: there are rows of graph none, which is not in table specs" in found
        assert sum(text.startswith("table labels: one of run") for text in found) == 2
        assert sum("one of namespace, key, value, run_id" in text for text in found) == 2
        for table in ("tasks", "outputs", "events", "inputs", "labels"):
            assert any(f"table {table}: there are rows of run" in text for text in found), table
        settings = Settings(listen="127.0.0.1:0", storage=url, blobs=str(tmp_path / "blobs"), executor="local")
        (rows,) = await doctor._rows(settings)
        assert (rows.check, rows.status) == ("rows", "failed")


# ------------------------------------------------------------------------------ the file of a table


async def flip(server: PostgresServer, url: str, table: str, text: bytes) -> None:
    """Flip the highest bit of a text in the file of a table, so that it is no UTF-8 any more."""
    await change(url, "CHECKPOINT")
    connection = await asyncpg.connect(url)
    place = await connection.fetchval("SELECT pg_relation_filepath($1)", table)
    await connection.close()
    await asyncio.to_thread(server.stop)
    path = server._folder / "data" / place
    data = bytearray(path.read_bytes())
    assert data.count(text) == 1
    data[data.index(text) + 2] ^= 128
    path.write_bytes(data)
    await asyncio.to_thread(server.start)


@pytest.mark.parametrize(
    ("table", "text", "column"), [("runs", b"name-of-bad", "name"), ("tasks", b"blob-of-bad", "output_blob")]
)
async def test_a_text_that_is_not_utf_8_fails_its_run_alone(
    tmp_path: Path, table: str, text: bytes, column: str
) -> None:
    with running_postgres(settings={**SETTINGS, "ignore_checksum_failure": "on"}) as server:
        async with server.database() as url:
            await make(url, tmp_path, ("bad", *WELL))
            for changed in ("runs", "tasks"):  # so that the texts are there once
                names = {"runs": "name = 'name-of-' || workflow_id", "tasks": "output_blob = 'blob-of-bad'"}
                where = f"run_id = {IN_RUN.format('bad')}" + (" AND seq = 0" if changed == "tasks" else "")
                await change(url, f"UPDATE {changed} SET {names[changed]} WHERE {where}")
            await flip(server, url, table, text)
            found = await examine_rows(url) or []
            assert [text for text in found if f"table {table}" in text and f"value of {column}" in text]
            async with serving(url, tmp_path) as client:
                for name in WELL:
                    assert await ends(client, name) == (RunStatus.SUCCESSFUL, f"'{name}+1+2+7'"), name
                status, outcome = await ends(client, "bad")
                assert status is RunStatus.FAILED
                assert f"value of {column}" in outcome
                assert {run.workflow_id async for run in client.list()} == {"bad", *WELL}
                await client.delete("bad")
