"""However a task ends, it has an end: in a run that is canceled or fails, and in a scope that is stopped."""

from __future__ import annotations

import pytest

from perdure.engine.messages import AttemptStarted, CancelRequested, EventArrived, TaskContinued, TaskFailed, TimerFired
from perdure.model import NodeRef, RunStatus, Sleep, SpecNode, TaskStatus, Wait, WaitEvent
from unit.driver import CATCH, ERROR, VALUE, Driver, call, graph

WAITING = {
    "event": SpecNode("w", WaitEvent("k")),
    "event in time": SpecNode("w", WaitEvent("k", timeout_ms=60_000)),
    "sleep": SpecNode("w", Sleep(delay_ms=60_000)),
    "wait": SpecNode("w", Wait((NodeRef("a"),))),
    "wait in time": SpecNode("w", Wait((NodeRef("a"),), timeout_ms=60_000)),
}


def waiting(kind: str) -> Driver:
    return Driver(graph(call("a"), WAITING[kind], call("c", "a", "w")))


@pytest.mark.parametrize("kind", WAITING)
def test_canceling_a_run_ends_what_waits(kind: str) -> None:
    run = waiting(kind)
    assert run.run.graph.tasks["w"].status is TaskStatus.RUNNING
    run.apply(CancelRequested("enough", 50))
    for task_id in ("a", "w"):
        record = run.records[task_id]
        assert (record.status, record.ended_ms) == (TaskStatus.CANCELED, 50)
    assert "c" not in run.records  # it never began


@pytest.mark.parametrize("kind", WAITING)
def test_a_failed_run_ends_what_waits_and_resumes_it(kind: str) -> None:
    run = waiting(kind)
    run.apply(TaskFailed("a", 1, ERROR, 50))
    assert run.status is RunStatus.FAILED
    assert (run.records["a"].status, run.records["a"].ended_ms) == (TaskStatus.FAILED, 50)
    assert (run.records["w"].status, run.records["w"].ended_ms) == (TaskStatus.CANCELED, 50)
    run = run.resumed(60)
    task = run.run.graph.tasks["w"]
    assert (task.status, task.ended_ms) == (TaskStatus.RUNNING, None)
    if kind.startswith("event"):
        run.apply(EventArrived(1, "k", VALUE, 70))
        assert run.records["w"].status is TaskStatus.SUCCESSFUL
        assert run.records["w"].ended_ms == 70


@pytest.mark.parametrize(("kind", "due_ms"), [("event in time", 150_000), ("wait in time", 150_000), ("sleep", 60_000)])
def test_a_resumed_run_waits_as_long_again_but_does_not_sleep_twice(kind: str, due_ms: int) -> None:
    run = waiting(kind)
    run.apply(TaskFailed("a", 1, ERROR, 50))
    run = run.resumed(90_000)
    assert [(timer.task_id, timer.due_ms) for timer in run.timers] == [("w", due_ms)]
    again = run.restarted(100_000)
    assert [(timer.task_id, timer.due_ms) for timer in again.timers] == [("w", due_ms)], "a restart changes nothing"


def test_waits_that_time_out_together_all_wait_again_after_a_resume() -> None:
    waits = [SpecNode(name, WaitEvent("k", timeout_ms=60_000)) for name in "vw"]
    run = Driver(graph(*waits, call("c", "v", "w")))
    first, second = run.timers
    run.apply(TimerFired(first.task_id, first.attempt, at_ms=60_000))
    run.apply(TimerFired(second.task_id, second.attempt, at_ms=60_000))
    assert run.status is RunStatus.FAILED
    run = run.resumed(90_000)
    assert {timer.due_ms for timer in run.timers} == {150_000}
    for timer in (first, second):
        run.apply(TimerFired(timer.task_id, timer.attempt, at_ms=90_000))
    assert run.status is RunStatus.RUNNING


@pytest.mark.parametrize("kind", WAITING)
def test_a_cancellation_is_foretold_as_it_is_applied(kind: str) -> None:
    run = waiting(kind)
    run.apply(AttemptStarted("a", 1, 60))
    event = CancelRequested("enough", 50)
    foretold = run.run.cancellation(event)
    assert run.run.status is RunStatus.RUNNING
    assert run.run.cancellation(event) == foretold, "it changes nothing"
    assert run.run.apply(event) == foretold
    assert run.run.cancellation(event) == []


def test_a_stopped_scope_ends_what_waits_in_it() -> None:
    run = Driver(graph(call("outer", options=CATCH), SpecNode("beside", WaitEvent("k")), call("z", "outer", "beside")))
    inner = graph(call("x"), SpecNode("w", WaitEvent("k")), call("y", "x", "w"))
    run.apply(TaskContinued("outer", 1, inner, "inner", 40))
    run.apply(TaskFailed("x", 1, ERROR, 50))
    assert (run.records["w"].status, run.records["w"].ended_ms) == (TaskStatus.CANCELED, 50)
    assert run.run.graph.tasks["beside"].status is TaskStatus.RUNNING
    run.apply(EventArrived(1, "k", VALUE, 60))  # goes to the one that still waits
    assert run.records["beside"].status is TaskStatus.SUCCESSFUL
    assert run.records["w"].status is TaskStatus.CANCELED
