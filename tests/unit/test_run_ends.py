"""However a task ends, it has an end: in a run that is canceled or fails, and in a scope that is stopped."""

from __future__ import annotations

import pytest

from perdure.engine.graph_run.run import Run
from perdure.engine.messages import AttemptStarted, CancelRequested, EventArrived, TaskContinued, TaskFailed, TimerFired
from perdure.model import NodeRef, RetryRule, RunStatus, Sleep, Spec, SpecNode, TaskOptions, TaskStatus, Wait, WaitEvent
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
    record = run.records["w"]
    assert (record.status, record.ended_ms) == (TaskStatus.CANCELED, 50)
    assert "c" not in run.records  # it never began
    for ended in (run, run.restarted()):
        task = ended.run.graph.tasks["a"]
        assert (task.status, task.ended_ms) == (TaskStatus.CANCELED, 50)


def test_the_end_of_a_run_ends_calls_that_have_not_begun_without_records() -> None:
    run = Driver(graph(*(call(f"t{number}") for number in range(10)), call("end", *(f"t{n}" for n in range(10)))))
    run.apply(AttemptStarted("t0", 1, 40))
    run.succeed("t1")
    event = CancelRequested("enough", 50)
    foretold = run.run.cancellation(event)
    assert run.apply(event) == foretold
    assert run.cancelled == [(f"t{number}", 1) for number in (0, *range(2, 10))]
    assert run.records.keys() == {"t0", "t1"}, "only the attempt that began, and the task that was done"
    for ended in (run, run.restarted()):
        tasks = ended.run.graph.tasks
        assert {name for name, task in tasks.items() if task.status is TaskStatus.CANCELED} == {
            f"t{number}" for number in (0, *range(2, 10))
        }
        assert (tasks["t2"].attempt, tasks["t2"].attempts_begun, tasks["t2"].ended_ms) == (1, 0, 50)
        assert (tasks["t0"].attempts_begun, tasks["t0"].started_ms, tasks["t0"].ended_ms) == (1, 40, 50)
        assert tasks["end"].status is TaskStatus.BLOCKED


def test_the_end_of_a_run_ends_calls_without_records_after_a_restart_too() -> None:
    run = Driver(graph(call("a"), call("b"), call("c", "a", "b"))).restarted(10, before="unknown")
    assert run.dispatched == [("a", 2), ("b", 2)]
    before = dict(run.records)
    run.apply(CancelRequested("enough", 50))
    assert run.records == before
    for ended in (run, run.restarted()):
        task = ended.run.graph.tasks["a"]
        assert (task.status, task.attempt, task.attempts_begun, task.ended_ms) == (TaskStatus.CANCELED, 2, 1, 50)


def test_numbers_of_attempts_grow_however_often_a_run_fails_and_is_resumed() -> None:
    run = Driver(graph(call("a"), call("b"), call("c", "a", "b")))
    numbers = [1]
    for life in range(3):
        run.fail("a", run.run.graph.tasks["a"].attempt)
        assert run.status is RunStatus.FAILED
        run = run.resumed(100 + life)
        numbers.append(run.run.graph.tasks["b"].attempt)
        run = run.restarted(100 + life, before="unknown")
        numbers.append(run.run.graph.tasks["b"].attempt)
    assert numbers == sorted(set(numbers))


def test_a_run_that_was_canceled_before_it_began_has_no_canceled_tasks() -> None:
    spec = graph(call("a"))
    run = Run.restore(spec, RunStatus.CANCELED, (), {"root": spec}, ended_ms=None)
    assert run.graph.tasks["a"].status is TaskStatus.BLOCKED


def test_a_resumed_run_does_not_repeat_the_number_of_an_attempt_that_ended_with_it() -> None:
    run = Driver(graph(call("a"), call("b"), call("c", "a", "b")))
    run.fail("a")
    assert "b" not in run.records
    run = run.resumed(60)
    assert ("b", 2) in run.dispatched
    again = run.restarted(70, before="unknown")
    assert ("b", 3) in again.dispatched


def test_a_task_that_became_ready_as_the_run_ended_is_canceled() -> None:
    first = SpecNode("first", Wait((NodeRef("a"), NodeRef("later")), num_returns=1))
    run = Driver(Spec((call("a"), first, call("later", "a")), "first"))
    run.succeed("a")
    assert run.status is RunStatus.SUCCESSFUL
    assert run.dispatched == [("a", 1)]
    for ended in (run, run.restarted()):
        assert ended.run.graph.tasks["later"].status is TaskStatus.CANCELED


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


# ------------------------------------------------------------------------------ what is told of failures


def test_a_wait_that_timed_out_says_why_before_and_after_a_restart() -> None:
    driver = Driver(graph(SpecNode("e", WaitEvent("never", timeout_ms=1_000))))
    driver.apply(TimerFired("e", driver.timers[-1].attempt, at_ms=1_000))
    for now in (driver, driver.restarted()):
        failure = now.run.graph.tasks["e"].failure
        assert failure is not None
        assert (failure.type, failure.task_id) == ("perdure.EventTimeout", "e")


def test_a_failed_call_names_its_task_and_its_attempts_before_and_after_a_restart() -> None:
    driver = Driver(graph(call("a")))
    driver.fail("a")
    for now in (driver, driver.restarted()):
        failure = now.run.graph.tasks["a"].failure
        assert failure is not None
        assert (failure.task_id, failure.attempts) == ("a", 1)


def test_a_retry_that_succeeded_has_no_failure_before_and_after_a_restart() -> None:
    driver = Driver(graph(call("a", options=TaskOptions(retry=RetryRule(max_attempts=2, application_errors=True)))))
    driver.fail("a")
    driver.apply(TimerFired("a", driver.timers[-1].attempt, at_ms=1_000_000))
    driver.succeed("a", attempt=2)
    assert [now.run.graph.tasks["a"].failure for now in (driver, driver.restarted())] == [None, None]


def test_attempts_on_record_are_counted_while_a_resumed_run_is_not_loaded_yet() -> None:
    """Attempt 1 may have begun before the restart, attempt 2 ended with the run."""
    driver = Driver(graph(call("a"), call("b"), call("end", "a", "b"))).restarted(before="told")
    driver.fail("b", attempt=2)
    again = driver.restarted()
    again.status = RunStatus.RUNNING  # as Resume does it in the store
    lives = driver, again.restarted(None), again.restarted(before="told")
    assert [life.run.graph.tasks["a"].attempts_begun for life in lives] == [1, 1, 2]
