"""Promises of every metadata store, checked for every implementation."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.stores import STORES, open_store
from perdure.model import RunStatus, TaskStatus
from perdure.storage.ports import Entry, MetadataStore, StorageError, StorageFull
from perdure.storage.postgres.reads import recovery as postgres_read
from perdure.storage.queries import AllOf, AnyOf, Comparison, RunQuery
from perdure.storage.rows import RunRow, StoredRun, TaskRow, Timer, ValueKey
from perdure.storage.sqlite.reads import recovery as sqlite_read
from perdure.storage.sqlite.store import SqliteMetadataStore
from perdure.storage.writes import (
    AddEvent,
    AddRun,
    Committed,
    ConsumeEvent,
    DeleteRun,
    PutSpec,
    PutTask,
    SetAsideRuns,
    SetDormant,
    SetRun,
)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetadataStore]:
    async with open_store(request, tmp_path) as store:
        yield store
        await store.close()


def row(name: str, /, **given: object) -> RunRow:
    usual = RunRow(f"run-{name}", "default", f"id-{name}", RunStatus.RUNNING, f"spec-{name}", create_ms=1, update_ms=1)
    return replace(usual, **given)  # type: ignore[arg-type]


def add(name: str, replaces: str = "", /, **given: object) -> AddRun:
    return AddRun(row(name, **given), f"graph of {name}".encode(), {"x": b"input"}, replaces)


def task(run: str, name: str, seq: int = 0, **given: object) -> PutTask:
    usual = TaskRow(f"run-{run}", name, seq, TaskStatus.SUCCESSFUL, attempt=1, output=b"value", output_bytes=5)
    return PutTask(replace(usual, **given))  # type: ignore[arg-type]


async def put(store: MetadataStore, *entries: Entry) -> Committed:
    return await store.commit(list(entries))


# ------------------------------------------------------------------------------ runs


async def test_a_run_is_found_by_all_its_ids(store: MetadataStore) -> None:
    given = add("a", request_id="r", labels={"team": "pay"}, metadata='{"a":1}', priority=3, name="n", start_ms=5)
    committed = await put(store, (given,))
    expected = replace(given.row, change=committed.change)
    assert await store.find_run("default", "id-a") == expected
    assert await store.find_request("default", "r") == expected
    assert await store.get_run("run-a") == expected
    assert await store.find_run("other", "id-a") is None
    assert await store.find_request("default", "") is None
    assert await store.get_run("run-b") is None
    assert await store.read_values([ValueKey("run-a", input="x"), ValueKey("run-a", input="y")]) == [b"input", None]


@pytest.mark.parametrize("count", [1, 9], ids=["one", "many"])  # SQLite adds many runs by another path
async def test_a_run_keeps_its_kind(store: MetadataStore, count: int) -> None:
    kinds = ["graph", "actor"] * count
    await put(store, *((add(str(number), kind=kind),) for number, kind in enumerate(kinds)))
    await put(store, *((SetRun(f"run-{number}", RunStatus.RUNNING, 9, code="modules"),) for number in range(2 * count)))
    for number, kind in enumerate(kinds):
        stored = await store.load_run(f"run-{number}")
        assert stored is not None
        assert (stored.run.kind, stored.damage) == (kind, "")
    listed = [
        row
        for of_actors in (False, True)
        for row in await store.list_runs(RunQuery("default", 2 * count, of_actors=of_actors))
    ]
    assert {row.run_id: row.kind for row in listed} == {f"run-{number}": kind for number, kind in enumerate(kinds)}


async def test_adding_the_same_run_again_changes_nothing(store: MetadataStore) -> None:
    await put(store, (add("a"),))
    before = await store.find_run("default", "id-a")
    committed = await put(store, (add("a", name="other"),))
    assert not committed.results[0].is_refused
    assert await store.find_run("default", "id-a") == before


async def test_a_run_whose_ids_are_taken_is_refused_with_its_whole_entry(store: MetadataStore) -> None:
    await put(store, (add("a", request_id="r"),))
    same_id = replace(add("b"), row=row("b", workflow_id="id-a"))
    same_request = add("c", request_id="r")
    committed = await put(store, (same_id, task("b", "t")), (same_request, PutSpec("k", b"d")), (add("d"),))
    assert [result.is_refused for result in committed.results] == [True, True, False]
    assert await store.get_run("run-b") is None
    assert await store.read_values([ValueKey("run-b", "t")]) == [None]
    assert await store.read_specs(["k"]) == {}
    assert await store.get_run("run-d") is not None


async def test_a_run_replaces_the_current_one_it_names_and_no_other(store: MetadataStore) -> None:
    await put(store, (add("a", status=RunStatus.FAILED),))
    new = AddRun(row("b", workflow_id="id-a"), b"graph", {}, replaces="run-a")
    assert not (await put(store, (new,))).results[0].is_refused
    current = await store.find_run("default", "id-a")
    assert current is not None
    assert current.run_id == "run-b"
    assert await store.get_run("run-a") is not None
    late = AddRun(row("c", workflow_id="id-a"), b"graph", {}, replaces="run-a")
    assert (await put(store, (late,))).results[0].is_refused
    nobody = AddRun(row("d"), b"graph", {}, replaces="run-x")
    assert (await put(store, (nobody,))).results[0].is_refused


async def test_two_runs_of_one_id_in_one_commit(store: MetadataStore) -> None:
    other = AddRun(row("b", workflow_id="id-a"), b"graph")
    committed = await put(store, (add("a"),), (other,))
    assert [result.is_refused for result in committed.results] == [False, True]


async def test_states_of_a_run(store: MetadataStore) -> None:
    await put(store, (add("a"),))
    await put(store, (SetRun("run-a", RunStatus.FAILED, 20, failure=b"no"),))
    failed = await store.get_run("run-a")
    assert failed is not None
    assert (failed.status, failed.end_ms, failed.update_ms, failed.failure) == (RunStatus.FAILED, 20, 20, b"no")
    await put(store, (SetRun("run-a", RunStatus.RUNNING, 30, resumed=True),))
    resumed = await store.get_run("run-a")
    assert resumed is not None
    assert (resumed.status, resumed.end_ms, resumed.resume_count, resumed.failure) == (RunStatus.RUNNING, None, 1, None)
    end = SetRun("run-a", RunStatus.SUCCESSFUL, 40, output_task="t", output_wraps=2)
    committed = await put(store, (end,))
    done = await store.get_run("run-a")
    assert done is not None
    assert (done.output_task, done.output_wraps, done.end_ms, done.change) == ("t", 2, 40, committed.change)


async def test_unfinished_runs_are_paged_without_dormant_ones(store: MetadataStore) -> None:
    for name in "abcd":
        await put(store, (add(name),))
    await put(store, (SetDormant("run-b", True),), (SetRun("run-c", RunStatus.CANCELED, 9),))
    assert [row.run_id for row in await store.unfinished_runs(after="", limit=1)] == ["run-a"]
    assert [row.run_id for row in await store.unfinished_runs(after="run-a", limit=9)] == ["run-d"]


async def test_unfinished_runs_can_be_set_aside(store: MetadataStore) -> None:
    await put(store, (add("a"),), (add("b"), SetRun("run-b", RunStatus.FAILED, 5)))
    await put(store, (SetAsideRuns(9),))
    statuses = {row.run_id: row.status for row in await store.list_runs(RunQuery("default", 9))}
    assert statuses == {"run-a": RunStatus.RESUMABLE, "run-b": RunStatus.FAILED}


# ------------------------------------------------------------------------------ tasks, graphs, values


async def test_a_run_with_more_tasks_than_a_page_is_loaded_whole(
    store: MetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_read, "LOADED_AT_ONCE", 3)
    for count in (3, 4, 7):
        run_id = f"run-{count}"
        await put(store, (add(str(count)),))
        await put(store, tuple(task(str(count), f"t{number}", number) for number in range(count)))
        await put(store, *((AddEvent(run_id, f"e{number}", "k", b"", 5),) for number in range(count)))
        stored = await store.load_run(run_id)
        assert stored is not None
        assert [row.task_id for row in stored.tasks] == [f"t{number}" for number in range(count)]
        assert [row.event_id for row in stored.events] == [f"e{number}" for number in range(count)]
        assert stored.last_event == stored.events[-1].sequence
        assert stored.inputs == ("x",)


async def test_other_reads_do_not_wait_until_a_run_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    inner = sqlite_read.load_run

    def load_run(sql: sqlite3.Connection, run_id: str) -> StoredRun | None:
        may_end.wait()
        return inner(sql, run_id)

    monkeypatch.setattr(sqlite_read, "load_run", load_run)
    store = SqliteMetadataStore(tmp_path / "perdure.db")
    await store.open()
    try:
        await put(store, (add("a"),))
        loading = asyncio.create_task(store.load_run("run-a"))
        assert await store.read_values([ValueKey("run-a", input="x")]) == [b"input"]
        assert len(await store.list_runs(RunQuery("default", 10))) == 1
        await put(store, (add("b"),))
        assert not loading.done()
        may_end.set()
        assert await loading is not None
    finally:
        may_end.set()
        await store.close()


async def test_tasks_are_replaced_and_loaded_in_order_without_their_values(store: MetadataStore) -> None:
    await put(store, (add("a"),))
    await put(store, (task("a", "late", 2), task("a", "early", 0, status=TaskStatus.BACKING_OFF, output=None)))
    committed = await put(store, (task("a", "early", 1, spec_key="s", failure=b"f", started_ms=3, ended_ms=4),))
    stored = await store.load_run("run-a")
    assert stored is not None
    assert stored.inputs == ("x",)
    assert [row.task_id for row in stored.tasks] == ["early", "late"]
    wanted = task("a", "early", 1, spec_key="s", failure=b"f", started_ms=3, ended_ms=4).row
    assert stored.tasks[0] == replace(wanted, output=None, change=committed.change)
    assert await store.read_values([ValueKey("run-a", "late"), ValueKey("run-a", "none")]) == [b"value", None]
    assert await store.load_run("run-x") is None


async def test_graphs_are_kept_by_their_key(store: MetadataStore) -> None:
    await put(store, (add("a"), PutSpec("more", b"data"), PutSpec("more", b"other")))
    assert await store.read_specs(["spec-a", "more", "none"]) == {"spec-a": b"graph of a", "more": b"data"}


async def test_timers_are_those_of_running_runs_the_earliest_first(store: MetadataStore) -> None:
    await put(store, (add("a"),), (add("b"), SetRun("run-b", RunStatus.FAILED, 5)))
    waits = {"output": None, "attempt": 3}
    await put(
        store,
        (
            task("a", "later", 0, status=TaskStatus.RUNNING, wake_ms=300, **waits),
            task("a", "sooner", 1, status=TaskStatus.BACKING_OFF, wake_ms=100, **waits),
            task("a", "canceled", 2, status=TaskStatus.CANCELED, wake_ms=100, **waits),
            task("a", "none", 3, status=TaskStatus.RUNNING, **waits),
            task("b", "over", 4, status=TaskStatus.RUNNING, wake_ms=100, **waits),
        ),
    )
    sooner, later = Timer("run-a", "sooner", 3, 100), Timer("run-a", "later", 3, 300)
    assert await store.next_timers(until_ms=300, limit=9) == [sooner, later]
    assert await store.next_timers(until_ms=299, limit=9) == [sooner]
    assert await store.next_timers(until_ms=300, limit=1) == [sooner]
    await put(store, (task("a", "sooner", 1),))
    assert await store.next_timers(until_ms=300, limit=9) == [later]


# ------------------------------------------------------------------------------ events


async def test_events_are_numbered_kept_and_consumed(store: MetadataStore) -> None:
    await put(store, (add("a"),), (add("b"),))
    first = await put(store, (AddEvent("run-a", "e1", "k", b"1", 5),))
    second = await put(store, (AddEvent("run-a", "e2", "k", b"2", 6),))
    other = await put(store, (AddEvent("run-b", "e1", "k", b"3", 7),))
    numbers = [committed.results[0].sequence for committed in (first, second, other)]
    assert numbers == sorted(set(numbers))
    again = await put(store, (AddEvent("run-a", "e1", "k", b"other", 8),))
    assert again.results[0].is_duplicate
    assert again.results[0].sequence == numbers[0]
    assert not (await put(store, (AddEvent("run-a", "e1", "another key", b"4", 8),))).results[0].is_duplicate
    await put(store, (ConsumeEvent("run-a", numbers[0], "t"),))
    assert [await store.find_event("run-a", "k", name) for name in ("e1", "e2", "e3")] == [*numbers[:2], None]
    assert await store.find_event("run-c", "k", "e1") is None
    stored = await store.load_run("run-a")
    assert stored is not None
    assert [event.payload for event in stored.events] == [b"2", b"4"]
    assert stored.last_event > numbers[2]
    assert await store.read_events("run-a", after=0) == list(stored.events)
    assert await store.read_events("run-a", after=numbers[1]) == list(stored.events[1:])
    assert await store.read_events("run-c", after=0) == []


# ------------------------------------------------------------------------------ listing and changes


async def fill(store: MetadataStore) -> None:
    await put(
        store,
        (add("a", create_ms=10, labels={"team": "pay"}, name="trip", priority=1),),
        (add("b", create_ms=20, labels={"team": "ship"}, name="train"),),
        (add("c", create_ms=20, end_ms=50, status=RunStatus.FAILED, queue="slow"),),
        (add("d", create_ms=30, namespace="other"),),
    )


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (None, "cba"),
        (Comparison("status", "=", "FAILED"), "c"),
        (Comparison("status", "!=", "FAILED"), "ba"),
        (Comparison("name", ":", "tr"), "ba"),
        (Comparison("workflow_id", "=", "id-b"), "b"),
        (Comparison("create_ms", "<", 20), "a"),
        (Comparison("create_ms", "<=", 20), "cba"),
        (Comparison("create_ms", ">", 10), "cb"),
        (Comparison("priority", ">=", 1), "a"),
        (Comparison("queue", "=", "slow"), "c"),
        (Comparison("end_ms", ">", 0), "c"),
        (Comparison("end_ms", "!=", 7), "c"),
        (Comparison("labels.team", "=", "pay"), "a"),
        (Comparison("labels.team", "!=", "pay"), "b"),
        (Comparison("labels.team", ":", "s"), "b"),
        (Comparison("labels.none", "=", ""), ""),
        (AllOf((Comparison("name", ":", "t"), Comparison("create_ms", "=", 20))), "b"),
        (AnyOf((Comparison("name", "=", "trip"), Comparison("queue", "=", "slow"))), "ca"),
        (Comparison("name", "=", "trip\0"), ""),
        (Comparison("name", "!=", "trip\0"), "cba"),
        (Comparison("name", "<", "trip\0"), "cba"),
        (Comparison("name", "<=", "train\0"), "cb"),
        (Comparison("name", ">", "train\0"), "a"),
        (Comparison("name", ">=", "trip\0"), ""),
        (Comparison("labels.team", ":", "p\0"), ""),
        (AllOf(()), "cba"),
        (AnyOf(()), ""),
    ],
)
async def test_filters(store: MetadataStore, where: Comparison | None, names: str) -> None:
    await fill(store)
    found = await store.list_runs(RunQuery("default", 9, where))
    assert "".join(row.workflow_id[-1] for row in found) == names


@pytest.mark.parametrize("order_by", ["create_ms", "update_ms", "workflow_id"])
@pytest.mark.parametrize("descending", [True, False])
async def test_pages_join_without_gap_or_repetition(store: MetadataStore, order_by: str, descending: bool) -> None:
    names = [f"{index:02d}" for index in range(11)]
    await put(store, *((add(name, create_ms=int(name) // 4, update_ms=int(name) % 3),) for name in names))
    query = RunQuery("default", 3, order_by=order_by, descending=descending)
    seen: list[RunRow] = []
    while page := await store.list_runs(query):
        seen += page
        query = replace(query, after=(getattr(page[-1], order_by), page[-1].run_id))
    places = [(getattr(row, order_by), row.run_id) for row in seen]
    assert len(set(places)) == 11
    assert places == sorted(places, reverse=descending)


async def test_changes_come_by_commit_and_a_page_never_ends_inside_one(store: MetadataStore) -> None:
    start = await store.last_change()
    first = await put(store, *((add(name),) for name in "abc"))
    second = await put(store, (SetRun("run-a", RunStatus.FAILED, 9),), (task("b", "t"),))
    assert await store.last_change() == second.change > first.change > start
    assert start == 0 or store.is_shared
    changes = await store.read_changes("default", after=start, limit=1)
    assert [row.run_id for row in changes] == ["run-b", "run-c"]
    rest = await store.read_changes("default", after=first.change, limit=9)
    assert [row.run_id for row in rest] == ["run-a"]
    assert await store.read_changes("other", after=0, limit=9) == []
    assert await store.read_tasks("run-b", after=first.change) == [("t", second.change)]
    assert await store.read_tasks("run-b", after=second.change) == []


async def test_deleting_removes_all_that_is_the_runs_own_and_nothing_else(store: MetadataStore) -> None:
    await put(store, (add("a", spec_key="shared", request_id="r", labels={"team": "x"}),))
    await put(store, (add("b", spec_key="shared"), task("b", "t"), AddEvent("run-b", "e", "k", b"", 1)))
    await put(store, (task("a", "t", spec_key="own"), PutSpec("own", b"sub"), AddEvent("run-a", "e", "k", b"", 1)))
    await put(store, (DeleteRun("run-a"),))
    await put(store, (DeleteRun("run-a"),))
    assert await store.get_run("run-a") is None
    assert await store.find_run("default", "id-a") is None
    assert await store.find_request("default", "r") is None
    assert await store.read_values([ValueKey("run-a", "t"), ValueKey("run-a", input="x")]) == [None, None]
    assert set(await store.read_specs(["shared", "own"])) == {"shared"}
    assert await store.list_runs(RunQuery("default", 9, Comparison("labels.team", "=", "x"))) == []
    kept = await store.load_run("run-b")
    assert kept is not None
    assert (len(kept.tasks), len(kept.events)) == (1, 1)
    assert not (await put(store, (add("a", request_id="r"),))).results[0].is_refused


# ------------------------------------------------------------------------------ SQLite's own


async def test_sqlite_keeps_what_it_committed(tmp_path: Path) -> None:
    first = SqliteMetadataStore(tmp_path / "x.db")
    await first.open()
    await put(first, (add("a"), task("a", "t")))
    await first.close()
    second = SqliteMetadataStore(tmp_path / "x.db")
    await second.open()
    assert await second.read_values([ValueKey("run-a", "t")]) == [b"value"]
    assert await second.last_change() == 1
    await second.close()


async def test_sqlite_keeps_a_second_engine_out(tmp_path: Path) -> None:
    first, second = SqliteMetadataStore(tmp_path / "x.db"), SqliteMetadataStore(tmp_path / "x.db")
    await first.open()
    with pytest.raises(StorageError, match="another engine"):
        await second.open()
    await first.close()
    await second.open()
    await second.close()


async def test_a_full_sqlite_changes_nothing_and_works_again_later(tmp_path: Path) -> None:
    store = SqliteMetadataStore(tmp_path / "x.db", max_bytes=400_000)
    await store.open()
    await put(store, (add("a"),))
    before = await store.last_change()
    with pytest.raises(StorageFull):
        await put(store, (add("b"), task("b", "t", output=bytes(1_000_000))))
    assert await store.get_run("run-b") is None
    assert await store.last_change() == before
    assert not (await put(store, (add("b"),))).results[0].is_refused
    await store.close()


async def test_reads_do_not_wait_for_commits(tmp_path: Path) -> None:
    store = SqliteMetadataStore(tmp_path / "x.db")
    await store.open()
    await put(store, (add("a"),))
    commits = [asyncio.create_task(put(store, (task("a", f"t{index}"),))) for index in range(50)]
    assert await store.get_run("run-a") is not None
    await asyncio.gather(*commits)
    await store.close()
