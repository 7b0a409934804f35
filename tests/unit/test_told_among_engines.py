"""Changes that an engine publishes: those of other engines, and its own while other engines read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, cast

import pytest

from perdure import errors, graphwire
from perdure.model import RunStatus, TaskStatus
from perdure.service.api import places
from perdure.service.api.watch import Watcher
from perdure.service.executors.port import Executor
from perdure.service.fleet.repeats import happened
from perdure.service.journal.membership import added
from perdure.service.kernel import Kernel
from perdure.service.machines.graphs import source_of
from perdure.service.runs.changes import Change, Subscription
from perdure.service.runs.views import RunView
from perdure.storage.memory.store import MemoryMetadataStore, SharedMemory
from perdure.storage.ports import CorruptData, Entry, StorageUnavailable
from perdure.storage.rows import EngineRow, RunRow, StoredRun, TaskRow
from perdure.storage.writes import AddRun, DeleteRun, PutTask, SetRun
from perdure.v1 import workflow_service_pb2
from unit.driver import call, graph
from unit.engine_by_hand import running_engine

ROW = RunRow("r", "default", "w", RunStatus.RUNNING, "spec", 1, 1, owner="me")


class Idle:
    """An executor that is given nothing."""

    async def start(self, *_arguments: Any) -> None: ...
    async def stop(self) -> None: ...


class Watch:
    """A watch of all runs of a kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._changes = kernel.changes
        watcher = Watcher(kernel.store, kernel.queries, kernel.changes, kernel.scheduler.clock)
        self.answers = cast("AsyncGenerator[workflow_service_pb2.WatchResponse, None]", watcher.watch(_all_runs()))

    async def told(self, *rows: RunRow) -> workflow_service_pb2.WatchResponse:
        """The answer after these rows were published."""
        for row in rows:
            self._changes.publish(row.run_id, Change(row.change, 1, "default", run=RunView(row)))
        async with asyncio.timeout(30):
            return await anext(self.answers)


@asynccontextmanager
async def watched(kernel: Kernel) -> AsyncIterator[tuple[Watch, int]]:
    """A watch, and the commit that its first answer names."""
    await kernel.start()
    watch = Watch(kernel)
    yield watch, _place(await anext(watch.answers))
    await watch.answers.aclose()
    await kernel.stop(grace_s=1)


def run_of(change: int) -> RunRow:
    return ROW.but(run_id=f"r{change}", change=change)


class Damaged(MemoryMetadataStore):
    """Has no run that can be loaded."""

    async def load_run(self, run_id: str) -> StoredRun | None:
        raise CorruptData("a record is damaged", subject=run_id)


async def test_watchers_of_all_runs_hear_that_a_damaged_one_failed() -> None:
    store = Damaged()
    await store.commit([(AddRun(ROW, b""),)])
    kernel = Kernel(store, cast(Executor, Idle()), owner="me")
    with kernel.changes.subscribe(None) as subscription:
        await kernel.start()
        (change,) = await subscription.next_batch(30)
        await kernel.stop(grace_s=1)
    assert change.run is not None
    assert (change.run.row.run_id, change.run.row.status) == ("r", RunStatus.FAILED)


async def test_queries_raise_errors_of_ours_while_the_store_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_args: Any) -> Any:
        raise StorageUnavailable("away")

    async with running_engine() as engine:
        monkeypatch.setattr(engine.store, "find_run", away)
        monkeypatch.setattr(engine.store, "list_runs", away)
        for ask in (
            engine.kernel.queries.run("default", "w"),
            engine.kernel.queries.outcome("default", "w", wait_s=5),
            engine.kernel.queries.tasks("default", "w"),
            engine.kernel.queries.list_runs(cast(Any, None)),
        ):
            with pytest.raises(errors.DatabaseUnavailableError):
                await ask


