"""Promises of every metadata store about records of tasks that are dropped, and the events that those consumed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.stores import STORES, open_store
from perdure.model import RunStatus, TaskStatus
from perdure.storage.ports import MetadataStore
from perdure.storage.rows import ACTOR, RunRow, TaskRow, ValueKey
from perdure.storage.sqlite.store import SqliteMetadataStore
from perdure.storage.writes import AddEvent, AddRun, ConsumeEvent, DropTasks, PutTask, Write


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetadataStore]:
    async with open_store(request, tmp_path) as store:
        yield store


def add(name: str = "a") -> AddRun:
    return AddRun(RunRow(name, "default", f"id-{name}", RunStatus.RUNNING, "class", 1, 1, kind=ACTOR), b"class")


def put(task_id: str, output: bytes | None = b"", run_id: str = "a", seq: int = 1) -> PutTask:
    output = task_id.encode() if output == b"" else output
    return PutTask(TaskRow(run_id, task_id, seq, TaskStatus.SUCCESSFUL, 1, output=output, output_bytes=1))


def event(event_id: str, run_id: str = "a") -> AddEvent:
    return AddEvent(run_id, event_id, "k", event_id.encode(), 5)


async def commit(store: MetadataStore, *entries: tuple[Write, ...]) -> list[int]:
    """The numbers of the entries' events."""
    return [result.sequence for result in (await store.commit(entries)).results]


async def tasks(store: MetadataStore, run_id: str = "a") -> dict[str, bytes | None]:
    """The outputs of a run's tasks."""
    stored = await store.load_run(run_id)
    assert stored is not None
    names = [task.task_id for task in stored.tasks]
    return dict(zip(names, await store.read_values([ValueKey(run_id, name) for name in names]), strict=True))


async def known(store: MetadataStore, *event_ids: str, run_id: str = "a") -> list[str]:
    """Those of the events that the store has, consumed or not."""
    return [name for name in event_ids if await store.find_event(run_id, "k", name) is not None]


async def test_dropped_tasks_are_gone_with_their_outputs(store: MetadataStore) -> None:
    await commit(store, (add(), add("b"), put("x"), put("y"), put("z", None), put("x", run_id="b")))
    await commit(store, (DropTasks("a", ("x", "z", "missing")), DropTasks("nobody", ("x",))))
    assert await tasks(store) == {"y": b"y"}
    assert await store.read_values([ValueKey("a", "x")]) == [None]
    assert await tasks(store, "b") == {"x": b"x"}
    await commit(store, (DropTasks("a", ("x", "z", "missing")),))
    assert await tasks(store) == {"y": b"y"}


async def test_a_task_may_come_back_without_its_output(store: MetadataStore) -> None:
    await commit(store, (add(), put("x")))
    await commit(store, (DropTasks("a", ("x",)),))
    await commit(store, (put("x", None),))
    assert await tasks(store) == {"x": None}


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("apart", [False, True])
async def test_drops_and_puts_of_a_commit_are_in_order(store: MetadataStore, is_stored: bool, apart: bool) -> None:
    await commit(store, (add(), *((put("kept", b"1"), put("gone", b"1")) if is_stored else ())))
    writes = (
        put("gone", b"2"),
        put("kept", b"2"),
        DropTasks("a", ("kept", "gone")),
        put("kept", b"3"),
        put("new"),
        DropTasks("a", ("none",)),
    )
    await commit(store, *([(write,) for write in writes] if apart else [writes]))
    assert await tasks(store) == {"kept": b"3", "new": b"new"}
    await commit(store, (put("new", b"4"), DropTasks("a", ("new",)), put("new", None), DropTasks("a", ("kept",))))
    assert await tasks(store) == {"new": None}


async def test_a_repeated_commit_drops_nothing_more(store: MetadataStore) -> None:
    await commit(store, (add(), put(".state@1")))
    entry = (put(".state@2"), DropTasks("a", (".state@1",)))
    for _ in range(3):
        await commit(store, entry)
        assert await tasks(store) == {".state@2": b".state@2"}


async def test_an_added_run_may_drop_at_once(store: MetadataStore) -> None:
    await commit(store, (add(), put("x"), DropTasks("a", ("x",)), put("y")))
    assert await tasks(store) == {"y": b"y"}


