"""Promises of every metadata store about actors: they hold no slots, and are listed and counted apart."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conformance.stores import STORES, open_store
from perdure.engine.actor.mailbox import MAIL
from perdure.model import RunStatus, TaskStatus
from perdure.storage.examine import examine_rows
from perdure.storage.ports import MetadataStore
from perdure.storage.postgres.store import PostgresMetadataStore
from perdure.storage.queries import Comparison, RunQuery
from perdure.storage.rows import ACTOR, CALL_KEY, IDLE_TASK, RunRow, TaskRow, Tombstone
from perdure.storage.sqlite.store import SqliteMetadataStore
from perdure.storage.writes import (
    AddEvent,
    AddRun,
    ConsumeEvent,
    DeleteRun,
    DropTasks,
    KeepTombstones,
    Limit,
    PutTask,
    SetAsideRuns,
    SetDormant,
    SetRun,
    UseBlobs,
    Write,
)

RUNNING, PENDING = RunStatus.RUNNING, RunStatus.PENDING


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetadataStore]:
    async with open_store(request, tmp_path) as store:
        yield store


def add(name: str, kind: str = ACTOR, status: RunStatus = RUNNING, create_ms: int = 1, **given: Any) -> AddRun:
    return AddRun(RunRow(name, "default", f"id-{name}", status, "spec", create_ms, create_ms, kind=kind, **given), b"")


async def commit(store: MetadataStore, *entries: tuple[Write, ...]) -> list[bool]:
    """Which of the entries were refused."""
    return [result.is_refused for result in (await store.commit(entries)).results]


async def listed(store: MetadataStore, **query: Any) -> list[str]:
    return [row.run_id for row in await store.list_runs(RunQuery("default", 99, **query))]


# ------------------------------------------------------------------------------ slots


async def test_actors_neither_run_nor_wait_as_workflows_do(store: MetadataStore) -> None:
    kinds = ("graph", "counter", ACTOR)
    for status in (RUNNING, PENDING):
        await commit(store, *[(add(f"{kind}-{status}", kind, status),) for kind in kinds])
    assert sorted(await store.running_runs()) == [("default", "counter-RUNNING"), ("default", "graph-RUNNING")]
    assert await store.count_pending() == {"default": 2}
    waiting = await store.pending_runs("default", limit=9)
    assert sorted(row.run_id for row in waiting) == ["counter-PENDING", "graph-PENDING"]
    assert [row.run_id for row in await store.unfinished_runs(after="", limit=9)] == [
        "actor-RUNNING",
        "counter-RUNNING",
        "graph-RUNNING",
    ]


@pytest.mark.parametrize("apart", [False, True])
async def test_limits_do_not_count_actors(store: MetadataStore, apart: bool) -> None:
    most = Limit("default", RUNNING, 2)
    entries: list[tuple[Write, ...]] = [
        (add("a"),),
        (add("b"),),
        (add("w", "graph", PENDING),),
        (most, add("x", "graph")),
        (SetRun("a", RunStatus.FAILED, 2),),
        (most, SetRun("w", RUNNING, 2, expects=PENDING)),
        (SetRun("a", RUNNING, 3, resumed=True),),
        (most, add("y", "graph")),
        (DeleteRun("b"),),
        (most, add("z", "graph")),
        (most, add("c")),
        (SetRun("x", RunStatus.SUCCESSFUL, 4),),
        (most, add("z", "graph")),
    ]
    if apart:
        refused = [(await commit(store, entry))[0] for entry in entries]
    else:
        refused = await commit(store, *entries)
    assert [place for place, is_refused in enumerate(refused) if is_refused] == [7, 9, 10]


# ------------------------------------------------------------------------------ lists


async def test_actors_are_listed_apart(store: MetadataStore) -> None:
    kinds = ("graph", ACTOR, "counter", ACTOR)
    await commit(
        store, *[(add(f"{n}", kind, create_ms=n, labels={"x": f"{n % 2}"}),) for n, kind in enumerate(kinds, 1)]
    )
    assert (await listed(store), await listed(store, of_actors=True)) == (["3", "1"], ["4", "2"])
    for order_by in ("update_ms", "workflow_id"):
        up = {"order_by": order_by, "descending": False}
        assert (await listed(store, **up), await listed(store, of_actors=True, **up)) == (["1", "3"], ["2", "4"])
    even = Comparison("labels.x", "=", "0")
    assert (await listed(store, where=even), await listed(store, where=even, of_actors=True)) == ([], ["4", "2"])
    named = Comparison("workflow_id", "=", "id-2")
    assert (await listed(store, where=named), await listed(store, where=named, of_actors=True)) == ([], ["2"])
    assert await listed(store, where=Comparison("status", "=", "RUNNING")) == ["3", "1"]


async def test_actors_of_one_moment_are_paged_by_their_ids(store: MetadataStore) -> None:
    await commit(store, *[(add(f"{n:02}", create_ms=n // 4),) for n in range(10)])
    for descending in (True, False):
        found: list[str] = []
        after = None
        while page := await store.list_runs(RunQuery("default", 3, descending=descending, after=after, of_actors=True)):
            found += [row.run_id for row in page]
            after = (page[-1].create_ms, page[-1].run_id)
        assert found == sorted((f"{n:02}" for n in range(10)), reverse=descending)


# ------------------------------------------------------------------------------ the mailbox


def test_the_machine_and_the_stores_mean_the_same_events() -> None:
    assert CALL_KEY == MAIL


async def test_calls_that_no_task_has_consumed_are_counted(store: MetadataStore) -> None:
    await commit(store, (add("a"),), (add("b"),))
    assert await store.count_calls("a") == 0
    entries = [(AddEvent("a", f"{n}", CALL_KEY, b"", 1),) for n in range(5)]
    sequences = [result.sequence for result in (await store.commit([*entries, *entries])).results[:5]]
    await commit(store, (AddEvent("a", "9", "other", b"", 1),), (AddEvent("b", "9", CALL_KEY, b"", 1),))
    assert await store.count_calls("a") == 5
    await commit(store, (ConsumeEvent("a", sequences[0], "0"), ConsumeEvent("a", sequences[3], "3")))
    assert await store.count_calls("a") == 3
    await commit(store, (DropTasks("a", ("0",), and_events=True),))
    assert (await store.count_calls("a"), await store.count_calls("b")) == (3, 1)
    await commit(store, (DeleteRun("a"),))
    assert (await store.count_calls("a"), await store.count_calls("nobody")) == (0, 0)


# ------------------------------------------------------------------------------ housekeeping


async def test_an_actor_is_not_deleted_after_an_event_that_was_not_known(store: MetadataStore) -> None:
    await commit(store, (add("a"),), (add("b"),))
    known = (await store.commit([(AddEvent("a", "1", CALL_KEY, b"", 1),)])).results[0].sequence
    await commit(store, (AddEvent("a", "2", CALL_KEY, b"", 1),))
    tombstone = KeepTombstones((Tombstone("key", b"", 99),))
    assert await commit(store, (DeleteRun("a", known), tombstone), (DeleteRun("b", 0),)) == [True, False]
    assert [row.run_id for row in await store.get_runs(["a", "b"])] == ["a"]
    assert await store.read_tombstone("key") is None
    last = (await store.read_events("a", after=known))[0].sequence
    assert await commit(store, (ConsumeEvent("a", last, "2"),), (DeleteRun("a", known),)) == [False, True]
    added = AddEvent("a", "3", CALL_KEY, b"", 1)
    assert await commit(store, (added,), (DeleteRun("a", last),)) == [False, True], "in the same commit"
    last = (await store.read_events("a", after=last))[0].sequence
    assert await commit(store, (DeleteRun("a", last),), (DeleteRun("a", last),)) == [False, False]
    assert await commit(store, (DeleteRun("a", 0),)) == [False], "the commit is repeated"
    assert not await store.get_runs(["a"])


async def test_idle_actors_are_not_set_aside(store: MetadataStore) -> None:
    """A call that comes after the start is not what the engine was told to leave alone."""
    names = ("idle", "busy", "called", "timed", "answered", "short-lived")
    await commit(store, *[(add(name),) for name in (*names, "failed")], (add("graph", "graph"),))
    await commit(store, *[(SetDormant(name, True),) for name in (*names, "graph") if name != "busy"])
    await commit(store, (SetRun("failed", RunStatus.FAILED, 2),))
    call = (await store.commit([(AddEvent("answered", "1", CALL_KEY, b"", 1),)])).results[0].sequence
    await commit(
        store,
        (AddEvent("called", "1", CALL_KEY, b"", 1), AddEvent("idle", "1", "other", b"", 1)),
        (ConsumeEvent("answered", call, "1"),),
    )
    timer = PutTask(TaskRow("timed", ".create", 1, TaskStatus.BACKING_OFF, 1, wake_ms=9))
    end = PutTask(TaskRow("short-lived", IDLE_TASK, 1, TaskStatus.RUNNING, 1, wake_ms=9))
    await commit(store, (timer, end), (SetAsideRuns(9),))
    found = {row.run_id: str(row.status) for row in await store.get_runs([*names, "failed", "graph"])}
    assert found == {
        "idle": "RUNNING",
        "answered": "RUNNING",
        "short-lived": "RUNNING",
        "busy": "RESUMABLE",
        "called": "RESUMABLE",
        "timed": "RESUMABLE",
        "failed": "FAILED",
        "graph": "RESUMABLE",
    }


async def test_actors_that_failed_are_not_old(store: MetadataStore) -> None:
    """They may have a state. Those that were canceled were about to be deleted."""
    await commit(store, *[(add(name),) for name in ("ready", "failed", "canceled")], (add("graph", "graph"),))
    await commit(store, (SetDormant("ready", True),), (SetRun("failed", RunStatus.FAILED, 5),))
    await commit(store, (SetRun("canceled", RunStatus.CANCELED, 5),), (SetRun("graph", RunStatus.FAILED, 5),))
    assert [row.run_id for row in await store.finished_runs(before_ms=99, limit=9)] == ["canceled", "graph"]


async def test_the_doctor_finds_nothing_wrong_with_actors(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    key, call = hashlib.sha256(b"class").hexdigest(), AddEvent("a", "1", CALL_KEY, b"call", 1)
    async with request.getfixturevalue("postgres_server").database() as url:
        for store in (SqliteMetadataStore(tmp_path / "perdure.db"), PostgresMetadataStore(url)):
            await store.open()
            row = replace(add("a").row, spec_key=key)
            await commit(store, (AddRun(row, b"class", {"call": b"input"}), SetDormant("a", True)))
            (sequence,) = [result.sequence for result in (await store.commit([(call,)])).results]
            states = [PutTask(TaskRow("a", f".state@{n}", n, TaskStatus.SUCCESSFUL, 1, output=b"x")) for n in (1, 2)]
            await commit(store, (states[0], DropTasks("a", (), inputs=("call",))))
            await commit(store, (states[1], UseBlobs("a", ("1" * 64,), ".state@2"), DropTasks("a", (".state@1",))))
            await commit(store, (ConsumeEvent("a", sequence, "1"),))
            await store.close()
        for place in (str(tmp_path), url):
            assert await examine_rows(place, {"graph", ACTOR}) == []