async def test_a_value_that_was_deleted_meanwhile_is_not_called_volatile(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_engine() as engine:
        run = await engine.start(graph(call("a")))
        engine.succeed(run, "a")
        row = await engine.kernel.queries.ended(run.row, 30)
        await engine.kernel.lifecycle.delete("default", "w")

        async def nothing(*_args: Any) -> None:
            return None

        monkeypatch.setattr(engine.kernel.values, "cached", lambda _key: None)
        monkeypatch.setattr(engine.kernel.values, "find", nothing)
        with pytest.raises(errors.WorkflowNotFoundError):
            await engine.kernel.queries.outcome_of(row)


async def test_a_run_whose_commit_is_repeated_keeps_the_number_that_others_were_told() -> None:
    store = MemoryMetadataStore()
    await store.commit([(AddRun(ROW, b""),)])
    await store.commit([()])
    entries: list[Entry] = [(AddRun(ROW, b""),), (AddRun(ROW.but(run_id="new"), b""),)]
    assert await happened(store, "me", entries) == {0: 1}
    assert await added(store, entries) == {0: 1}


async def test_a_resume_token_names_no_commit_before_which_others_may_still_commit() -> None:
    kernel = Kernel(SharedMemory().member(), cast(Executor, Idle()), owner="me", engine=EngineRow("me"))
    async with watched(kernel) as (watch, first):
        answer = await watch.told(run_of(first + 2))  # one between the two is under way elsewhere
        assert [event.sequence for event in answer.events] == [first + 2]
        assert _place(answer) == first
        kernel.changes.advance(first + 2)
        assert _place(await watch.told(run_of(first + 3))) == first + 2


async def test_a_resume_token_names_no_commit_that_a_thread_still_works_on() -> None:
    kernel = Kernel(SharedMemory().member(), cast(Executor, Idle()), owner="me", engine=EngineRow("me"))
    async with watched(kernel) as (watch, first):
        kernel.changes.expect_late(first + 1)
        kernel.changes.advance(first + 2)
        assert _place(await watch.told(run_of(first + 2))) == first
        kernel.changes.published_late(first + 1)
        assert _place(await watch.told(run_of(first + 3))) == first + 2


async def test_tasks_that_another_engine_cancels_before_it_ends_their_run_are_told() -> None:
    """The records of a large run are stored in parts, and its end comes last."""
    shared = SharedMemory()
    other = shared.member()
    await other.join(EngineRow("other"), 60_000)
    spec = graph(call("a"))
    source = source_of(spec, graphwire.encode_spec(spec))
    await other.commit([(AddRun(ROW.but(owner="other", spec_key=source.key), source.data),)])
    kernel = Kernel(shared.member(), cast(Executor, Idle()), owner="me", engine=EngineRow("me"))
    await kernel.start()
    with kernel.changes.subscribe(["r"]) as subscription:
        await other.commit([(PutTask(TaskRow("r", "a", seq=0, status=TaskStatus.CANCELED, attempt=1)),)])
        assert [change.task for change in await subscription.next_batch(30)]  # as it was: the run goes on
        await other.commit([(SetRun("r", RunStatus.CANCELED, 1),)])
        told: list[Change] = []
        while not any(change.run for change in told):
            told += await subscription.next_batch(30)
    assert [change.task[2].status if change.task else "the end" for change in told] == [TaskStatus.CANCELED, "the end"]
    await kernel.stop(grace_s=1)


async def test_a_watch_tells_each_state_of_a_run_once_and_none_after_a_newer_one() -> None:
    kernel = Kernel(SharedMemory().member(), cast(Executor, Idle()), owner="me", engine=EngineRow("me"))
    async with watched(kernel) as (watch, first):
        ended, before = ROW.but(status=RunStatus.FAILED, change=first + 5), ROW.but(change=first + 4)
        answer = await watch.told(ended, before, ended, ROW.but(run_id="last", change=first + 6))
        assert [event.sequence for event in answer.events] == [first + 5, first + 6]


async def test_a_deletion_elsewhere_is_told_with_the_time_of_the_clock_of_the_engine() -> None:
    shared = SharedMemory()
    other = shared.member()
    await other.join(EngineRow("other"), 60_000)
    spec = graph(call("a"))
    source = source_of(spec, graphwire.encode_spec(spec))
    await other.commit([(AddRun(ROW.but(owner="other", spec_key=source.key), source.data),)])
    kernel = Kernel(shared.member(), cast(Executor, Idle()), owner="me", engine=EngineRow("me"), clock=lambda: 7_000)
    await kernel.start()
    watcher = Watcher(kernel.store, kernel.queries, kernel.changes, kernel.scheduler.clock)
    request = workflow_service_pb2.WatchRequest(workflow_ids=["w"], until_final=True)
    request.progress_interval.FromMilliseconds(1_000)
    answers = cast("AsyncIterator[workflow_service_pb2.WatchResponse]", watcher.watch(request))
    await anext(answers)
    await other.commit([(DeleteRun("r"),)])
    async with asyncio.timeout(30):
        told = [event async for answer in answers for event in answer.events]
    assert [(event.deleted_workflow_id, event.time.ToMilliseconds()) for event in told] == [("w", 7_000)]
    await kernel.stop(grace_s=1)


def _all_runs() -> workflow_service_pb2.WatchRequest:
    return workflow_service_pb2.WatchRequest(namespace="default")


def _place(answer: workflow_service_pb2.WatchResponse) -> int:
    place = places.read(answer.resume_token)
    assert place is not None
    return place.change


async def test_the_tasks_of_a_run_are_told_before_its_end_to_a_watch_that_begins_meanwhile() -> None:
    """Otherwise the watch would end with the run, and never tell of the tasks."""
    shared = SharedMemory()
    other = shared.member()
    await other.join(EngineRow("other"), 60_000)
    spec = graph(call("a"))
    source = source_of(spec, graphwire.encode_spec(spec))
    await other.commit([(AddRun(ROW.but(owner="other", spec_key=source.key), source.data),)])
    store = shared.member()
    kernel = Kernel(store, cast(Executor, Idle()), owner="me", engine=EngineRow("me"))
    await kernel.start()
    read_changes = store.read_changes
    with ExitStack() as watches:
        watches.enter_context(kernel.changes.subscribe(None))  # otherwise nothing is read
        begun: asyncio.Future[Subscription] = asyncio.get_running_loop().create_future()

        async def begin_meanwhile(*args: Any, **named: Any) -> list[RunRow]:
            page = await read_changes(*args, **named)
            if any(row.status.is_final for row in page) and not begun.done():
                begun.set_result(watches.enter_context(kernel.changes.subscribe(["r"])))
            return page

        store.read_changes = begin_meanwhile  # type: ignore[method-assign]
        task = TaskRow("r", "a", seq=0, status=TaskStatus.FAILED, attempt=1, failures=1)
        await other.commit([(PutTask(task), SetRun("r", RunStatus.FAILED, 1))])
        async with asyncio.timeout(30):
            subscription = await begun
        told: list[Change] = []
        while not any(change.run for change in told):
            told += await subscription.next_batch(30)
    assert ["task" if change.task else "run" for change in told if change.task or change.run] == ["task", "run"]
    await kernel.stop(grace_s=1)


async def test_a_resume_token_names_no_commit_that_is_published_in_part() -> None:
    """The journal publishes a large commit in several turns of the loop."""
    kernel = Kernel(MemoryMetadataStore(), cast(Executor, Idle()), owner="me")
    async with watched(kernel) as (watch, first):
        assert _place(await watch.told(run_of(first + 1))) == first
        kernel.changes.advance(first + 1)
        assert _place(await watch.told(run_of(first + 2))) == first + 1
