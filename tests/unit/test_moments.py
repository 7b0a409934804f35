"""Every answer is of one durable moment, though memory is ahead of the store, and the store ahead of its answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from patience import PATIENCE_S
from perdure import errors, graphwire
from perdure.model import RunStatus, Spec, TaskOptions
from perdure.service.executors.port import ContinuationReturned
from perdure.storage.ports import CorruptData, StorageFull
from perdure.storage.queries import RunQuery
from unit.driver import VALUE, call, graph
from unit.engine_by_hand import NOW_MS, Engine, running_engine, soon

PAIR = graph(call("a"), call("b"), call("c", "a", "b"))
ONE: Spec = graph(call("a"))


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with running_engine() as engine:
        yield engine


async def test_what_happens_while_an_answer_waits_is_not_in_it(engine: Engine) -> None:
    run = await engine.start(PAIR)
    engine.store.hold()
    engine.succeed(run, "a")
    tasks = await soon(engine.tasks())
    status = await soon(engine.kernel.queries.run("default", "w"))
    output = await soon(engine.kernel.queries.outcome("default", "w", task_id="b"))
    metadata = await soon(engine.kernel.queries.task("default", "w", "b"))
    engine.succeed(run, "b")  # memory is ahead by this, and it stays there
    for _ in range(2):  # that of a, and what waits behind it
        engine.store.let_one_go()
        await soon(engine.store.commits.get())
    assert await tasks == {"a": "SUCCESSFUL", "b": "READY", "c": "BLOCKED"}
    counts = (await status).counts
    assert counts is not None
    assert counts.successful == 1
    assert (await output).value is None, "not yet"
    assert (await metadata).status == "READY"


@pytest.mark.parametrize("is_damaged", [False, True])
async def test_a_graph_that_is_removed_while_its_run_is_read_is_no_damage(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    run = await engine.start(ONE)
    engine.succeed(run, "a")
    assert (await engine.kernel.queries.outcome("default", "w", wait_s=PATIENCE_S)).value == VALUE
    definitions = engine.kernel.scheduler.definitions
    read = definitions.read
    reads = 0

    async def torn(kind: Any, keys: Iterable[str]) -> dict[str, Any]:
        nonlocal reads
        reads += 1
        if is_damaged or reads == 1:
            raise CorruptData("the graph is not in the store", subject="key")
        return await read(kind, keys)

    monkeypatch.setattr(definitions, "read", torn)
    if is_damaged:
        with pytest.raises(errors.CorruptDataError):
            await engine.tasks()
    else:
        assert await engine.tasks() == {"a": "SUCCESSFUL"}


async def test_the_end_of_a_run_and_of_its_last_task_are_told_together(engine: Engine) -> None:
    run = await engine.start(ONE)
    engine.store.hold()
    engine.succeed(run, "a")
    status = await soon(engine.kernel.queries.run("default", "w"))
    output = await soon(engine.kernel.queries.outcome("default", "w", task_id="a"))
    assert not status.done()
    engine.store.let_all_go()
    view = await status
    assert (view.row.status, view.counts and view.counts.successful) == (RunStatus.SUCCESSFUL, 1)
    assert ((await output).status, (await output).value) == (RunStatus.SUCCESSFUL, VALUE)


async def test_an_end_that_others_can_see_in_the_store_is_not_told_as_yet_to_come(engine: Engine) -> None:
    run = await engine.start(ONE)
    engine.store.hold_answers()
    engine.succeed(run, "a")
    await engine.store.commits.get()  # it is stored, and the engine has not heard of it
    (listed,) = await engine.kernel.queries.list_runs(RunQuery("default", 10))
    assert listed.row.status is RunStatus.SUCCESSFUL
    row = await soon(engine.kernel.queries.row("default", "w"))
    rows = await soon(engine.kernel.queries.rows((run.row.run_id,)))
    engine.store.let_all_go()
    assert (await row).status is RunStatus.SUCCESSFUL
    assert (await rows)[run.row.run_id].status is RunStatus.SUCCESSFUL


async def test_without_room_what_is_stored_is_told(engine: Engine) -> None:
    run = await engine.start(PAIR)
    engine.store.errors = [StorageFull("no room")] * 50
    engine.succeed(run, "a")
    assert await engine.tasks() == {"a": "BLOCKED", "b": "BLOCKED", "c": "BLOCKED"}


async def test_pages_of_tasks_have_places_and_no_more_than_they_may(engine: Engine) -> None:
    run = await engine.start(graph(*(call(f"t{number}") for number in range(5)), call("end", "t1")))
    engine.succeed(run, "t1")
    first = await engine.kernel.queries.tasks("default", "w", limit=2)
    assert [(place, task.task_id) for place, task in first] == [(0, "t0"), (1, "t1")]
    rest = await engine.kernel.queries.tasks("default", "w", start=2, limit=10)
    assert [task.task_id for _, task in rest] == ["t2", "t3", "t4", "end"]
    done = await engine.kernel.queries.tasks("default", "w", statuses={first[1][1].status})
    assert [(place, task.task_id) for place, task in done] == [(1, "t1")]


async def test_a_run_that_is_over_still_tells_of_tasks_without_checkpoints(engine: Engine) -> None:
    inner = graph(call("one", options=TaskOptions(checkpoint=False)), call("plus", "one"))
    run = await engine.start(graph(call("outer"), call("last", "outer")))
    engine.executor.report(
        (run.row.run_id, ContinuationReturned("outer", 1, graphwire.encode_spec(inner), engine.now_ms))
    )
    for name in ("one", "plus", "last"):
        await engine.kernel.journal.barrier()
        engine.begin(run, name)
        engine.now_ms += 10
        engine.succeed(run, name)
    before = (await engine.kernel.queries.look(run.row, None)).taken
    await engine.kernel.journal.barrier()
    assert engine.kernel.scheduler.memory.find(run.row.run_id) is None
    now = await engine.kernel.queries.look(await engine.kernel.queries.row("default", "w"), None)
    assert (now.row.status, now.taken) == (RunStatus.SUCCESSFUL, before)
    assert now.taken[0].successful == 4
    one = await engine.kernel.queries.task("default", "w", "one")
    assert (str(one.status), one.attempts, one.started_ms, one.ended_ms) == (
        "SUCCESSFUL",
        1,
        NOW_MS,
        NOW_MS + 10,
    )
    outcome = await engine.kernel.queries.outcome("default", "w", task_id="outer")
    assert outcome.value == VALUE
