"""Large runs are worked on in threads and stored in parts, and other runs do not wait for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from perdure import graphwire, wire
from perdure.engine.machine import TaskState
from perdure.model import RunStatus, Spec, TaskStatus
from perdure.service.api.places import Place
from perdure.service.api.watch import Watcher
from perdure.service.common import aside
from perdure.service.executors.port import ContinuationReturned, Waiting
from perdure.service.operations import queries
from perdure.service.runs import publishing, recording
from perdure.service.runs.changes import Overflowed, Subscription
from perdure.service.runs.live import Live
from perdure.service.runs.views import RunView, TaskView
from perdure.storage.ports import Entry, StorageFull, Unstorable
from perdure.storage.writes import AddRun, Committed, PutTask, SetRun
from perdure.v1 import workflow_service_pb2
from unit.driver import call, graph
from unit.engine_by_hand import Engine, Store, running_engine, soon

WIDE: Spec = graph(*(call(f"t{number}") for number in range(10)), call("end", *(f"t{number}" for number in range(10))))
ONE: Spec = graph(call("a"))


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """From four tasks on, and shares are of two."""
    monkeypatch.setattr(aside, "NODES_AT_ONCE", 3)
    monkeypatch.setattr(recording, "EARLY_AT_ONCE", 2)


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with running_engine() as engine:
        yield engine


def canceled_in(entries: Sequence[Entry]) -> list[str]:
    rows = [write.row for entry in entries for write in entry if isinstance(write, PutTask)]
    return [row.task_id for row in rows if row.status is TaskStatus.CANCELED]


def begin_all(engine: Engine, run: RunView) -> None:
    """Begin the attempts of WIDE, so that a cancellation records their ends."""
    for number in range(10):
        engine.begin(run, f"t{number}")


async def begin_to_cancel(engine: Engine, run: RunView) -> asyncio.Task[RunView]:
    """Until its first share is about to be stored."""
    begin_all(engine, run)
    engine.store.hold()
    return await soon(engine.kernel.lifecycle.cancel("default", "w", "enough"))


async def test_a_cancellation_is_stored_in_shares_and_its_end_comes_last(engine: Engine) -> None:
    canceling = await begin_to_cancel(engine, await engine.start(WIDE))
    shares = []
    while not canceling.done():
        shares.append(await engine.store.commits.get())
        engine.store.let_one_go()
        await asyncio.sleep(0)
        if any(isinstance(write, SetRun) for entry in shares[-1] for write in entry):
            break
    assert [len(canceled_in(share)) for share in shares] == [2, 2, 2, 2, 2, 0]
    view = await canceling
    assert view.counts is not None
    assert (view.row.status, view.counts.canceled, view.counts.pending) == (RunStatus.CANCELED, 10, 1)


async def test_entries_of_other_runs_come_between_the_shares_of_a_large_one(engine: Engine) -> None:
    canceling = await begin_to_cancel(engine, await engine.start(WIDE))
    first = await engine.store.commits.get()
    other = await soon(engine.start(ONE, "other"))
    engine.store.let_one_go()
    second = await engine.store.commits.get()
    assert len(canceled_in(first)) == 2
    assert any(isinstance(write, AddRun) for entry in second for write in entry)
    assert not canceling.done()
    engine.store.let_one_go()
    assert (await other).row.status is RunStatus.RUNNING
    assert not canceling.done()
    engine.store.let_all_go()
    assert (await canceling).row.status is RunStatus.CANCELED


@pytest.mark.parametrize("shares", range(6))
async def test_a_run_whose_cancellation_was_cut_off_goes_on(shares: int) -> None:
    store = Store()
    async with running_engine(store) as engine:
        run = await engine.start(WIDE)
        await begin_to_cancel(engine, run)
        for _ in range(shares):
            await engine.store.commits.get()
            engine.store.let_one_go()
        await engine.store.commits.get()  # and here the engine dies
        rows = {task.task_id: task.status for task in (await store.load_run(run.row.run_id)).tasks}  # type: ignore[union-attr]
        assert sum(status is TaskStatus.CANCELED for status in rows.values()) == 2 * shares
        heir = Engine(store)
        store.forget_holds()
        await heir.kernel.start()
        assert set((await heir.tasks()).values()) == {"READY", "BLOCKED"}
        await heir.kernel.journal.barrier()
        for number in range(10):
            attempt = await heir.executor.submitted.get()
            heir.succeed(run, f"t{number}", attempt.number)
        await heir.kernel.journal.barrier()
        end = await heir.executor.submitted.get()
        heir.succeed(run, "end", end.number)
        view = await heir.kernel.queries.run("default", "w", wait_s=30)
        assert view.row.status is RunStatus.SUCCESSFUL
        await heir.kernel.stop(grace_s=1)


@pytest.mark.parametrize("shares", range(6))
async def test_a_watch_that_goes_on_after_some_shares_tells_of_all_tasks(engine: Engine, shares: int) -> None:
    canceling = await begin_to_cancel(engine, await engine.start(WIDE))
    for _ in range(shares):
        await engine.store.commits.get()
        engine.store.let_one_go()
    await engine.store.commits.get()
    kernel = engine.kernel
    token = Place(kernel.changes.published).token()
    engine.store.let_all_go()
    await canceling
    request = workflow_service_pb2.WatchRequest(
        namespace="default", workflow_ids=["w"], include_tasks=True, until_final=True, resume_token=token
    )
    watcher = Watcher(kernel.store, kernel.queries, kernel.changes, kernel.scheduler.clock)
    told = [event.task.task async for answer in watcher.watch(request) for event in answer.events]
    canceled = {task.task_id for task in told if task.status == wire.TASK_STATUS[TaskStatus.CANCELED]}
    assert canceled == {f"t{number}" for number in range(10)}


async def worked_on(engine: Engine, run: RunView) -> Live:
    """The run, whose first task has returned a large graph, which a thread works on."""
    inner = graphwire.encode_spec(WIDE)
    engine.executor.report((run.row.run_id, ContinuationReturned("first", 1, inner, engine.now_ms)))
    live = engine.kernel.scheduler.memory.find(run.row.run_id)
    assert live is not None
    while live.at_rest is None:
        await asyncio.sleep(0)
    return live


async def test_a_large_run_is_read_when_no_thread_works_on_it(engine: Engine) -> None:
    run = await engine.start(graph(call("first"), call("second", "first")))
    await worked_on(engine, run)
    view = await engine.kernel.queries.run("default", "w")
    assert view.counts is not None
    assert view.counts.total == 13


async def test_events_of_a_run_wait_until_no_thread_works_on_it(engine: Engine) -> None:
    run = await engine.start(graph(call("first"), call("beside"), call("second", "first", "beside")))
    live = await worked_on(engine, run)
    engine.succeed(run, "beside")
    assert live.held
    tasks = await engine.tasks()
    assert (tasks["first"], tasks["beside"]) == ("SUCCESSFUL", "SUCCESSFUL")
    assert tasks["t0"] == "READY"


async def test_a_cancellation_without_room_is_refused_and_the_run_goes_on(engine: Engine) -> None:
    run = await engine.start(WIDE)

    class OnlyShares:
        """There is room for shares, and none for the end."""

        def __init__(self, commit: object) -> None:
            self._commit = commit

        async def __call__(self, entries: Sequence[Entry]) -> Committed:
            if any(isinstance(write, SetRun) for entry in entries for write in entry):
                raise StorageFull("no room")
            return await self._commit(entries)  # type: ignore[operator,no-any-return]

    engine.store.commit = OnlyShares(engine.store.commit)  # type: ignore[method-assign]
    with pytest.raises(Exception, match="full"):
        await engine.kernel.lifecycle.cancel("default", "w", "enough")
    engine.succeed(run, "t0")
    await engine.kernel.journal.barrier()
    tasks = await engine.tasks()
    assert (tasks["t0"], tasks["t1"]) == ("SUCCESSFUL", "READY")


async def test_a_share_that_the_store_never_takes_fails_the_run_alone(engine: Engine) -> None:
    begin_all(engine, await engine.start(WIDE))
    await engine.start(ONE, "other")
    inner = engine.store.commit

    async def commit(entries: Sequence[Entry]) -> Committed:
        if "t5" in canceled_in(entries):
            raise Unstorable("never", "task_id")
        return await inner(entries)

    engine.store.commit = commit  # type: ignore[method-assign]
    with pytest.raises(Exception, match="cannot be stored"):
        await engine.kernel.lifecycle.cancel("default", "w", "enough")
    view = await engine.kernel.queries.run("default", "w", wait_s=30)
    assert view.row.status is RunStatus.FAILED
    assert (await engine.kernel.queries.run("default", "other")).row.status is RunStatus.RUNNING


async def test_the_cancellation_of_attempts_that_have_not_begun_is_one_entry(engine: Engine) -> None:
    await engine.start(WIDE)
    engine.store.hold()
    canceling = await soon(engine.kernel.lifecycle.cancel("default", "w", "enough"))
    (entry,) = await engine.store.commits.get()
    assert canceled_in([entry]) == []
    assert [type(write) for write in entry] == [SetRun]
    engine.store.let_all_go()
    view = await canceling
    assert view.counts is not None
    assert (view.counts.canceled, view.counts.pending) == (10, 1)
    told = await engine.tasks()
    assert [name for name, status in told.items() if status == "CANCELED"] == [f"t{number}" for number in range(10)]
    assert told["end"] == "BLOCKED"


async def test_other_calls_are_answered_while_all_tasks_of_a_run_are_read(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await engine.start(WIDE)
    may_end = threading.Event()
    inner = queries.view_task

    def view_task(task: TaskState, waiting: Waiting | None = None) -> TaskView:
        may_end.wait(10)
        return inner(task, waiting)

    monkeypatch.setattr(queries, "view_task", view_task)
    looking = await soon(engine.kernel.queries.look(run.row, None))
    assert (await engine.start(ONE, "other")).row.status is RunStatus.RUNNING
    engine.begin(run, "t0")
    assert not looking.done()
    may_end.set()
    _, tasks = (await looking).taken
    assert {str(task.status) for task in tasks} == {"READY", "BLOCKED"}, "as it was when it was asked for"
    assert (await engine.tasks())["t0"] == "RUNNING"


async def until_the_end(subscription: Subscription) -> None:
    while await subscription.next_batch(20):
        pass


@pytest.mark.parametrize("way", ["canceled", "failed"])
async def test_subscribers_of_more_changes_than_their_backlog_takes_are_cut_off(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(publishing, "BACKLOG_MAX", 5)
    run = await engine.start(WIDE)
    with engine.kernel.changes.subscribe([run.row.run_id]) as subscription:
        if way == "canceled":
            await engine.kernel.lifecycle.cancel("default", "w", "enough")
        else:
            engine.fail(run, "t0")
        with pytest.raises(Overflowed):
            await until_the_end(subscription)
    assert (await engine.kernel.queries.run("default", "w", wait_s=20)).row.status.is_final
    assert (await engine.tasks())["t1"] == "CANCELED"
