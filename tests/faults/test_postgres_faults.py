"""PostgreSQL that is restarted, killed, paused, full or damaged, and members that are stopped: what was
acknowledged is there, nothing happens twice, and the store works again by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from patience import PATIENCE_S
from perdure.model import RunStatus, TaskStatus
from perdure.storage.ports import CorruptData, Fenced, StorageError, StorageFull, StorageUnavailable
from perdure.storage.postgres import connected, members, membership
from perdure.storage.postgres.store import PostgresMetadataStore
from perdure.storage.rows import EngineRow, RunRow, TaskRow
from perdure.storage.writes import AddEvent, AddRun, PutTask, SetRun
from postgres import PostgresServer

WAIT_S = PATIENCE_S
LONG_MS = 600_000


@pytest.fixture
async def url(own_postgres: PostgresServer) -> AsyncIterator[str]:
    async with own_postgres.database() as url:
        yield url


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresMetadataStore]:
    store = PostgresMetadataStore(url)
    await store.open()
    await store.join(EngineRow("me"), LONG_MS)
    await store.commit([(add("run"),)])
    yield store
    await store.close()


def add(run_id: str) -> AddRun:
    row = RunRow(run_id, "default", f"id-{run_id}", RunStatus.RUNNING, "spec", create_ms=1, update_ms=1, owner="me")
    return AddRun(row, b"graph", {"x": b"input"})


def task(number: int, attempt: int = 1) -> PutTask:
    return PutTask(TaskRow("run", f"t{number}", number, TaskStatus.SUCCESSFUL, attempt, output=b"x", output_bytes=1))


async def buried(store: PostgresMetadataStore, engine_id: str) -> None:
    """Return once the member is declared dead. Its name may have been in an answer that came too late."""
    async with asyncio.timeout(WAIT_S):
        while not any(row.is_dead for row in await again(store.engines) if row.engine_id == engine_id):
            await again(store.bury)
            await asyncio.sleep(0.01)


async def again(work: Callable[[], Awaitable[Any]]) -> Any:
    """Repeated as the journal does."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await work()
            except StorageUnavailable:
                await asyncio.sleep(0.02)


async def tasks_of(store: PostgresMetadataStore) -> dict[str, int]:
    stored = await again(lambda: store.load_run("run"))
    return {row.task_id: row.attempt for row in stored.tasks}


# ------------------------------------------------------------------------------ the server dies


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_what_was_acknowledged_is_there_after_the_server_died(
    own_postgres: PostgresServer, store: PostgresMetadataStore, how: str
) -> None:
    acknowledged: list[int] = []
    sequences: list[int] = []
    troubles = 0
    enough = asyncio.Event()

    async def write() -> None:
        nonlocal troubles
        number = 0
        while not enough.is_set():
            # one statement, and a transaction of several, in turn
            event = (AddEvent("run", f"e{number}", "k", b"", 1),) if number % 2 else ()
            while True:
                try:
                    committed = await store.commit([(task(number), *event)])
                    break
                except StorageUnavailable:
                    troubles += 1
                    await asyncio.sleep(0.02)
            acknowledged.append(number)
            if event:
                sequences.append(committed.results[0].sequence)
            number += 1

    writing = asyncio.create_task(write())

    async def until(count: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(acknowledged) < count:
                await asyncio.sleep(0.01)
                assert not writing.done(), writing.result()

    for _ in range(3):
        await until(len(acknowledged) + 30)
        if how == "kill":
            await asyncio.to_thread(own_postgres.kill)
        else:
            await asyncio.to_thread(own_postgres.stop, signal.SIGQUIT)
        own_postgres.start()
    await until(len(acknowledged) + 30)
    enough.set()
    await writing
    assert troubles >= 3
    assert set(await tasks_of(store)) == {f"t{number}" for number in acknowledged}
    stored = await store.load_run("run")
    assert stored is not None
    assert [event.sequence for event in stored.events] == sequences == sorted(set(sequences))


async def test_reads_and_membership_survive_a_restart(
    own_postgres: PostgresServer, store: PostgresMetadataStore
) -> None:
    heard = asyncio.Event()
    await store.listen(heard.set)
    heard.clear()
    await asyncio.gather(*(store.get_run("run") for _ in range(8)))
    own_postgres.restart()
    assert await store.get_run("run") is not None
    await again(lambda: store.renew(LONG_MS))
    async with asyncio.timeout(WAIT_S):
        await heard.wait()  # found the server again
    other = PostgresMetadataStore(store._url)
    await other.open()
    await other.join(EngineRow("other"), LONG_MS)
    heard.clear()
    await other.commit([(SetRun("run", RunStatus.RUNNING, 5),)])
    async with asyncio.timeout(WAIT_S):
        await heard.wait()
    await other.close()


async def test_while_there_is_no_server_calls_say_so(
    own_postgres: PostgresServer, store: PostgresMetadataStore
) -> None:
    await asyncio.to_thread(own_postgres.stop)
    try:
        for _ in range(3):
            for call in (
                store.commit([(task(1),)]),
                store.get_run("run"),
                store.load_run("run"),
                store.renew(LONG_MS),
                store.bury(),
                store.take_over(9),
                store.last_change(),
            ):
                with pytest.raises(StorageUnavailable):
                    await call
        late = PostgresMetadataStore(store._url)
        with pytest.raises(StorageUnavailable):
            await late.open()
    finally:
        own_postgres.start()
    await store.commit([(task(1),)])
    assert await tasks_of(store) == {"t1": 1}
    await store.renew(LONG_MS)


async def test_no_connections_are_left_behind(own_postgres: PostgresServer, store: PostgresMetadataStore) -> None:
    reads = [asyncio.create_task(store.load_run("run")) for _ in range(20)]
    await asyncio.sleep(0)
    for read in reads:
        read.cancel()
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*reads, return_exceptions=True))
    own_postgres.restart()
    for number in range(5):
        await again(lambda number=number: store.commit([(task(number),)]))
        await asyncio.gather(*(again(lambda: store.get_run("run")) for _ in range(20)))
        await again(lambda: store.renew(LONG_MS))
    observer = await asyncpg.connect(store._url)
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'perdure'"
    assert 3 <= await observer.fetchval(count) <= connected.READERS + 3
    await store.close()
    async with asyncio.timeout(WAIT_S):
        while await observer.fetchval(count):
            await asyncio.sleep(0.02)
    await observer.close()


