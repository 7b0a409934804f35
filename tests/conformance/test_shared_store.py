"""Promises of every shared metadata store to its members: leases, fencing, takeover, mail, hints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import pytest

from patience import PATIENCE_S
from perdure.model import RunStatus, TaskStatus
from perdure.storage.memory.store import SharedMemory
from perdure.storage.ports import Fenced, MetadataStore
from perdure.storage.postgres.store import PostgresMetadataStore
from perdure.storage.rows import EngineRow, RunRow, TaskRow
from perdure.storage.writes import (
    AddEvent,
    AddRun,
    DeleteRun,
    DropMail,
    Limit,
    Mail,
    PutTask,
    SetAsideRuns,
    SetDormant,
    SetRun,
)

RUNNING, PENDING = RunStatus.RUNNING, RunStatus.PENDING
LONG_MS = 60_000
WAIT_S = PATIENCE_S

NewMember = Callable[..., Awaitable[MetadataStore]]


@pytest.fixture(params=["memory", "postgres"])
async def member(request: pytest.FixtureRequest) -> AsyncIterator[NewMember]:
    """Makes members of one store; "" has not joined. With a lease of 0 it can be buried at once."""
    shared = SharedMemory()
    make: Callable[[], MetadataStore] = shared.member
    async with AsyncExitStack() as stack:
        if request.param == "postgres":
            server = request.getfixturevalue("postgres_server")
            make = partial(PostgresMetadataStore, await stack.enter_async_context(server.database()))

        async def new(engine_id: str = "", lease_ms: int = LONG_MS) -> MetadataStore:
            store = make()
            await store.open()
            stack.push_async_callback(store.close)
            if engine_id:
                await store.join(EngineRow(engine_id, f"name of {engine_id}", "host:1", "1.2"), lease_ms)
            return store

        yield new


def add(run_id: str, owner: str, status: RunStatus = RUNNING, *, namespace: str = "default") -> AddRun:
    row = RunRow(run_id, namespace, f"id-{run_id}", status, "spec", create_ms=1, update_ms=1, owner=owner)
    return AddRun(row, b"graph", {"x": b"input"})


def ids(rows: list[RunRow]) -> list[str]:
    return [row.run_id for row in rows]


async def get(store: MetadataStore, run_id: str) -> RunRow:
    row = await store.get_run(run_id)
    assert row is not None
    return row


# ------------------------------------------------------------------------------ leases


async def test_members_are_listed_until_they_leave(member: NewMember) -> None:
    watcher = await member()
    assert watcher.is_shared
    assert await watcher.engines() == []
    one, _two = await member("one"), await member("two", 0)
    rows = await watcher.engines()
    assert {(row.engine_id, row.name, row.address, row.version, row.is_dead) for row in rows} == {
        ("one", "name of one", "host:1", "1.2", False),
        ("two", "name of two", "host:1", "1.2", False),
    }
    assert rows == sorted(rows, key=lambda row: (row.started_ms, row.engine_id))
    first = next(row for row in rows if row.engine_id == "one")
    assert first.expires_ms - first.started_ms == LONG_MS
    await one.leave()
    await one.leave()
    assert [row.engine_id for row in await watcher.engines()] == ["two"]


async def test_only_members_whose_lease_has_ended_are_buried_and_each_once(member: NewMember) -> None:
    one, _two, three = await member("one"), await member("two", 0), await member("three", 0)
    await three.renew(LONG_MS)
    assert await one.bury() == ["two"]
    assert await one.bury() == []
    assert {row.engine_id: row.is_dead for row in await one.engines()} == {"one": False, "two": True, "three": False}


async def test_joining_again_is_renewing(member: NewMember) -> None:
    one, two = await member("one", 0), await member("two")
    await one.join(EngineRow("one"), LONG_MS)
    assert await two.bury() == []
    assert len(await two.engines()) == 2


async def test_a_buried_engine_changes_nothing(member: NewMember) -> None:
    dead, alive = await member("dead", 0), await member("alive")
    await dead.commit([(add("a", "dead"),)])
    await alive.bury()
    before = await alive.last_change()
    with pytest.raises(Fenced):
        await dead.commit([(SetRun("a", RunStatus.FAILED, 9), PutTask(TaskRow("a", "t", 0, TaskStatus.FAILED, 1)))])
    with pytest.raises(Fenced):
        await dead.commit([(add("b", "dead"),)])
    with pytest.raises(Fenced):
        await dead.commit([(AddEvent("a", "e", "k", b"", 1), Mail("a", "event"))])
    with pytest.raises(Fenced):
        await dead.renew(LONG_MS)
    with pytest.raises(Fenced):
        await dead.join(EngineRow("dead"), LONG_MS)
    with pytest.raises(Fenced):
        await dead.take_over(9)
    assert (await get(alive, "a")).status is RUNNING
    assert await alive.get_run("b") is None
    assert await alive.read_changes("default", after=before, limit=9) == []
    assert await alive.find_event("a", "k", "e") is None
    await alive.commit([(SetRun("a", RunStatus.CANCELED, 9),)])


async def test_an_engine_that_left_changes_nothing(member: NewMember) -> None:
    gone = await member("gone")
    await gone.leave()
    with pytest.raises(Fenced):
        await gone.commit([(add("a", "gone"),)])
    with pytest.raises(Fenced):
        await gone.renew(LONG_MS)


async def test_a_commit_under_way_at_the_burial_happens_before_it_or_never(member: NewMember) -> None:
    for number in range(20):
        zombie, heir = await member(f"zombie-{number}", 0), await member(f"heir-{number}")
        run_id = f"run-{number}"
        await zombie.commit([(add(run_id, f"zombie-{number}"),)])
        tasks = [(PutTask(TaskRow(run_id, f"t{index}", index, TaskStatus.SUCCESSFUL, 1)),) for index in range(50)]
        commit = asyncio.ensure_future(zombie.commit(tasks))
        for _ in range(number):
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            while f"zombie-{number}" not in await heir.bury():  # passed over while the commit is under way
                await asyncio.sleep(0)
        assert run_id in ids(await heir.take_over(99))
        seen = await heir.load_run(run_id)
        try:
            await commit
            did_happen = True
        except Fenced:
            did_happen = False
        later = await heir.load_run(run_id)
        assert seen is not None
        assert later is not None
        assert len(seen.tasks) == len(later.tasks) == (50 if did_happen else 0)


# ------------------------------------------------------------------------------ ownership


async def test_reads_of_recovery_are_about_the_members_own_runs(member: NewMember) -> None:
    one, two, tool = await member("one"), await member("two"), await member()
    timer = PutTask(TaskRow("a", "t", 0, TaskStatus.RUNNING, 1, wake_ms=5))
    await one.commit([(add("a", "one"), timer), (add("b", "one", PENDING),)])
    await two.commit([(add("c", "two"), replace(timer, row=replace(timer.row, run_id="c")))])
    assert ids(await one.unfinished_runs(after="", limit=9)) == ["a"]
    assert ids(await two.unfinished_runs(after="", limit=9)) == ["c"]
    assert ids(await tool.unfinished_runs(after="", limit=9)) == ["a", "c"]
    assert [timer.run_id for timer in await one.next_timers(until_ms=9, limit=9)] == ["a"]
    assert [timer.run_id for timer in await tool.next_timers(until_ms=9, limit=9)] == ["a", "c"]
    assert sorted(await two.running_runs()) == [("default", "a"), ("default", "c")]
    assert await two.count_pending() == {"default": 1}
    assert ids(await two.pending_runs("default", limit=9)) == ["b"]


async def test_what_the_dead_and_the_gone_left_is_taken_over_in_chunks(member: NewMember) -> None:
    dead, gone, heir = await member("dead", 0), await member("gone"), await member("heir")
    await dead.commit([(add(name, "dead"),) for name in "acex"])
    await gone.commit([(add("b", "gone", PENDING),), (add("d", "gone"),), (SetDormant("d", True),)])
    await heir.commit([(add("own", "heir"),), (SetRun("x", RunStatus.FAILED, 5),)])
    before = await get(heir, "a")
    assert await heir.take_over(9) == []
    await gone.leave()
    assert ids(await heir.take_over(9)) == ["b", "d"]
    assert await heir.bury() == ["dead"]
    first = await heir.take_over(2)
    assert ids(first) == ["a", "c"]
    assert first[0] == replace(before, owner="heir") == await get(heir, "a")
    assert ids(await heir.take_over(2)) == ["e"]
    assert await heir.take_over(2) == []
    assert (await get(heir, "x")).owner == "dead"


async def test_what_is_at_work_is_taken_over_before_what_sleeps_or_waits(member: NewMember) -> None:
    dead, gone, heir = await member("dead", 0), await member("gone"), await member("heir")
    await dead.commit([(add(name, "dead", PENDING if name == "b" else RUNNING),) for name in "abcdz"])
    await dead.commit([(SetDormant(name, True),) for name in "acd"])
    await gone.commit([(add("y", "gone"),)])
    await gone.leave()
    assert await heir.bury() == ["dead"]
    assert ids(await heir.take_over(3)) == ["y", "z"]
    assert ids(await heir.take_over(3)) == ["a", "b", "c"]
    assert ids(await heir.take_over(3)) == ["d"]
    assert await heir.take_over(3) == []


async def test_survivors_share_the_orphaned_runs(member: NewMember) -> None:
    dead, one, two = await member("dead", 0), await member("one"), await member("two")
    names = {f"run-{number:03}" for number in range(100)}
    await dead.commit([(add(name, "dead"),) for name in names])
    assert sorted(await one.bury() + await two.bury()) == ["dead"]

    async def take_all(store: MetadataStore) -> list[str]:
        taken: list[str] = []
        while rows := await store.take_over(7):
            taken += ids(rows)
        return taken

    by_one, by_two = await asyncio.gather(take_all(one), take_all(two))
    assert len(by_one) + len(by_two) == 100
    assert {*by_one, *by_two} == names
    assert {name for name in names if (await get(one, name)).owner == "one"} == set(by_one)


async def test_a_tool_takes_nothing_over(member: NewMember) -> None:
    tool = await member()
    await tool.commit([(add("a", "nobody"),)])
    assert await tool.take_over(9) == []
    await tool.renew(LONG_MS)
    assert await tool.engines() == []


async def test_runs_of_other_members_are_not_set_aside(member: NewMember) -> None:
    one, two, dead = await member("one"), await member("two"), await member("dead", 0)
    await two.commit([(add("b", "two"),)])
    await dead.commit([(add("c", "dead"),)])
    await one.bury()
    await one.commit([(add("a", "one"),), (SetAsideRuns(9),)])
    assert [(await get(one, name)).status for name in "abc"] == [RunStatus.RESUMABLE, RUNNING, RunStatus.RESUMABLE]


# ------------------------------------------------------------------------------ starting


async def test_one_of_two_members_starts_a_pending_run(member: NewMember) -> None:
    one, two = await member("one"), await member("two")
    names = [f"run-{number}" for number in range(20)]
    await one.commit([(add(name, "one", PENDING),) for name in names])

    async def start(store: MetadataStore, owner: str) -> list[bool]:
        started = []
        for name in names:
            entry = (SetRun(name, RUNNING, 5, expects=PENDING, owner=owner), Mail(name, owner))
            started.append(not (await store.commit([entry])).results[0].is_refused)
        return started

    by_one, by_two = await asyncio.gather(start(one, "one"), start(two, "two"))
    assert [first + second for first, second in zip(by_one, by_two, strict=True)] == [1] * 20
    for name, mine in zip(names, by_one, strict=True):
        assert (await get(one, name)).owner == ("one" if mine else "two")
    assert len(await one.read_mail(limit=99)) == sum(by_one)


async def test_a_limit_holds_over_all_members(member: NewMember) -> None:
    stores = [await member(name) for name in ("one", "two", "three")]

    async def fill(store: MetadataStore, name: str) -> int:
        count = 0
        for number in range(10):
            entry = (Limit("default", RUNNING, 7), add(f"{name}-{number}", name))
            count += not (await store.commit([entry])).results[0].is_refused
        return count

    counts = await asyncio.gather(*map(fill, stores, ("one", "two", "three")))
    assert sum(counts) == 7 == len(await stores[0].running_runs())


# ------------------------------------------------------------------------------ mail and hints


async def test_mail_is_for_the_current_owner_of_the_run(member: NewMember) -> None:
    one, two, heir = await member("one", 0), await member("two"), await member("heir")
    await one.commit([(add("a", "one"),), (add("b", "one"),)])
    await two.commit([(Mail("a", "event", b"1"), Mail("nobody", "event")), (Mail("b", "cancel", b"2"),)])
    await two.commit([(Mail("a", "event", b"3"),)])
    read = await one.read_mail(limit=9)
    assert [(mail.run_id, mail.kind, mail.data) for mail in read] == [
        ("a", "event", b"1"),
        ("b", "cancel", b"2"),
        ("a", "event", b"3"),
    ]
    assert [mail.number for mail in read] == sorted({mail.number for mail in read})
    assert await one.read_mail(limit=2) == read[:2]
    assert await two.read_mail(limit=9) == []
    await one.commit([(DropMail((read[0].number, 0)),), (DropMail((read[0].number,)),)])
    await heir.bury()
    await heir.take_over(9)
    assert await heir.read_mail(limit=9) == read[1:]
    assert await one.read_mail(limit=9) == []
    await heir.commit([(DeleteRun("b"),)])
    assert await heir.read_mail(limit=9) == read[2:]


async def test_members_hear_of_mail_of_runs_and_of_leaving_but_not_of_themselves(member: NewMember) -> None:
    one, two = await member("one"), await member("two")
    heard_one, heard_two = asyncio.Event(), asyncio.Event()
    await one.listen(heard_one.set)
    await two.listen(heard_two.set)
    heard_one.clear()

    async def heard() -> None:
        async with asyncio.timeout(WAIT_S):
            await heard_two.wait()
        heard_two.clear()

    heard_two.clear()
    await one.commit([(add("a", "one"),)])
    await heard()
    await one.commit([(Mail("a", "event"),)])
    await heard()
    await one.commit([(SetRun("a", RunStatus.FAILED, 5),)])
    await heard()
    await one.leave()
    await heard()
    assert not heard_one.is_set()


# ------------------------------------------------------------------------------ order


async def test_who_reads_on_from_the_last_change_misses_nothing(member: NewMember) -> None:
    one, two, reader = await member("one"), await member("two"), await member()

    async def write(store: MetadataStore, name: str) -> None:
        for number in range(40):
            await store.commit([(add(f"{name}-{number}-{index}", name),) for index in range(3)])

    async def follow(namespace: str | None) -> list[str]:
        seen: list[str] = []
        after = last = 0
        while len(seen) < 240:
            last = await reader.last_change()
            page = await reader.read_changes(namespace, after=after, limit=5)
            assert [row.change for row in page] == sorted(row.change for row in page)
            assert all(row.change > after for row in page)
            seen += ids(page)
            if page:
                after = page[-1].change
            else:
                await asyncio.sleep(0)
                after = max(after, last)  # later commits have higher numbers
        return seen

    async with asyncio.timeout(WAIT_S):
        _, _, *seen = await asyncio.gather(write(one, "one"), write(two, "two"), follow("default"), follow(None))
    for names in seen:
        assert len(names) == len(set(names)) == 240


async def test_events_of_a_run_are_numbered_in_the_order_of_commits(member: NewMember) -> None:
    one, two = await member("one"), await member("two")
    await one.commit([(add("a", "one"),), (add("b", "one"),)])

    async def send(store: MetadataStore, name: str) -> None:
        for number in range(40):
            runs = ("a", "b") if name == "one" else ("b", "a")
            await store.commit([(AddEvent(run, f"{name}-{number}", "k", b"", number),) for run in runs])

    async def watch() -> None:
        seen: list[int] = []
        while len(seen) < 80:
            stored = await one.load_run("a")
            assert stored is not None
            numbers = [event.sequence for event in stored.events]
            assert numbers[: len(seen)] == seen, "an event came before those that were there"
            assert stored.last_event == max(numbers, default=0)
            seen = numbers
            await asyncio.sleep(0)

    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(send(one, "one"), send(two, "two"), watch())


async def test_the_same_event_from_two_members_is_recorded_once(member: NewMember) -> None:
    one, two = await member("one"), await member("two")
    await one.commit([(add("a", "one"),)])
    for number in range(20):
        entry = (AddEvent("a", f"e{number}", "k", b"", 1),)
        first, second = await asyncio.gather(one.commit([entry]), two.commit([entry]))
        assert first.results[0].sequence == second.results[0].sequence > 0
        assert [first.results[0].is_duplicate, second.results[0].is_duplicate].count(True) == 1


async def test_one_of_two_members_gets_a_workflow_id(member: NewMember) -> None:
    one, two = await member("one"), await member("two")
    for number in range(20):
        runs = [add(f"{name}-{number}", name) for name in ("one", "two")]
        twins = [replace(write, row=replace(write.row, workflow_id=f"wf-{number}")) for write in runs]
        results = await asyncio.gather(one.commit([(twins[0],)]), two.commit([(twins[1],)]))
        refused = [result.results[0].is_refused for result in results]
        assert refused.count(True) == 1
        current = await one.find_run("default", f"wf-{number}")
        assert current is not None
        assert current.owner == ("two" if refused[0] else "one")


async def test_one_of_two_members_replaces_a_run(member: NewMember) -> None:
    one, two = await member("one"), await member("two")
    before = ""
    for number in range(20):
        twins = [
            AddRun(
                replace(add(f"{name}-{number}", name, RunStatus.FAILED).row, workflow_id="wf"),
                b"graph",
                replaces=before,
            )
            for name in ("one", "two")
        ]
        results = await asyncio.gather(one.commit([(twins[0],)]), two.commit([(twins[1],)]))
        refused = [result.results[0].is_refused for result in results]
        assert refused.count(True) == 1
        before = f"two-{number}" if refused[0] else f"one-{number}"


async def test_one_of_two_members_gets_a_request_id(member: NewMember) -> None:
    one, two = await member("one"), await member("two")
    for number in range(20):
        runs = [add(f"{name}-{number}", name) for name in ("one", "two")]
        twins = [replace(write, row=replace(write.row, request_id=f"r{number}")) for write in runs]
        results = await asyncio.gather(one.commit([(twins[0],)]), two.commit([(twins[1],)]))
        assert [result.results[0].is_refused for result in results].count(True) == 1


async def test_a_new_use_keeps_a_graph_despite_concurrent_removal(member: NewMember) -> None:
    one, two = await member("one"), await member("two")
    for number in range(20):
        key = f"spec-{number}"
        old, new = (replace(add(f"{name}-{number}", name).row, spec_key=key) for name in ("one", "two"))
        await one.commit([(AddRun(old, b"graph"),)])
        await asyncio.gather(one.commit([(DeleteRun(old.run_id),)]), two.commit([(AddRun(new, b"graph"),)]))
        assert await one.read_specs([key]) == {key: b"graph"}
        await one.commit([(DeleteRun(new.run_id),)])
        assert await one.read_specs([key]) == {}
