"""Promises of every metadata store about waiting runs and about uses of blobs."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.stores import STORES, open_store
from perdure.model import RunStatus, TaskStatus
from perdure.storage.ports import MetadataStore
from perdure.storage.queries import RunQuery
from perdure.storage.rows import BlobMark, RunRow, TaskRow
from perdure.storage.sqlite.check import damages_of
from perdure.storage.sqlite.store import SqliteMetadataStore
from perdure.storage.steps import migrations
from perdure.storage.writes import (
    AddRun,
    DeleteRun,
    DropTasks,
    MarkBlobs,
    PutTask,
    SetAsideRuns,
    SetDormant,
    SetRun,
    Unmark,
    UseBlobs,
)

RUNNING, PENDING = RunStatus.RUNNING, RunStatus.PENDING


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetadataStore]:
    async with open_store(request, tmp_path) as store:
        yield store


def add(name: str, status: RunStatus = RUNNING, *, namespace: str = "default") -> AddRun:
    start_ms = 1 if status is RUNNING else None
    row = RunRow(name, namespace, f"id-{name}", status, "spec", create_ms=1, update_ms=1, start_ms=start_ms)
    return AddRun(row, b"graph")


async def pending(store: MetadataStore, limit: int = 99, namespace: str = "default") -> list[str]:
    return [row.run_id for row in await store.pending_runs(namespace, limit=limit)]


# ------------------------------------------------------------------------------ the queue


async def test_pending_runs_come_in_the_order_in_which_they_became_that(store: MetadataStore) -> None:
    await store.commit([(add("c", PENDING),)])
    await store.commit([(add("b", PENDING),), (add("a", PENDING),), (add("x"),), (add("o", PENDING, namespace="n"),)])
    await store.commit([(SetRun("x", RunStatus.FAILED, 5),)])
    await store.commit([(SetRun("x", PENDING, 6, resumed=True),)])
    assert await pending(store) == ["c", "a", "b", "x"]
    assert await pending(store, 2) == ["c", "a"]
    assert await pending(store, namespace="n") == ["o"]
    assert await store.count_pending() == {"default": 4, "n": 1}


async def test_events_and_dormancy_do_not_move_a_run_in_the_queue(store: MetadataStore) -> None:
    await store.commit([(add("b", PENDING),)])
    await store.commit([(add("a", PENDING),)])
    await store.commit([(SetDormant("b", True),)])
    assert await pending(store) == ["b", "a"]


async def test_who_starts_or_is_canceled_has_left_the_queue(store: MetadataStore) -> None:
    await store.commit([(add("a", PENDING),), (add("b", PENDING),), (add("c", PENDING),)])
    await store.commit([(SetRun("a", RUNNING, 7),), (SetRun("b", RunStatus.CANCELED, 8),)])
    assert await pending(store) == ["c"]
    started = await store.get_run("a")
    assert started is not None
    assert (started.status, started.start_ms, started.end_ms) == (RUNNING, 7, None)
    canceled = await store.get_run("b")
    assert canceled is not None
    assert (canceled.start_ms, canceled.end_ms) == (None, 8)
    await store.commit([(SetAsideRuns(9),)])
    assert await store.count_pending() == {}


async def test_the_first_start_is_kept(store: MetadataStore) -> None:
    await store.commit([(add("a"),), (add("b", PENDING),)])
    await store.commit([(SetRun("a", RUNNING, 7, resumed=True),), (SetRun("b", RunStatus.FAILED, 8),)])
    await store.commit([(SetRun("b", RUNNING, 9, resumed=True),)])
    rows = [await store.get_run("a"), await store.get_run("b")]
    assert [row.start_ms for row in rows if row is not None] == [1, 9]


async def test_every_running_run_is_known_and_those_to_recover_do_not_wait(store: MetadataStore) -> None:
    await store.commit([(add("a"),), (add("b"),), (add("c", PENDING),), (add("d", namespace="n"),), (add("e"),)])
    await store.commit([(SetDormant("b", True),), (SetRun("e", RunStatus.SUCCESSFUL, 3),)])
    assert sorted(await store.running_runs()) == [("default", "a"), ("default", "b"), ("n", "d")]
    assert [row.run_id for row in await store.unfinished_runs(after="", limit=9)] == ["a", "d"]


# ------------------------------------------------------------------------------ uses of blobs


def sha(letter: str) -> str:
    return letter * 64


async def marks(store: MetadataStore) -> dict[str, bool]:
    return {mark.sha256[0]: mark.is_used for mark in await store.marked_blobs(after="", limit=99)}


async def test_the_blobs_of_a_deleted_run_are_marked(store: MetadataStore) -> None:
    await store.commit([(add("a"), UseBlobs("a", (sha("1"), sha("2"))))])
    await store.commit([(UseBlobs("a", (sha("2"), sha("3"))),)])
    await store.commit([(add("b"), UseBlobs("b", (sha("2"),)))])
    assert await marks(store) == {}
    await store.commit([(DeleteRun("a"),)])
    assert await marks(store) == {"1": False, "2": True, "3": False}
    await store.commit([(DeleteRun("b"),)])
    await store.commit([(DeleteRun("b"),)])
    assert await marks(store) == {"1": False, "2": False, "3": False}


def of_graph(name: str, key: str, *letters: str) -> AddRun:
    row = RunRow(name, "default", f"id-{name}", RUNNING, key, 1, 1)
    return AddRun(row, key.encode(), blobs=tuple(sha(letter) for letter in letters))


@pytest.mark.parametrize("together", [False, True])
async def test_the_blobs_of_a_graph_are_used_until_its_last_run_is_deleted(
    store: MetadataStore, together: bool
) -> None:
    entries = [(of_graph("a", "g", "1", "2"),), (of_graph("b", "g", "1", "2"),), (of_graph("c", "h", "2", "3"),)]
    for some in [entries] if together else [[entry] for entry in entries]:
        await store.commit(some)
    assert await marks(store) == {}
    assert await store.unused_blobs([sha(letter) for letter in "1234"]) == [sha("4")]
    await store.commit([(DeleteRun("a"),)])
    assert await marks(store) == {}
    await store.commit([(DeleteRun("b"),)])
    assert await marks(store) == {"1": False, "2": True}
    await store.commit([(DeleteRun("c"),)])
    assert await marks(store) == {"1": False, "2": False, "3": False}


async def test_a_graph_that_comes_again_uses_its_blobs_again(store: MetadataStore) -> None:
    await store.commit([(of_graph("a", "g", "1"),)])
    await store.commit([(DeleteRun("a"),), (of_graph("b", "g", "1"),)])
    assert await marks(store) == {"1": True}
    await store.commit([(of_graph("c", "g", "1"),), (DeleteRun("b"),), (DeleteRun("c"),)])
    assert await marks(store) == {"1": False}


async def test_blobs_that_only_some_runs_of_a_graph_name_are_used_by_it(store: MetadataStore) -> None:
    """Such as the one that contained the graph."""
    await store.commit([(of_graph("a", "g", "1"),), (of_graph("b", "g", "1", "2"),)])
    await store.commit([(of_graph("c", "g", "3"),)])
    await store.commit([(DeleteRun("b"),), (DeleteRun("c"),)])
    assert await store.unused_blobs([sha(letter) for letter in "1234"]) == [sha("4")]
    await store.commit([(DeleteRun("a"),)])
    assert await marks(store) == {"1": False, "2": False, "3": False}


async def test_a_graph_that_a_task_names_keeps_its_blobs(store: MetadataStore) -> None:
    await store.commit([(of_graph("a", "g", "1"), of_graph("b", "h"))])
    await store.commit([(PutTask(TaskRow("b", "t", 1, TaskStatus.SUCCESSFUL, 1, spec_key="g")),)])
    await store.commit([(DeleteRun("a"),)])
    assert await marks(store) == {}
    await store.commit([(DropTasks("b", ("t",), and_graphs=True),)])
    assert await marks(store) == {"1": False}


async def test_a_refused_run_uses_no_blobs(store: MetadataStore) -> None:
    await store.commit([(of_graph("a", "g"),)])
    twin = AddRun(RunRow("b", "default", "id-a", RUNNING, "h", 1, 1), b"h", blobs=(sha("1"),))
    assert (await store.commit([(twin,)])).results[0].is_refused
    assert await store.unused_blobs([sha("1")]) == [sha("1")]


async def test_uses_are_refused_with_their_run(store: MetadataStore) -> None:
    await store.commit([(add("a"),)])
    twin = AddRun(RunRow("b", "default", "id-a", RUNNING, "spec", 1, 1), b"graph")
    committed = await store.commit([(twin, UseBlobs("b", (sha("1"),)))])
    assert committed.results[0].is_refused
    assert await marks(store) == {}


async def test_blobs_for_a_run_that_is_gone_are_marked(store: MetadataStore) -> None:
    await store.commit([(UseBlobs("nobody", (sha("1"),)),), (MarkBlobs((sha("2"),)),)])
    assert await marks(store) == {"1": False, "2": False}


async def test_a_mark_that_was_made_anew_stays(store: MetadataStore) -> None:
    await store.commit([(MarkBlobs((sha("1"), sha("2"))),)])
    seen = tuple(await store.marked_blobs(after="", limit=9))
    await store.commit([(MarkBlobs((sha("2"),)),)])
    await store.commit([(Unmark(seen),), (Unmark((BlobMark(sha("9"), 1),)),)])
    assert await marks(store) == {"2": False}


async def test_marks_are_paged(store: MetadataStore) -> None:
    await store.commit([(MarkBlobs(tuple(sha(letter) for letter in "3142")),)])
    first = await store.marked_blobs(after="", limit=3)
    assert [mark.sha256 for mark in first] == [sha("1"), sha("2"), sha("3")]
    rest = await store.marked_blobs(after=first[-1].sha256, limit=3)
    assert [mark.sha256 for mark in rest] == [sha("4")]


# ------------------------------------------------------------------------------ of SQLite


async def test_uses_by_a_graph_that_is_gone_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    store = SqliteMetadataStore(path)
    await store.open()
    await store.commit([(of_graph("a", "g", "1"),)])
    assert not [text for text in damages_of(path) if "blob_uses" in text]
    store._write_connection.execute("UPDATE specs SET key = 'h'")
    await store.close()
    assert "table blob_uses: there are rows of graph g, which is not in table specs" in damages_of(path)


async def test_blobs_of_an_older_database_are_known(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    connection = sqlite3.connect(path, isolation_level=None)
    first = migrations("sqlite")[0]
    connection.executescript("CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    connection.executescript(f"{first.sql} INSERT INTO migrations VALUES ({first.number}, '{first.name}')")
    connection.execute(
        "INSERT INTO tasks (run_id, task_id, seq, status, attempt, failures, change, output_bytes, output_blob, "
        "spec_key) VALUES ('a', 't', 0, ?, 1, 0, 1, 9, ?, '')",
        (TaskStatus.SUCCESSFUL.value, sha("1")),
    )
    connection.close()
    store = SqliteMetadataStore(path)
    await store.open()
    await store.commit([(MarkBlobs((sha("1"), sha("2"))),)])
    assert await marks(store) == {"1": True, "2": False}
    await store.close()


async def test_waiting_and_unfinished_runs_are_read_by_their_indexes(tmp_path: Path) -> None:
    store = SqliteMetadataStore(tmp_path / "perdure.db")
    await store.open()
    assert store._read_connection is not None
    await store.commit([(add("a"),), (add("b", PENDING),)])
    statements: list[str] = []
    store._read_connection.set_trace_callback(statements.append)
    await store.pending_runs("default", limit=9)
    await store.count_pending()
    await store.unfinished_runs(after="a", limit=9)
    await store.count_calls("a")
    await store.list_runs(RunQuery("default", 9))
    await store.list_runs(RunQuery("default", 9, order_by="update_ms"))
    await store.list_runs(RunQuery("default", 9, of_actors=True))
    await store.running_runs()
    store._read_connection.set_trace_callback(None)
    await store.close()
    connection = sqlite3.connect(tmp_path / "perdure.db")
    plans = [" ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")) for text in statements]
    connection.close()
    assert ["workflows_pending" in plan for plan in plans[:2]] == [True, True], plans
    names = ("runs_unfinished", "events_calls", "workflows_created", "workflows_updated", "actors_created")
    assert [name for name, plan in zip(names, plans[2:], strict=False) if name not in plan] == [], plans
    assert all("SEARCH" in plan for plan in plans[7:]), plans
    assert "(namespace=? AND status=?)" in plans[8]
    # Actors that were made in the same millisecond are sorted by their ids.
    sorts = "USE TEMP B-TREE FOR RIGHT PART OF ORDER BY", "USE TEMP B-TREE FOR LAST TERM OF ORDER BY"
    assert plans[6].endswith(sorts), plans
    assert not any("TEMP B-TREE" in plan for plan in plans if plan is not plans[6]), plans


async def test_blobs_that_nobody_knows(store: MetadataStore) -> None:
    await store.commit([(add("a"), UseBlobs("a", (sha("1"), sha("2")))), (MarkBlobs((sha("3"),)),)])
    asked = [sha(letter) for letter in "12345"]
    assert sorted(await store.unused_blobs(asked)) == [sha("4"), sha("5")]
    await store.commit([(DeleteRun("a"),)])  # they are marked now
    assert sorted(await store.unused_blobs(asked)) == [sha("4"), sha("5")]
    await store.commit([(Unmark(tuple(await store.marked_blobs(after="", limit=9))),)])
    assert sorted(await store.unused_blobs(asked)) == asked
    assert await store.unused_blobs([]) == []


# ------------------------------------------------------------------------------ what ended long ago


async def ended(store: MetadataStore, before_ms: int, limit: int = 99) -> list[str]:
    return [row.run_id for row in await store.finished_runs(before_ms=before_ms, limit=limit)]


async def test_runs_that_ended_before_a_moment(store: MetadataStore) -> None:
    names = ("a", "b", "c", "d", "e")
    await store.commit([(add(name, namespace="n" if name == "b" else "default"),) for name in names])
    for name, status, at_ms in (
        ("d", RunStatus.SUCCESSFUL, 10),
        ("b", RunStatus.FAILED, 20),
        ("a", RunStatus.CANCELED, 20),
        ("c", RunStatus.RESUMABLE, 5),
    ):
        await store.commit([(SetRun(name, status, at_ms),)])
    assert await ended(store, 20) == ["d"]
    assert await ended(store, 21) == ["d", "a", "b"]
    assert await ended(store, 21, 2) == ["d", "a"]
    await store.commit([(SetRun("b", RUNNING, 30, resumed=True),)])
    assert await ended(store, 99) == ["d", "a"]
    await store.commit([(DeleteRun("d"),)])
    assert await ended(store, 99) == ["a"]
    replaced = replace(add("x").row, workflow_id="id-a")
    await store.commit([(AddRun(replaced, b"graph", replaces="a"),)])
    assert await ended(store, 99) == ["a"]