# ------------------------------------------------------------------------------ the server is paused


async def test_a_commit_that_was_given_up_changes_nothing_after_its_successor(
    own_postgres: PostgresServer, store: PostgresMetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        with own_postgres.paused():
            store._commit_s = 0.3
            with pytest.raises(StorageUnavailable):
                await store.commit([(task(number, attempt=1),)])
            # It is in the buffers of the server, which will read it when it goes on.
        await again(lambda number=number: store.commit([(task(number, attempt=1),)]))
        await store.commit([(task(number, attempt=2),)])
    assert await tasks_of(store) == {"t0": 2, "t1": 2, "t2": 2}
    await store.commit([(task(9),)])
    assert await tasks_of(store) == {"t0": 2, "t1": 2, "t2": 2, "t9": 1}


async def test_a_commit_over_an_old_connection_is_void(store: PostgresMetadataStore) -> None:
    """The session tells late messages from current ones, in whatever order they arrive."""
    late = PostgresMetadataStore(store._url)
    await late.open()
    late._engine_id = "me"  # the same member, with the connection that it had before
    await late.commit([(task(1, attempt=1),)])
    store._commits.forget_idle()
    await store.commit([(task(1, attempt=2),)])
    with pytest.raises(StorageUnavailable):
        await late.commit([(task(1, attempt=1),)])
    assert await tasks_of(store) == {"t1": 2}
    await late.close()


async def test_a_paused_server_is_unavailable_and_then_works(
    own_postgres: PostgresServer, store: PostgresMetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connected, "READ_S", 0.3)
    monkeypatch.setattr(membership, "MEMBER_S", 0.3)
    with own_postgres.paused():
        store._commit_s = 0.3
        for call in (store.commit([(task(1),)]), store.get_run("run"), store.renew(LONG_MS)):
            with pytest.raises(StorageUnavailable):
                await call
    monkeypatch.undo()
    await again(lambda: store.commit([(task(1),)]))
    await again(lambda: store.renew(LONG_MS))
    assert await tasks_of(store) == {"t1": 1}


async def test_calls_do_not_queue_behind_others_while_the_server_does_not_answer(
    own_postgres: PostgresServer, store: PostgresMetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, the calls would wait for minutes."""
    monkeypatch.setattr(connected, "READ_S", 1.0)
    with own_postgres.paused():
        async with asyncio.timeout(WAIT_S):
            said = await asyncio.gather(*(store.get_run("run") for _ in range(1_000)), return_exceptions=True)
    assert {type(each) for each in said} == {StorageUnavailable}
    monkeypatch.undo()
    assert await again(lambda: store.get_run("run")) is not None


async def left_by_the_dead(store: PostgresMetadataStore, count: int) -> list[str]:
    """The ids of runs whose engine was buried."""
    dead = PostgresMetadataStore(store._url)
    await dead.open()
    await dead.join(EngineRow("dead"), 0)
    rows = [add(f"left-{number}").row for number in range(count)]
    await dead.commit([(AddRun(replace(row, owner="dead"), b"graph"),) for row in rows])
    await dead.close()
    assert await store.bury() == ["dead"]
    return [row.run_id for row in rows]


async def test_a_takeover_whose_answer_was_lost_is_told_again(
    own_postgres: PostgresServer, store: PostgresMetadataStore
) -> None:
    left = await left_by_the_dead(store, 5)
    real = store._as_member

    async def lose(work: Callable[[Any], Awaitable[Any]]) -> Any:
        await real(work)
        raise StorageUnavailable("the answer was lost")

    store._as_member = lose  # type: ignore[method-assign]
    with pytest.raises(StorageUnavailable):
        await store.take_over(3)
    store._as_member = real  # type: ignore[method-assign]
    store._doubtful_call = store._call  # as it is when the connection breaks before the answer
    assert [row.run_id for row in await store.take_over(3)] == left[:3]
    assert [row.run_id for row in await store.take_over(3)] == left[3:]
    assert await store.take_over(3) == []


async def test_a_takeover_whose_answer_is_lost_twice_is_told_again(
    monkeypatch: pytest.MonkeyPatch, store: PostgresMetadataStore
) -> None:
    left = await left_by_the_dead(store, 5)

    def losing(inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def lose(*args: Any) -> Any:
            await inner(*args)
            raise ConnectionResetError("with the answer")

        return lose

    with monkeypatch.context() as patches:
        patches.setattr(members, "take_over", losing(members.take_over))
        patches.setattr(members, "taken_by", losing(members.taken_by))
        for _ in range(3):  # the takeover, and two questions about it
            with pytest.raises(StorageUnavailable):
                await store.take_over(3)
    assert [row.run_id for row in await store.take_over(3)] == left[:3]
    assert [row.run_id for row in await store.take_over(3)] == left[3:]


async def test_a_takeover_that_never_arrived_is_not_mistaken_for_the_one_before(
    monkeypatch: pytest.MonkeyPatch, store: PostgresMetadataStore
) -> None:
    left = await left_by_the_dead(store, 4)
    assert [row.run_id for row in await store.take_over(2)] == left[:2]
    ask = members.taken_by

    async def fail(*_args: Any) -> Any:
        raise ConnectionResetError("before")

    async def lose(*args: Any) -> Any:
        await ask(*args)
        raise ConnectionResetError("with the answer")

    with monkeypatch.context() as patches:
        patches.setattr(members, "take_over", fail)
        patches.setattr(members, "taken_by", lose)
        for _ in range(3):
            with pytest.raises(StorageUnavailable):
                await store.take_over(2)
    assert [row.run_id for row in await store.take_over(2)] == left[2:]


# ------------------------------------------------------------------------------ members are paused


@pytest.mark.parametrize("stopped_after", [1, 2, 7, 12, 21])
async def test_a_zombie_that_wakes_after_its_lease_changes_nothing(url: str, stopped_after: int) -> None:
    heir = PostgresMetadataStore(url)
    await heir.open()
    await heir.join(EngineRow("heir"), LONG_MS)
    script = str(Path(__file__).with_name("zombie.py"))
    zombie = await asyncio.create_subprocess_exec(
        sys.executable, script, url, "zombie", "1", stdout=asyncio.subprocess.PIPE
    )
    assert zombie.stdout is not None
    try:
        async with asyncio.timeout(WAIT_S):
            acknowledged = 0
            while acknowledged < stopped_after:
                acknowledged = int(await zombie.stdout.readline())
            os.kill(zombie.pid, signal.SIGSTOP)
            # What it had under way when it was stopped ends by itself, at the latest when the server gives it up.
            await buried(heir, "zombie")
            assert [row.run_id for row in await heir.take_over(9)] == ["run"]
            before = await heir.load_run("run")
            last = await heir.last_change()
            await heir.commit([(PutTask(TaskRow("run", "mine", 10_000, TaskStatus.SUCCESSFUL, 1)),)])
            os.kill(zombie.pid, signal.SIGCONT)
            said = (await zombie.stdout.read()).decode().split()
        assert said[-1] == "fenced"
        after = await heir.load_run("run")
        assert before is not None
        assert after is not None
        assert after.run == before.run
        assert [row.task_id for row in after.tasks] == [*(row.task_id for row in before.tasks), "mine"]
        assert {row.change > last for row in after.tasks if row.task_id != "mine"} == {False}
        told = [int(word) for word in said[:-1]]
        assert len(before.tasks) >= max([acknowledged, *told])
    finally:
        if zombie.returncode is None:
            zombie.kill()
        await zombie.wait()
        await heir.close()


async def test_a_member_that_stopped_inside_a_transaction_is_buried_all_the_same(
    url: str, store: PostgresMetadataStore
) -> None:
    dead = PostgresMetadataStore(url)
    await dead.open()
    await dead.join(EngineRow("dead"), 0)
    async with dead._commits.use(WAIT_S) as (connection, _):
        await connection.execute("BEGIN")
        await connection.execute("SELECT 1 FROM engines WHERE engine_id = 'dead' FOR KEY SHARE")
        await connection.execute("UPDATE runs SET metadata = 'x' WHERE run_id = 'run'")
        await buried(store, "dead")
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
            await connection.execute("COMMIT")
    row = await store.get_run("run")
    assert row is not None
    assert row.metadata == ""
    with pytest.raises(Fenced):
        await dead.commit([(SetRun("run", RunStatus.FAILED, 9),)])
    await dead.close()


@pytest.mark.parametrize(
    "under_way",
    [
        "SELECT 1 FROM engines WHERE engine_id = 'late' FOR KEY SHARE",
        "UPDATE engines SET expires_ms = expires_ms + 1 WHERE engine_id = 'late'",
    ],
    ids=["commit", "renewal"],
)
async def test_a_member_with_a_commit_or_renewal_under_way_is_not_buried_nor_later_by_that_call(
    url: str, store: PostgresMetadataStore, under_way: str
) -> None:
    late = PostgresMetadataStore(url)
    await late.open()
    await late.join(EngineRow("late"), 0)
    holder = await asyncpg.connect(url)
    async with holder.transaction():
        await holder.execute(under_way)
        async with asyncio.timeout(WAIT_S):
            assert await store.bury() == []
    await late.renew(LONG_MS)
    assert {row.engine_id for row in await store.engines() if row.is_dead} == set()
    await late.renew(0)
    assert await store.bury() == ["late"]
    await holder.close()
    await late.close()


# ------------------------------------------------------------------------------ what the server says


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("53100", StorageFull),
        ("53200", StorageUnavailable),
        ("57P03", StorageUnavailable),
        ("58030", StorageUnavailable),
        ("XX001", CorruptData),
        ("XX002", CorruptData),
        ("25006", StorageUnavailable),
    ],
)
@pytest.mark.parametrize("table", ["tasks", "events"])
async def test_errors_of_the_server_have_meanings(
    store: PostgresMetadataStore, state: str, kind: type[StorageError], table: str
) -> None:
    admin = await asyncpg.connect(store._url)
    await admin.execute(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION 'as ordered' USING ERRCODE = '{state}'; END $$; "
        f"CREATE TRIGGER fail BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fail();"
    )
    before = await store.load_run("run")
    entry = (task(1), AddEvent("run", "e", "k", b"", 1)) if table == "events" else (task(1),)
    for _ in range(2):
        with pytest.raises(kind, match="as ordered") as caught:
            await store.commit([entry])
        assert "perdure@127.0.0.1" in str(caught.value)
    assert await store.load_run("run") == before
    await admin.execute("DROP FUNCTION fail() CASCADE")
    await store.commit([entry])
    assert await tasks_of(store) == {"t1": 1}
    await admin.close()


async def test_a_deadlock_is_not_noticed(store: PostgresMetadataStore) -> None:
    """The server gives one of two up; that one is repeated at once."""
    await store.commit([(add("a"),), (add("b"),)])
    other = await asyncpg.connect(store._url)
    await other.execute("BEGIN")
    await other.execute("SELECT 1 FROM runs WHERE run_id = 'b' FOR UPDATE")
    commit = asyncio.create_task(
        store.commit([(SetRun("a", RunStatus.RUNNING, 7),), (SetRun("b", RunStatus.RUNNING, 7),)])
    )
    async with asyncio.timeout(WAIT_S):
        while not await other.fetchval("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0.01)
    with contextlib.suppress(asyncpg.DeadlockDetectedError):
        await other.execute("SELECT 1 FROM runs WHERE run_id = 'a' FOR UPDATE")
    await other.execute("ROLLBACK")
    await other.close()
    await commit
    row = await store.get_run("a")
    assert row is not None
    assert row.update_ms == 7


@pytest.mark.parametrize("given", ["/nowhere", "wrong_user"])
async def test_a_store_that_cannot_be_opened_says_why(own_postgres: PostgresServer, given: str) -> None:
    name = (
        own_postgres.url("nowhere")
        if given == "/nowhere"
        else own_postgres.url("postgres").replace("perdure@", "nobody:pw@")
    )
    store = PostgresMetadataStore(name)
    with pytest.raises(StorageError, match="does not exist") as caught:
        await store.open()
    assert not isinstance(caught.value, StorageUnavailable)
    assert "pw" not in str(caught.value)
    with pytest.raises(StorageUnavailable, match="not open"):
        await store.get_run("run")
