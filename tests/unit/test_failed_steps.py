"""An unexpected error in a step of a run fails that run alone. Everybody who waits is answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from perdure import graphwire, wire
from perdure.engine.graph_run.run import Run
from perdure.engine.messages import CancelRequested, EventArrived, TaskSucceeded
from perdure.model import Failure, FailureKind, RunStatus, Spec, SpecNode, TaskStatus, WaitEvent
from perdure.service.api.places import Place
from perdure.service.api.watch import Watcher
from perdure.service.common import aside
from perdure.service.executors.port import ContinuationReturned
from perdure.service.machines.graphs import Graphs
from perdure.service.runs.changes import Overflowed
from perdure.v1 import workflow_service_pb2
from unit.driver import VALUE, call, graph
from unit.engine_by_hand import Engine, running_engine, soon

WIDE: Spec = graph(*(call(f"t{number}") for number in range(10)), call("end", *(f"t{number}" for number in range(10))))
PAIR = graph(call("a"), call("b", "a"))

Break = Callable[[str, Callable[[Run, Any], bool]], None]


@pytest.fixture(params=[False, True], ids=["on the loop", "in a thread"])
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a thread applies the steps."""
    if request.param:
        monkeypatch.setattr(aside, "NODES_AT_ONCE", 0)
    return bool(request.param)


@pytest.fixture
async def engine(large: bool) -> AsyncIterator[Engine]:
    async with running_engine() as engine:
        yield engine


