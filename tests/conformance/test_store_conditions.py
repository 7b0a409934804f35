"""Promises of every metadata store about entries that may be refused, repeated commits and mail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.stores import STORES, open_store
from perdure.model import RunStatus, TaskStatus
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import MetadataStore
from perdure.storage.rows import EngineRow, RunRow, TaskRow, ValueKey
from perdure.storage.sqlite.store import SqliteMetadataStore
from perdure.storage.writes import (
    AddEvent,
    AddRun,
    DeleteRun,
    DropMail,
    Limit,
    Mail,
    MarkBlobs,
    PutSpec,
    PutTask,
    SetDormant,
    SetRun,
    UseBlobs,
    Write,
)

RUNNING, PENDING, FAILED = RunStatus.RUNNING, RunStatus.PENDING, RunStatus.FAILED


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetadataStore]:
    async with open_store(request, tmp_path) as store:
        yield store


def add(name: str, status: RunStatus = RUNNING, *, namespace: str = "default", workflow_id: str = "") -> AddRun:
    row = RunRow(name, namespace, workflow_id or f"id-{name}", status, "spec", create_ms=1, update_ms=1)
    return AddRun(row, b"graph", {"x": b"input"})


async def is_refused(store: MetadataStore, *writes: Write) -> bool:
    (result,) = (await store.commit([writes])).results
    return result.is_refused


async def get(store: MetadataStore, run_id: str) -> RunRow:
    row = await store.get_run(run_id)
    assert row is not None
    return row


# ------------------------------------------------------------------------------ conditions


async def test_a_state_is_changed_only_from_the_one_expected(store: MetadataStore) -> None:
    await store.commit([(add("a", PENDING),), (add("b"),)])
    assert await is_refused(store, SetRun("b", RUNNING, 5, expects=PENDING), SetDormant("b", True), PutSpec("k", b""))
    assert await is_refused(store, SetRun("nobody", RUNNING, 5, expects=PENDING), PutSpec("k", b""))
    assert not (await get(store, "b")).is_dormant
    assert await store.read_specs(["k"]) == {}
    assert not await is_refused(store, SetRun("a", RUNNING, 5, expects=PENDING, owner="me"))
    started = await get(store, "a")
    assert (started.status, started.owner, started.start_ms, started.update_ms) == (RUNNING, "me", 5, 5)


async def test_a_change_of_state_that_is_repeated_is_accepted_and_counts_once(store: MetadataStore) -> None:
    await store.commit([(add("a", FAILED),)])
    resume = SetRun("a", PENDING, 5, resumed=True, expects=FAILED, owner="me")
    start = SetRun("a", RUNNING, 6, expects=PENDING, owner="me")
    for write in (resume, resume, start, start):
        assert not await is_refused(store, write)
    row = await get(store, "a")
    assert (row.resume_count, row.status, row.owner) == (1, RUNNING, "me")
    assert await is_refused(store, SetRun("a", RUNNING, 6, expects=PENDING, owner="another"))
    assert await is_refused(store, SetRun("a", RUNNING, 7, expects=PENDING, owner="me"))
    await store.commit([(SetRun("a", FAILED, 8),), (SetRun("a", RUNNING, 9, resumed=True),)])
    assert (await get(store, "a")).resume_count == 2


async def test_conditions_see_the_entries_before_them(store: MetadataStore) -> None:
    await store.commit([(add("a", PENDING),)])
    start = SetRun("a", RUNNING, 5, expects=PENDING, owner="one")
    committed = await store.commit(
        [
            (start,),
            (SetRun("a", RUNNING, 5, expects=PENDING, owner="two"),),
            (SetRun("a", FAILED, 6, expects=RUNNING),),
            (SetRun("a", RUNNING, 7, expects=RUNNING),),
            (add("b"),),
            (SetRun("b", FAILED, 7, expects=RUNNING),),
        ]
    )
    assert [result.is_refused for result in committed.results] == [False, True, False, True, False, False]
    row = await get(store, "a")
    assert (row.status, row.owner, row.start_ms, row.end_ms) == (FAILED, "one", 5, 6)


async def test_a_run_is_resumed_or_replaced_but_not_both(store: MetadataStore) -> None:
    await store.commit([(add("a", FAILED, workflow_id="wf"),), (add("b", FAILED, workflow_id="wf-b"),)])
    resume_a, resume_b = (SetRun(name, RUNNING, 5, resumed=True, expects=FAILED, owner="me") for name in "ab")
    replace_a = AddRun(add("a2", workflow_id="wf").row, b"graph", replaces="a")
    replace_b = AddRun(add("b2", workflow_id="wf-b").row, b"graph", replaces="b")
    committed = await store.commit([(resume_a,), (replace_a, PutSpec("k", b"")), (replace_b,), (resume_b,)])
    assert [result.is_refused for result in committed.results] == [False, True, False, True]
    assert await store.get_run("a2") is None
    assert await store.read_specs(["k"]) == {}
    assert (await get(store, "b")).status is FAILED
    for status in (RUNNING, PENDING, RunStatus.RESUMABLE):
        await store.commit([(SetRun("a", status, 6),)])
        assert await is_refused(store, replace_a)
    await store.commit([(SetRun("a", RunStatus.CANCELED, 7),)])
    assert not await is_refused(store, replace_a)
    assert not await is_refused(store, SetRun.unchanged(await get(store, "b")), DeleteRun("b"))


async def test_what_is_unchanged_is_so(store: MetadataStore) -> None:
    """And says so of a state that is not there any more."""
    end = SetRun("a", RunStatus.FAILED, 5, "task", 2, b"no")
    await store.commit([(add("a"),), (end,)])
    before = await get(store, "a")
    assert not await is_refused(store, SetRun.unchanged(before))
    after = await get(store, "a")
    assert after.change > before.change
    assert replace(after, change=0) == replace(before, change=0)
    await store.commit([(SetRun("a", RUNNING, 6, resumed=True),)])
    assert await is_refused(store, SetRun.unchanged(after), PutSpec("k", b""))
    assert await store.read_specs(["k"]) == {}


async def test_code_of_a_run_stays_until_other_code_is_given(store: MetadataStore) -> None:
    await store.commit([(add("a", FAILED),), (add("b", FAILED),)])
    for code, moment in (("", 5), ("first", 10), ("", 20), ("second", 30)):
        expected = code or (await get(store, "a")).code_version
        resume = SetRun.of(await get(store, "a"), RUNNING, moment, owner="me", code=code)
        assert not await is_refused(store, resume)
        assert (await get(store, "a")).code_version == expected
        await store.commit([(SetRun("a", FAILED, moment + 1),)])
        assert (await get(store, "a")).code_version == expected
    assert (await get(store, "b")).code_version == ""


async def test_a_run_that_failed_again_is_not_what_it_was(store: MetadataStore) -> None:
    """The same holds for a run that waits again: a write based on an older row is refused. A repeated one succeeds."""
    await store.commit([(add("a", FAILED),), (add("b", PENDING),)])
    before_a, before_b = await get(store, "a"), await get(store, "b")
    await store.commit([(SetRun("a", RUNNING, 5, resumed=True),), (SetRun("b", RUNNING, 5),)])
    await store.commit([(SetRun("a", FAILED, 6),), (SetRun("b", PENDING, 6),)])
    late = (
        SetRun.of(before_a, RUNNING, 7, owner="me"),
        SetRun.of(before_b, RUNNING, 7, owner="me"),
        SetRun.of(before_b, RunStatus.CANCELED, 7),
        SetRun.unchanged(before_a),
    )
    for write in late:
        assert await is_refused(store, write, PutSpec("k", b"")), write
    assert await store.read_specs(["k"]) == {}
    assert (await get(store, "a")).resume_count == 1
    resume = SetRun.of(await get(store, "a"), RUNNING, 8, owner="me")
    for _ in range(2):
        assert not await is_refused(store, resume)
    row = await get(store, "a")
    assert (row.status, row.resume_count, row.owner) == (RUNNING, 2, "me")


async def test_a_limit_counts_other_runs_of_the_namespace_in_that_state(store: MetadataStore) -> None:
    limit = Limit("default", RUNNING, 2)
    await store.commit([(add("x", namespace="other"),), (add("y", PENDING),), (add("z", FAILED),)])
    committed = await store.commit([(limit, add("a")), (limit, add("b")), (limit, add("c"), PutSpec("k", b""))])
    assert [result.is_refused for result in committed.results] == [False, False, True]
    assert await store.get_run("c") is None
    assert await store.read_specs(["k"]) == {}
    assert not await is_refused(store, limit, add("b"))
    assert await is_refused(store, limit, SetRun("y", RUNNING, 5, expects=PENDING))
    await store.commit([(SetRun("a", FAILED, 5),), (limit, SetRun("y", RUNNING, 6, expects=PENDING))])
    assert not await is_refused(store, limit, SetRun("y", RUNNING, 6, expects=PENDING))
    assert await is_refused(store, limit, add("d"))
    assert await is_refused(store, Limit("other", RUNNING, 0))
    assert not await is_refused(store, Limit("default", PENDING, 1))


async def test_what_a_limit_let_through_before_it_lets_through_again(store: MetadataStore) -> None:
    """The answer to a commit got lost, and until it is repeated others have come."""
    nobody_waits = Limit("default", PENDING, 1)
    await store.commit([(nobody_waits, add("a")), (add("b", FAILED),)])
    await store.commit([(nobody_waits, SetRun("b", RUNNING, 7, resumed=True, expects=FAILED))])
    await store.commit([(add("waits", PENDING),)])
    assert not await is_refused(store, nobody_waits, add("a"))
    assert not await is_refused(store, nobody_waits, SetRun("b", RUNNING, 7, resumed=True, expects=FAILED))
    assert (await get(store, "b")).resume_count == 1
    assert await is_refused(store, nobody_waits, SetRun("b", RUNNING, 8, resumed=True, expects=RUNNING))
    assert await is_refused(store, nobody_waits, add("c"))


# ------------------------------------------------------------------------------ order within a commit


async def test_writes_of_one_commit_happen_in_their_order(store: MetadataStore) -> None:
    first, second = (TaskRow("a", "t", 0, TaskStatus.SUCCESSFUL, n, output=b"%d" % n, output_bytes=1) for n in (1, 2))
    await store.commit(
        [
            (add("a"), PutTask(first), PutSpec("k", b"first"), AddEvent("a", "e1", "k", b"", 1)),
            (PutTask(second), PutSpec("k", b"second"), SetDormant("a", True), AddEvent("a", "e0", "k", b"", 1)),
            (SetRun("a", FAILED, 5), SetRun("a", RUNNING, 6, resumed=True), SetDormant("a", False)),
            (add("b"), SetDormant("b", True), SetRun("b", FAILED, 8, failure=b"no")),
        ]
    )
    stored = await store.load_run("a")
    assert stored is not None
    assert [(task.attempt, task.output_bytes) for task in stored.tasks] == [(2, 1)]
    assert [event.event_id for event in stored.events] == ["e1", "e0"]
    assert (stored.run.status, stored.run.is_dormant, stored.run.resume_count) == (RUNNING, False, 1)
    assert (stored.run.end_ms, stored.run.update_ms) == (None, 6)
    assert await store.read_specs(["k"]) == {"k": b"first"}
    assert ((await get(store, "b")).failure, (await get(store, "b")).is_dormant) == (b"no", True)


async def test_runs_end_without_being_looked_at(store: MetadataStore) -> None:
    """Ends that expect nothing: several at once, of runs that sleep or fall asleep, twice, of one that is gone."""
    done = RunStatus.SUCCESSFUL
    await store.commit([(add(name), SetDormant(name, name == "a")) for name in "abcd"])
    output = PutTask(TaskRow("a", "t", 0, TaskStatus.SUCCESSFUL, 1, output=b"1", output_bytes=1))
    ends = [
        (output, SetRun("a", done, 5, output_task="t", output_wraps=2), SetDormant("a", False)),
        (SetDormant("b", True), SetRun("b", FAILED, 6, failure=b"no")),
        (SetRun("c", FAILED, 7, failure=b"no"),),
        (SetRun("nobody", done, 8), PutTask(TaskRow("nobody", "t", 0, TaskStatus.SUCCESSFUL, 1))),
    ]
    for _ in range(2):
        committed = await store.commit(ends)
        assert not any(result.is_refused for result in committed.results)
        rows = [await get(store, name) for name in "abc"]
        assert [(row.status, row.update_ms, row.end_ms) for row in rows] == [
            (done, 5, 5),
            (FAILED, 6, 6),
            (FAILED, 7, 7),
        ]
        assert [(row.output_task, row.output_wraps, row.failure) for row in rows[:2]] == [
            ("t", 2, None),
            ("", 0, b"no"),
        ]
        assert [row.is_dormant for row in rows] == [False, True, False]
        assert [row.change for row in rows] == [committed.change] * 3
    assert await store.load_run("nobody") is None
    await store.commit([(SetRun("d", FAILED, 7, failure=b"no"),), (SetRun("d", done, 8), SetDormant("d", True))])
    last = await get(store, "d")
    assert (last.status, last.failure, last.end_ms, last.is_dormant) == (done, None, 8, True)


async def test_of_many_new_runs_only_those_whose_ids_are_taken_are_refused(store: MetadataStore) -> None:
    await store.commit([(add("there", workflow_id="wf"),)])
    for _ in range(2):  # the second time all but one are there
        committed = await store.commit(
            [
                (add("a"), PutTask(TaskRow("a", "t", 0, TaskStatus.RUNNING, 1))),
                (add("b", workflow_id="wf"), PutTask(TaskRow("b", "t", 0, TaskStatus.RUNNING, 1)), PutSpec("k", b"")),
                (add("c"), SetRun("there", FAILED, 5, failure=b"no")),
            ]
        )
        assert [result.is_refused for result in committed.results] == [False, True, False]
        assert [row is not None and len(row.tasks) for row in [await store.load_run(name) for name in "abc"]] == [
            1,
            False,
            0,
        ]
        assert (await get(store, "there")).status is FAILED
        assert await store.read_specs(["k"]) == {}


async def test_a_run_can_be_deleted_and_its_id_given_again_in_one_commit(store: MetadataStore) -> None:
    await store.commit([(add("a", workflow_id="wf"), UseBlobs("a", ("1" * 64,)))])
    task = PutTask(TaskRow("b", "t", 0, TaskStatus.SUCCESSFUL, 1))
    committed = await store.commit(
        [
            (add("z", workflow_id="wf"),),
            (PutTask(TaskRow("a", "t", 0, TaskStatus.SUCCESSFUL, 1)), DeleteRun("a")),
            (add("b", workflow_id="wf"), task),
            (add("c"), DeleteRun("c"), MarkBlobs(("2" * 64,))),
        ]
    )
    assert [result.is_refused for result in committed.results] == [True, False, False, False]
    current = await store.find_run("default", "wf")
    assert current is not None
    assert current.run_id == "b"
    assert await store.load_run("a") is None
    assert await store.load_run("c") is None
    stored = await store.load_run("b")
    assert stored is not None
    assert len(stored.tasks) == 1
    assert set(await store.read_specs(["spec"])) == {"spec"}
    assert len(await store.marked_blobs(after="", limit=9)) == 2


async def test_a_commit_that_is_repeated_leaves_what_one_leaves(store: MetadataStore) -> None:
    await store.commit([(add("old", FAILED, workflow_id="wf"),), (add("gone"), UseBlobs("gone", ("3" * 64,)))])
    new = AddRun(add("new", workflow_id="wf").row, b"graph", {"x": b"1"}, replaces="old")
    entries: list[tuple[Write, ...]] = [
        (new, PutTask(TaskRow("new", "t", 0, TaskStatus.SUCCESSFUL, 1, output=b"1"))),
        (AddEvent("new", "e", "k", b"p", 1), UseBlobs("new", ("1" * 64,))),
        (DeleteRun("gone"), PutSpec("k", b"s")),
        (SetRun("new", FAILED, 7),),
    ]
    first = await store.commit(entries)
    again = await store.commit([*entries, (add("late"),)])
    assert again.results[1].sequence == first.results[1].sequence
    assert not any(result.is_refused for result in again.results)
    stored = await store.load_run("new")
    assert stored is not None
    assert (stored.run.status, stored.run.change, len(stored.events)) == (FAILED, again.change, 1)
    assert await store.get_run("gone") is None


async def test_a_commit_may_be_large(store: MetadataStore) -> None:
    """In bytes, and in writes: the journal puts up to 20,000 into one."""
    value = bytes(range(256)) * 4096
    many = [(PutTask(TaskRow("a", f"t{n}", n, TaskStatus.SUCCESSFUL, 1, output=value)),) for n in range(40)]
    await store.commit([(add("a"),), *many, (SetRun("a", FAILED, 9),)])
    await store.commit([*many, (Mail("a", "event"),)])
    keys = [ValueKey("a", f"t{n}") for n in range(40)]
    assert await store.read_values(keys) == [value] * 40
    tasks = [TaskRow("a", f"s{n}", n + 100, TaskStatus.SUCCESSFUL, 1, output=b"x") for n in range(20_000)]
    await store.commit([(PutTask(row),) for row in tasks])
    stored = await store.load_run("a")
    assert stored is not None
    assert (len(stored.tasks), stored.run.status) == (20_040, FAILED)


async def test_an_empty_commit_is_one(store: MetadataStore) -> None:
    assert (await store.commit([])).results == ()
    assert len((await store.commit([()])).results) == 1


# ------------------------------------------------------------------------------ mail


async def test_mail_waits_until_it_is_dropped(store: MetadataStore) -> None:
    await store.commit([(add("a"), Mail("a", "event", b"1")), (Mail("nobody", "event"), Mail("a", "cancel"))])
    mail = await store.read_mail(limit=9)
    assert [(row.run_id, row.kind, row.data) for row in mail] == [("a", "event", b"1"), ("a", "cancel", b"")]
    assert mail[0].number < mail[1].number
    assert await store.read_mail(limit=1) == mail[:1]
    await store.commit([(DropMail((mail[0].number,)),)])
    assert await store.read_mail(limit=9) == mail[1:]
    await store.commit([(DeleteRun("a"),)])
    assert await store.read_mail(limit=9) == []


async def test_membership_of_an_embedded_store_is_a_formality(tmp_path: Path) -> None:
    for store in (MemoryMetadataStore(), SqliteMetadataStore(tmp_path / "x.db")):
        assert not store.is_shared
        await store.open()
        await store.commit([(add("a"),)])
        await store.join(EngineRow("me"), 0)
        await store.renew(0)
        await store.listen(lambda: None)
        assert await store.bury() == []
        assert await store.engines() == []
        assert await store.take_over(9) == []
        assert [row.run_id for row in await store.unfinished_runs(after="", limit=9)] == ["a"]
        await store.leave()
        await store.commit([(add("b"),)])
        assert len(await store.running_runs()) == 2
        await store.close()
