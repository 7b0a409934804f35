"""Whatever there is a lot of in a PostgreSQL store, reads look at little more than they give: by the plans that
the server carries out, not by the clock."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from perdure.model import RunStatus, TaskStatus
from perdure.storage.postgres.store import PostgresMetadataStore
from perdure.storage.queries import LABELLED_MAX, AllOf, Comparison, RunQuery
from perdure.storage.rows import ACTOR, CALL_KEY, GRAPH, EngineRow, RunRow, TaskRow, ValueKey
from perdure.storage.writes import AddEvent, AddRun, ConsumeEvent, PutTask
from postgres import PostgresServer

COUNT = 2_000
PAGE = 10
LOOKED_AT_MAX = 60
"""Rows beyond those given: of engines, of the other side of a join."""


class Recorded:
    """A connection that notes what it is asked."""

    def __init__(self, connection: Any, asked: list[tuple[str, tuple[Any, ...]]]) -> None:
        self._connection = connection
        self._asked = asked

    def __getattr__(self, name: str) -> Any:
        def ask(statement: str, *arguments: Any) -> Any:
            self._asked.append((statement, arguments))
            return getattr(self._connection, name)(statement, *arguments)

        return ask


@pytest.fixture
async def store(postgres_server: PostgresServer) -> AsyncIterator[PostgresMetadataStore]:
    """Many finished runs, many that sleep, many that wait, many actors, one of them with many calls; never analyzed."""
    async with postgres_server.database() as url:
        store = PostgresMetadataStore(url)
        await store.open()
        await store.join(EngineRow("me"), 600_000)
        for status, is_dormant, letter, kind in (
            (RunStatus.SUCCESSFUL, False, "f", GRAPH),
            (RunStatus.RUNNING, True, "s", GRAPH),
            (RunStatus.PENDING, False, "p", GRAPH),
            (RunStatus.RUNNING, True, "c", ACTOR),
        ):
            await store.commit(
                [entry_of(f"{letter}{number:05}", status, is_dormant, number, kind) for number in range(COUNT)]
            )
        calls = [(AddEvent("c00077", f"{number}", CALL_KEY, b"", 1),) for number in range(1_000)]
        results = (await store.commit(calls)).results
        await store.commit([(ConsumeEvent("c00077", result.sequence, "t"),) for result in results[:-2]])
        yield store
        await store.close()


def entry_of(
    name: str, status: RunStatus, is_dormant: bool, number: int, kind: str = GRAPH
) -> tuple[AddRun, PutTask, AddEvent]:
    row = RunRow(
        name,
        "default",
        f"id-{name}",
        status,
        "spec",
        create_ms=number,
        update_ms=number,
        end_ms=number if status.is_final else None,
        owner="me",
        is_dormant=is_dormant,
        kind=kind,
        request_id=f"r-{name}",
        labels={"team": f"t{number % 5}", "order": f"o{number}"},
    )
    task = TaskRow(name, "t", 0, TaskStatus.RUNNING, 1, output=b"x", output_bytes=1, wake_ms=10**9 + number)
    return AddRun(row, b"graph", {"x": b"1"}), PutTask(task), AddEvent(name, "e", "k", b"", 1)


def looked_at(plan: dict[str, Any]) -> int:
    """Rows that the scans of a plan read, given or not."""
    own = 0
    if "Scan" in plan["Node Type"] and "Relation Name" in plan:
        own = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return int(own) + sum(looked_at(part) for part in plan.get("Plans", ()))


READS: dict[str, tuple[int, Callable[[PostgresMetadataStore], Awaitable[object]]]] = {
    "find_run": (1, lambda store: store.find_run("default", "id-s00077")),
    "find_request": (1, lambda store: store.find_request("default", "r-s00077")),
    "read_tombstone": (1, lambda store: store.read_tombstone("77")),
    "latest_events": (1, lambda store: store.latest_events("s00077", limit=PAGE)),
    "find_event": (1, lambda store: store.find_event("s00077", "k", "e")),
    "load_run": (5, lambda store: store.load_run("s00077")),
    "count_calls": (2, lambda store: store.count_calls("c00077")),
    "running_runs": (COUNT, lambda store: store.running_runs()),
    "count_pending": (COUNT, lambda store: store.count_pending()),
    "list actors": (PAGE, lambda store: store.list_runs(RunQuery("default", PAGE, of_actors=True))),
    "read_events": (1, lambda store: store.read_events("s00077", after=0)),
    "read_values": (2, lambda store: store.read_values([ValueKey("s00077", "t"), ValueKey("s00077", input="x")])),
    "unfinished_runs": (0, lambda store: store.unfinished_runs(after="", limit=PAGE)),
    "pending_runs": (PAGE, lambda store: store.pending_runs("default", limit=PAGE)),
    "next_timers": (2 * PAGE, lambda store: store.next_timers(until_ms=10**12, limit=PAGE)),
    "no timers": (0, lambda store: store.next_timers(until_ms=5, limit=PAGE)),
    "changes": (PAGE, lambda store: store.read_tasks("s00077", after=0)),
    "no changes": (0, lambda store: store.read_changes("default", after=10**15, limit=PAGE)),
    "no changes at all": (0, lambda store: store.read_changes(None, after=10**15, limit=PAGE)),
    "read_mail": (0, lambda store: store.read_mail(limit=PAGE)),
    "take_over": (3, lambda store: store.take_over(PAGE)),
} | {
    f"list by {order_by} {where.field if where else ''} {'down' if descending else 'up'}": (
        # of five teams one is asked for; its labels are looked up, too
        PAGE * (12 if where is not None and where.field.startswith("labels") else 1),
        lambda store, order_by=order_by, where=where, descending=descending: store.list_runs(
            RunQuery("default", PAGE, where, order_by, descending)
        ),
    )
    for order_by in ("create_ms", "update_ms", "workflow_id")
    for descending in (True, False)
    for where in (None, Comparison("labels.team", "=", "t3"))
}
READS["list by status"] = (
    PAGE,
    lambda store: store.list_runs(RunQuery("default", PAGE, Comparison("status", "=", "SUCCESSFUL"))),
)
RARE = Comparison("labels.order", "=", "o77")
for where, given in (
    (RARE, 6),
    (Comparison("labels.order", "=", "unknown"), 0),
    (AllOf((Comparison("status", "=", "PENDING"), RARE)), 6),
    (AllOf((Comparison("labels.team", "=", "t2"), RARE)), 9),
):
    READS[f"list by {where}"] = (given, lambda store, where=where: store.list_runs(RunQuery("default", PAGE, where)))


async def test_reads_look_at_little_more_than_they_give(
    store: PostgresMetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_much = {}
    for name, (given, read) in READS.items():
        asked: list[tuple[str, tuple[Any, ...]]] = []
        with monkeypatch.context() as patch:
            for connections in (store._reads, store._members):
                use = connections.use
                patch.setattr(connections, "use", lambda s, use=use, asked=asked: _recording(use(s), asked))
            await read(store)
        assert asked, name
        async with store._reads.use(60) as (connection, _):
            for statement, arguments in asked:
                (text,) = await connection.fetchrow(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments)
                (explained,) = json.loads(text)
                counts_label = statement.startswith("SELECT run_id FROM labels")
                most = LABELLED_MAX + 1 if counts_label else given + LOOKED_AT_MAX
                if (count := looked_at(explained["Plan"])) > most:
                    too_much[name] = (count, statement)
    assert not too_much


class _recording:
    def __init__(self, context: Any, asked: list[tuple[str, tuple[Any, ...]]]) -> None:
        self._context = context
        self._asked = asked

    async def __aenter__(self) -> tuple[Any, bool]:
        connection, is_new = await self._context.__aenter__()
        return Recorded(connection, self._asked), is_new

    async def __aexit__(self, *error: Any) -> Any:
        return await self._context.__aexit__(*error)


async def test_what_is_at_work_is_found_among_many_that_sleep(store: PostgresMetadataStore) -> None:
    """A takeover does not look at sleepers before those at work are taken."""
    at_work = [entry_of(f"z{number:05}", RunStatus.RUNNING, False, number) for number in range(3)]
    await store.commit(at_work)
    heir = PostgresMetadataStore(store._url)
    await heir.open()
    await heir.join(EngineRow("heir"), 600_000)
    await store.leave()
    asked: list[tuple[str, tuple[Any, ...]]] = []
    async with heir._members.use(60) as (connection, _):
        await heir._take_over(Recorded(connection, asked), PAGE)
        assert [row.run_id for row in await heir.get_runs([f"z{number:05}" for number in range(3)])]
        statement, arguments = asked[0]
        # Explained as it will be for the next engine, with those at work left to it.
        await connection.execute("UPDATE runs SET owner = 'me' WHERE run_id >= 'z'")
        (text,) = await connection.fetchrow(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", arguments[0], arguments[1] + 1, *arguments[2:]
        )
    (explained,) = json.loads(text)
    assert looked_at(explained["Plan"]) < LOOKED_AT_MAX
    assert {row.owner for row in await heir.get_runs([f"z{number:05}" for number in range(3)])} == {"heir"}
    await heir.close()