@pytest.fixture
def break_(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Have a method of runs change a task and then raise, for some events."""

    def begin(method: str, is_broken: Callable[[Run, Any], bool]) -> None:
        works = getattr(Run, method)

        def breaks(self: Run, event: Any, *more: Any) -> Any:
            if not is_broken(self, event):
                return works(self, event, *more)
            self._set(next(iter(self.graph)), TaskStatus.FAILED)
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(Run, method, breaks)

    return begin


async def failure_of(engine: Engine, name: str = "w") -> Failure:
    view = await engine.kernel.queries.outcome("default", name, wait_s=20)
    assert view.status is RunStatus.FAILED
    assert isinstance(view.value, Failure)
    return view.value


def succeeds(task_id: str, spec: Spec = PAIR) -> Callable[[Run, Any], bool]:
    """The event that a task of runs of this size succeeded."""
    size = len(spec.nodes)
    return lambda run, event: (
        isinstance(event, TaskSucceeded) and event.task_id == task_id and len(run.graph.tasks) == size
    )


async def test_the_run_fails_and_the_reports_of_others_are_applied(engine: Engine, break_: Break) -> None:
    run, other = await engine.start(PAIR), await engine.start(graph(call("a")), "other")
    break_("apply", succeeds("a"))
    both = [(each.row.run_id, TaskSucceeded("a", 1, VALUE, engine.now_ms)) for each in (run, other)]
    engine.executor.report(*both)
    failure = await failure_of(engine)
    assert (failure.kind, failure.type) == (FailureKind.SYSTEM, "perdure.StepFailed")
    assert "ZeroDivisionError" in failure.message
    assert (await engine.kernel.queries.outcome("default", "other", wait_s=20)).status is RunStatus.SUCCESSFUL
    assert engine.kernel.scheduler.memory.find(run.row.run_id) is None
    assert engine.kernel.is_quiet


async def test_what_was_recorded_before_does_not_run_again(
    engine: Engine, break_: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await engine.start(PAIR)
    with monkeypatch.context():
        break_("apply", succeeds("b"))
        run_id = run.row.run_id
        a, b = (TaskSucceeded(task_id, 1, VALUE, engine.now_ms) for task_id in "ab")
        engine.executor.report((run_id, a), (run_id, b))
        await failure_of(engine)
    assert await engine.tasks() == {"a": "SUCCESSFUL", "b": "CANCELED"}
    monkeypatch.undo()
    await engine.kernel.lifecycle.resume("default", "w")
    while (attempt := await engine.executor.submitted.get()).number == 1:
        assert attempt.task_id in ("a", "b")
    assert attempt.task_id == "b"
    engine.succeed(run, "b", attempt.number)
    assert (await engine.kernel.queries.outcome("default", "w", wait_s=20)).status is RunStatus.SUCCESSFUL


async def test_attempts_that_earlier_steps_begin_are_stopped(engine: Engine, break_: Break) -> None:
    run = await engine.start(graph(call("a"), call("b"), call("c", "a"), call("d", "c", "b")))
    break_("apply", lambda _run, event: isinstance(event, TaskSucceeded) and event.task_id == "b")
    engine.store.hold()
    engine.succeed(run, "a")
    engine.succeed(run, "b")
    engine.store.let_all_go()
    await failure_of(engine)
    await engine.kernel.journal.barrier()
    submitted = {(attempt.task_id, attempt.number) for attempt in _drained(engine)}
    assert ("c", 1) in submitted
    assert ("c", 1) in engine.executor.cancelled


async def test_an_event_that_is_durable_is_not_lost(
    engine: Engine, break_: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.start(graph(SpecNode("w", WaitEvent("go")), call("b", "w")))
    with monkeypatch.context():
        break_("apply", lambda _run, event: isinstance(event, EventArrived))
        await engine.kernel.events.send("default", "w", key="go", event_id="1", payload=VALUE)
        await failure_of(engine)
    monkeypatch.undo()
    await engine.kernel.lifecycle.resume("default", "w")
    assert (await engine.executor.submitted.get()).task_id == "b"


async def test_a_cancellation_that_cannot_be_decided_changes_nothing(
    engine: Engine, break_: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await engine.start(PAIR)

    def breaks(_self: Run, _event: CancelRequested) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as context:
        context.setattr(Run, "cancellation", breaks)
        with pytest.raises(ZeroDivisionError):
            await engine.kernel.lifecycle.cancel("default", "w")
    engine.succeed(run, "a")
    assert (await engine.kernel.queries.look(run.row, None)).row.status is RunStatus.RUNNING
    assert (await engine.tasks())["a"] == "SUCCESSFUL"
    assert (await engine.kernel.lifecycle.cancel("default", "w")).row.status is RunStatus.CANCELED


async def test_a_cancellation_that_is_durable_is_told_whatever_breaks_then(engine: Engine, break_: Break) -> None:
    run = await engine.start(PAIR)
    kernel = engine.kernel
    break_("apply", lambda _run, event: isinstance(event, CancelRequested))
    before = Place(kernel.changes.published).token()
    with kernel.changes.subscribe([run.row.run_id]) as subscription:
        canceled = await kernel.lifecycle.cancel("default", "w")
        assert canceled.row.status is RunStatus.CANCELED
        with pytest.raises(Overflowed):
            await subscription.next_batch(0)
    await kernel.journal.barrier()
    assert kernel.changes.published == canceled.row.change
    assert engine.executor.cancelled == [("a", 1)]
    assert kernel.scheduler.memory.find(run.row.run_id) is None
    request = workflow_service_pb2.WatchRequest(
        namespace="default", workflow_ids=["w"], include_tasks=True, until_final=True, resume_token=before
    )
    watcher = Watcher(kernel.store, kernel.queries, kernel.changes, kernel.scheduler.clock)
    told = [event async for answer in watcher.watch(request) for event in answer.events]
    tasks = {event.task.task.task_id: event.task.task.status for event in told if event.HasField("task")}
    assert tasks["a"] == wire.TASK_STATUS[TaskStatus.CANCELED]
    assert told[-1].workflow.status == wire.RUN_STATUS[RunStatus.CANCELED]


async def test_a_cancellation_of_a_run_that_fails_is_told_of_the_failure(engine: Engine, break_: Break) -> None:
    run = await engine.start(PAIR)
    break_("apply", succeeds("a"))
    engine.store.hold()
    other = await soon(engine.start(PAIR, "other"))  # the journal is at work
    engine.succeed(run, "a")
    canceling = await soon(engine.kernel.lifecycle.cancel("default", "w"))
    engine.store.let_all_go()
    assert (await canceling).row.status is RunStatus.FAILED
    await other


async def test_a_returned_graph_that_breaks_the_reader_fails_the_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = await engine.start(PAIR), await engine.start(graph(call("a")), "other")

    def breaks(_kind: Graphs, _run_id: str, _report: ContinuationReturned) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(Graphs, "read_returned", breaks)
    inner = graphwire.encode_spec(WIDE)
    engine.executor.report(
        (run.row.run_id, ContinuationReturned("a", 1, inner, engine.now_ms)),
        (other.row.run_id, TaskSucceeded("a", 1, VALUE, engine.now_ms)),
    )
    assert (await failure_of(engine)).type == "perdure.StepFailed"
    assert (await engine.kernel.queries.outcome("default", "other", wait_s=20)).status is RunStatus.SUCCESSFUL


async def test_a_run_that_cannot_go_on_from_its_records_fails(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    await engine.start(PAIR)
    heir = Engine(engine.store)

    def breaks(*_arguments: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Run, "recover", breaks)
    await heir.kernel.start()
    failure = await failure_of(heir)
    assert failure.type == "perdure.CorruptData"
    assert "cannot go on from its records (ZeroDivisionError: a bug)" in failure.message
    await heir.kernel.stop(grace_s=1)


def _drained(engine: Engine) -> list[Any]:
    found = []
    while not engine.executor.submitted.empty():
        found.append(engine.executor.submitted.get_nowait())
    return found