async def test_inputs_are_dropped_in_the_order_of_writes(store: MetadataStore) -> None:
    given = replace(add(), inputs={"call": b"1", "other": b"2"})
    await commit(store, (given,), (replace(add("b"), inputs={"call": b"3"}), DropTasks("b", (), inputs=("call",))))
    await commit(store, (DropTasks("a", (), inputs=("call", "missing")), DropTasks("nobody", (), inputs=("call",))))
    found = [await store.load_run(name) for name in ("a", "b")]
    assert [stored.inputs for stored in found if stored is not None] == [("other",), ()]
    keys = [ValueKey("a", input="call"), ValueKey("a", input="other"), ValueKey("b", input="call")]
    assert await store.read_values(keys) == [None, b"2", None]


# ------------------------------------------------------------------------------ events


async def test_events_go_with_the_tasks_that_consumed_them(store: MetadataStore) -> None:
    await commit(store, (add(),), (add("b"),))
    one, two, three, four = await commit(store, (event("1"),), (event("2"),), (event("3"),), (event("4"),))
    (other,) = await commit(store, (event("1", "b"),))
    consumed = (ConsumeEvent("a", one, "x"), ConsumeEvent("a", two, "y"), ConsumeEvent("a", three, "x"))
    await commit(store, (*consumed, ConsumeEvent("b", other, "x"), put("x"), put("y")))
    await commit(store, (DropTasks("a", ("y",)),))
    assert await known(store, "1", "2", "3", "4") == ["1", "2", "3", "4"]
    for _ in range(2):
        await commit(store, (DropTasks("a", ("x", "missing"), and_events=True),))
        assert await known(store, "1", "2", "3", "4") == ["2", "4"]
    assert await known(store, "1", run_id="b") == ["1"]
    assert [row.sequence for row in await store.read_events("a", after=0)] == [four]
    stored = await store.load_run("a")
    assert stored is not None
    assert (stored.last_event, [row.sequence for row in stored.events]) == (four, [four])


async def test_events_that_are_consumed_beside_a_drop(store: MetadataStore) -> None:
    await commit(store, (add(),))
    one, two, three, four = await commit(store, (event("1"),), (event("2"),), (event("3"),), (event("4"),))
    await commit(store, (ConsumeEvent("a", one, "x"), ConsumeEvent("a", two, "x")))
    await commit(
        store,
        (
            ConsumeEvent("a", one, "y"),  # by another task, so it stays
            ConsumeEvent("a", three, "x"),
            DropTasks("a", ("x",), and_events=True),
            ConsumeEvent("a", two, "z"),  # it is gone
            ConsumeEvent("a", four, "x"),  # after the drop, so it stays
        ),
    )
    assert await known(store, "1", "2", "3", "4") == ["1", "4"]
    assert await store.read_events("a", after=0) == []


async def test_numbers_of_events_grow_though_all_are_dropped(store: MetadataStore) -> None:
    await commit(store, (add(),))
    numbers = []
    for _ in range(3):
        numbers += await commit(store, (event("same"),))
        await commit(store, (ConsumeEvent("a", numbers[-1], "x"), DropTasks("a", ("x",), and_events=True)))
        assert await known(store, "same") == []
    assert numbers == sorted(set(numbers))
    (late,) = await commit(store, (event("other"),))
    assert late > numbers[-1]


async def test_an_event_may_come_again_in_the_commit_that_drops_it(store: MetadataStore) -> None:
    await commit(store, (add(),))
    (first,) = await commit(store, (event("1"),))
    await commit(store, (ConsumeEvent("a", first, "x"),))
    entries = [(event("1"),), (DropTasks("a", ("x",), and_events=True),), (event("1"),), (event("1"),)]
    before, _, again, repeated = (await store.commit(entries)).results
    assert (before.sequence, before.is_duplicate) == (first, True)
    assert again.sequence > first
    assert (again.is_duplicate, repeated.sequence, repeated.is_duplicate) == (False, again.sequence, True)
    assert [row.sequence for row in await store.read_events("a", after=0)] == [again.sequence]


async def test_numbers_of_events_grow_in_a_database_that_is_opened_again(tmp_path: Path) -> None:
    numbers = []
    for damage in ("", "UPDATE counters SET mirror = 0 WHERE name = 'sequence'"):
        store = SqliteMetadataStore(tmp_path / "perdure.db")
        await store.open()
        await commit(store, (add(),))
        for name in ("1", "2"):
            numbers += await commit(store, (event(name),))
            await commit(store, (ConsumeEvent("a", numbers[-1], name), DropTasks("a", ("1",), and_events=True)))
        assert store._write_connection is not None
        if damage:
            store._write_connection.execute(damage)
        await commit(store, (DropTasks("a", ("1", "2"), and_events=not damage),))
        await store.close()
    store = SqliteMetadataStore(tmp_path / "perdure.db")
    await store.open()
    numbers += await commit(store, (event("3"),))
    await store.close()
    assert numbers == sorted(set(numbers))
