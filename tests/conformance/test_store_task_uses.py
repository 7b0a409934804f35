"""Promises of every metadata store about blobs and graphs of tasks that are dropped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conformance.stores import STORES, open_store
from perdure.model import RunStatus, TaskStatus
from perdure.storage.ports import MetadataStore
from perdure.storage.rows import ACTOR, RunRow, TaskRow
from perdure.storage.sqlite.check import damages_of
from perdure.storage.sqlite.store import SqliteMetadataStore
from perdure.storage.writes import AddRun, DeleteRun, DropTasks, PutSpec, PutTask, Unmark, UseBlobs, Write


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetadataStore]:
    async with open_store(request, tmp_path) as store:
        yield store


def add(name: str = "a") -> AddRun:
    return AddRun(RunRow(name, "default", f"id-{name}", RunStatus.RUNNING, "class", 1, 1, kind=ACTOR), b"class")


def use(task_id: str, *letters: str, run_id: str = "a") -> UseBlobs:
    return UseBlobs(run_id, tuple(sha(letter) for letter in letters), task_id)


def sha(letter: str) -> str:
    return letter * 64


async def marks(store: MetadataStore) -> dict[str, bool]:
    """The marked blobs, and whether they are used."""
    return {mark.sha256[0]: mark.is_used for mark in await store.marked_blobs(after="", limit=99)}


async def commit(store: MetadataStore, *writes: Write) -> None:
    await store.commit([writes])


async def test_blobs_of_a_dropped_task_are_marked(store: MetadataStore) -> None:
    await commit(store, add(), use("t", "1", "2"), use("u", "3"))
    await commit(store, use("t", "2"))
    assert await marks(store) == {}
    for _ in range(2):
        await commit(store, DropTasks("a", ("t", "missing")))
        assert await marks(store) == {"1": False, "2": False}
    await commit(store, DeleteRun("a"))
    assert await marks(store) == {"1": False, "2": False, "3": False}


@pytest.mark.parametrize("other", [use("", "1"), use("u", "1"), use("t", "1", run_id="b")])
async def test_a_blob_that_others_use_stays_used(store: MetadataStore, other: UseBlobs) -> None:
    await commit(store, add(), use("t", "1"))
    await commit(store, add("b"), other)
    await commit(store, DropTasks("a", ("t",)))
    assert await marks(store) == {"1": True}
    await commit(store, DeleteRun(other.run_id))
    assert await marks(store) == {"1": False}


async def test_a_part_that_is_written_a_thousand_times_uses_one_blob(store: MetadataStore) -> None:
    names = [f"{number:064x}" for number in range(1_000)]
    await commit(store, add())
    for start in range(0, 1_000, 50):
        await store.commit(
            [
                (UseBlobs("a", (names[number],), f"part@{number}"), DropTasks("a", (f"part@{number - 1}",)))
                for number in range(start, start + 50)
            ]
        )
    found = await store.marked_blobs(after="", limit=9_999)
    assert [(mark.sha256, mark.is_used) for mark in found] == [(name, False) for name in names[:-1]]
    assert await store.unused_blobs([names[-1]]) == []


async def test_a_value_that_does_not_change_stays_used(store: MetadataStore) -> None:
    await commit(store, add(), use("part@1", "1"))
    await commit(store, use("part@2", "1"), DropTasks("a", ("part@1",)))
    assert await marks(store) == {"1": True}
    await commit(store, use("part@3", "2"), DropTasks("a", ("part@2",)))
    assert await marks(store) == {"1": False}


@pytest.mark.parametrize("is_stored", [False, True])
async def test_uses_and_drops_of_a_commit_are_in_order(store: MetadataStore, is_stored: bool) -> None:
    await commit(store, add(), *((use("t", "1"), use("u", "3")) if is_stored else ()))
    await commit(store, use("t", "1"), DropTasks("a", ("t", "u")), use("t", "2"), use("u", "3"))
    assert await marks(store) == ({"1": False, "3": True} if is_stored else {"1": False})
    assert sorted(await store.unused_blobs([sha("2"), sha("3")])) == []


async def test_a_mark_is_newer_than_an_earlier_look(store: MetadataStore) -> None:
    """A sweep that looked before the drop does not remove its mark."""
    await commit(store, add(), use("t", "1"), use("u", "1"))
    await commit(store, DropTasks("a", ("t",)))
    seen = tuple(await store.marked_blobs(after="", limit=9))
    await commit(store, Unmark(seen), DropTasks("a", ("u",)), Unmark(seen))
    assert await marks(store) == {"1": False}


# ------------------------------------------------------------------------------ graphs


def put(task_id: str, spec_key: str, run_id: str = "a") -> PutTask:
    return PutTask(TaskRow(run_id, task_id, 1, TaskStatus.SUCCESSFUL, 1, spec_key=spec_key))


async def graphs(store: MetadataStore) -> set[str]:
    return set(await store.read_specs(["class", "g", "h", "i"]))


async def test_graphs_go_with_the_last_task_that_names_them(store: MetadataStore) -> None:
    specs = [PutSpec(key, key.encode()) for key in ("g", "h", "i")]
    await commit(store, add(), *specs, put("t", "g"), put("u", "g"), put("v", "h"), put("w", "i"))
    await commit(store, DropTasks("a", ("w",)))  # without its graph
    await commit(store, DropTasks("a", ("t", "v", "missing"), and_graphs=True))
    assert await graphs(store) == {"class", "g", "i"}
    await commit(store, DropTasks("a", ("u",), and_graphs=True))
    assert await graphs(store) == {"class", "i"}


async def test_a_graph_that_another_record_names_stays(store: MetadataStore) -> None:
    await commit(store, add(), PutSpec("g", b"g"), put("t", "g"), put("u", "class"))
    await commit(store, add("b"), put("t", "g", "b"))
    await commit(store, DropTasks("a", ("t", "u"), and_graphs=True))
    assert await graphs(store) == {"class", "g"}


async def test_a_graph_is_put_and_dropped_in_the_order_of_writes(store: MetadataStore) -> None:
    await commit(store, add(), PutSpec("g", b"g"), put("t", "g"))
    drop = DropTasks("a", ("t",), and_graphs=True)
    await commit(store, drop, PutSpec("g", b"g"), put("t", "g"))
    assert await graphs(store) == {"class", "g"}
    await commit(store, PutSpec("h", b"h"), put("t", "h"), drop, put("t", ""))
    assert await graphs(store) == {"class", "g"}  # "g" was replaced, and not dropped
    stored = await store.load_run("a")
    assert stored is not None
    assert [task.task_id for task in stored.tasks] == ["t"]


# ------------------------------------------------------------------------------ of SQLite


async def test_a_damaged_use_is_found(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    store = SqliteMetadataStore(path)
    await store.open()
    await commit(store, add(), use("t", "1"), use("", "2"))
    assert store._write_connection is not None
    assert not [text for text in damages_of(path) if "blob_uses" in text]
    store._write_connection.execute("UPDATE blob_uses SET task_id = 'u' WHERE task_id = 't'")
    assert [text for text in damages_of(path) if "task_id" in text and "blob_uses" in text]
    await store.close()
