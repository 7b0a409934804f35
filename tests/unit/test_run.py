"""The machine of one run, without anything around it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perdure.engine.messages import (
    AttemptLost,
    AttemptStarted,
    CancelRequested,
    ConsumeEvent,
    Event,
    EventArrived,
    RecordRun,
    RecordTask,
    SetTimer,
    Source,
    StartAttempt,
    TaskContinued,
    TaskFailed,
    TaskSucceeded,
    TimerFired,
)
from perdure.model import (
    NULL,
    Call,
    FailureKind,
    InputRef,
    InvalidSpec,
    NodeRef,
    RetryRule,
    RunStatus,
    Sleep,
    Spec,
    SpecNode,
    TaskOptions,
    TaskStatus,
    Wait,
    WaitEvent,
)
from unit.driver import CATCH, ERROR, FUNCTION, ONCE, VALUE, Driver, call, graph


def test_a_task_starts_once_all_it_needs_is_done() -> None:
    run = Driver(graph(call("a"), call("b"), call("c", "a", "b")))
    assert run.dispatched == [("a", 1), ("b", 1)]
    run.succeed("a")
    assert run.dispatched == [("a", 1), ("b", 1)]
    run.succeed("b")
    assert run.dispatched[-1] == ("c", 1)
    assert run.inputs["c"] == (Source(task_id="a"), Source(task_id="b"))
    run.succeed("c")
    assert run.ends == [RecordRun(RunStatus.SUCCESSFUL, 10, Source(task_id="c"))]


def test_the_record_of_an_output_stands_before_what_it_allows() -> None:
    run = Driver(graph(call("a"), call("b", "a")))
    kinds = [type(command) for command in run.succeed("a")]
    assert kinds == [RecordTask, StartAttempt]


def test_a_node_that_comes_first_without_giving_a_value_is_waited_for() -> None:
    run = Driver(Spec((call("a"), SpecNode("b", Call(FUNCTION, NULL), after=("a",))), "b"))
    assert run.dispatched == [("a", 1)]
    run.succeed("a")
    assert run.dispatched == [("a", 1), ("b", 1)]
    assert run.inputs["b"] == ()


def test_inputs_of_the_run_are_named() -> None:
    run = Driver(Spec((SpecNode("a", Call(FUNCTION, NULL, (InputRef("x"),))),), "a"))
    assert run.inputs["a"] == (Source(input="x"),)


def test_a_run_waits_for_the_nodes_beside_its_output() -> None:
    run = Driver(Spec((call("out"), call("beside")), "out"))
    run.succeed("out")
    assert run.status is RunStatus.RUNNING
    run.succeed("beside")
    assert run.ends[-1].output == Source(task_id="out")


@pytest.mark.parametrize(
    "event",
    [
        TaskSucceeded("a", 1, VALUE, 20),
        TaskFailed("a", 1, ERROR, 20),
        AttemptLost("a", 1, "gone", 20),
        AttemptLost("a", 1, "gone", 20, is_free=True),
        AttemptStarted("a", 1, 20),
        TaskContinued("a", 1, graph(call("z")), "z", 20),
        TaskSucceeded("a", 7, VALUE, 20),
        TaskSucceeded("nobody", 1, VALUE, 20),
        TimerFired("a", 1, 20),
        TimerFired("nobody", 1, 20),
    ],
)
def test_late_repeated_and_unknown_events_change_nothing(event: Event) -> None:
    run = Driver(graph(call("a"), call("b", "a")))
    run.succeed("a")
    before = run.state()
    assert run.apply(event) == []
    assert run.state() == before


def test_nothing_happens_after_the_end() -> None:
    run = Driver(graph(call("a")))
    run.succeed("a")
    events = (CancelRequested("", 20), EventArrived(1, "k", VALUE, 20), TaskSucceeded("a", 1, VALUE, 20))
    assert [run.apply(event) for event in events] == [[], [], []]


# ------------------------------------------------------------------------------ retries


RETRY = TaskOptions(retry=RetryRule(max_attempts=3, initial_interval_ms=100, jitter=0, application_errors=True))


def test_a_failed_attempt_is_tried_again_after_a_growing_pause() -> None:
    run = Driver(graph(call("a", options=RETRY)))
    run.fail("a", 1, at_ms=1_000)
    assert run.timers[-1] == SetTimer("a", 1, 1_100)
    assert run.records["a"].status is TaskStatus.BACKING_OFF
    assert run.apply(TimerFired("a", 1, 1_099)) == []
    run.apply(TimerFired("a", 1, 1_100))
    run.fail("a", 2, at_ms=2_000)
    assert run.timers[-1] == SetTimer("a", 2, 2_200)
    run.apply(TimerFired("a", 2, 2_200))
    run.fail("a", 3, at_ms=3_000)
    assert run.dispatched == [("a", 1), ("a", 2), ("a", 3)]
    assert run.status is RunStatus.FAILED
    assert run.ends[-1].failure == replace(ERROR, task_id="a", attempts=3)


def test_a_time_out_says_where_an_import_hangs() -> None:
    stack = (
        '  File "steps.py", line 3, in <module>\n    import slow\n  File "slow.py", line 1, in <module>\n    hang()\n'
    )
    run = Driver(graph(call("a", options=TaskOptions(attempt_timeout_ms=100, retry=RetryRule(max_attempts=1)))))
    run.apply(AttemptStarted("a", 1, 0))
    run.apply(TimerFired("a", 1, 100, stack))
    failure = run.ends[-1].failure
    assert failure is not None
    assert failure.message.endswith(
        'still importing the module of its function, at File "slow.py", line 1, in <module>'
    )
    assert failure.stack_trace == stack


def test_a_timer_that_fires_twice_starts_one_attempt() -> None:
    run = Driver(graph(call("a", options=RETRY)))
    run.fail("a", 1, at_ms=0)
    run.apply(TimerFired("a", 1, 100))
    run.apply(TimerFired("a", 1, 100))
    assert run.dispatched == [("a", 1), ("a", 2)]


def test_a_report_of_an_older_attempt_is_fenced_off() -> None:
    run = Driver(graph(call("a", options=RETRY)))
    run.apply(AttemptLost("a", 1, "gone", 0))
    run.apply(TimerFired("a", 1, 100))
    assert run.succeed("a", 1) == []
    run.succeed("a", 2)
    assert run.status is RunStatus.SUCCESSFUL


def test_counters_of_failures_survive_a_restart() -> None:
    run = Driver(graph(call("a", options=RETRY)))
    run.fail("a", 1, at_ms=0)
    run = run.restarted(at_ms=50)
    assert run.timers == [SetTimer("a", 1, 100)]
    assert run.dispatched == []
    run.apply(TimerFired("a", 1, 100))
    run.fail("a", 2, at_ms=200)
    run.apply(TimerFired("a", 2, 400))
    run.fail("a", 3, at_ms=500)
    assert run.status is RunStatus.FAILED


def test_an_attempt_that_may_have_begun_unseen_is_numbered_anew_at_no_cost() -> None:
    """Its number is recorded before the next attempt runs, so that it is not given again after a restart either."""
    run = Driver(graph(call("a", options=ONCE)))
    lost = AttemptLost("a", 1, "gone", 10, is_free=True)
    assert run.run.reach(lost) == 0
    commands = run.apply(lost)
    assert [type(command) for command in commands] == [RecordTask, StartAttempt]
    assert run.dispatched == [("a", 1), ("a", 2)]
    record = run.records["a"]
    assert (record.status, record.attempt, record.failures, record.failure) == (TaskStatus.READY, 1, 0, None)
    assert run.apply(lost) == [], "it is told twice"
    assert run.restarted().dispatched == [("a", 2)]
    assert run.restarted(before="unknown").dispatched == [("a", 3)]
    run.succeed("a", 1)
    assert run.status is RunStatus.RUNNING, "the lost one is fenced off"
    run.succeed("a", 2)
    assert run.status is RunStatus.SUCCESSFUL


def test_losses_without_cost_leave_the_retries_and_the_last_failure() -> None:
    run = Driver(graph(call("a", options=RETRY)))
    run.fail("a", 1, at_ms=0)
    run.apply(TimerFired("a", 1, 100))
    for attempt in range(2, 9):
        run.apply(AttemptLost("a", attempt, "gone", 200, is_free=True))
    assert run.dispatched[-1] == ("a", 9)
    assert run.records["a"].wake_ms is None
    run = run.restarted(before="unknown")
    assert run.dispatched == [("a", 10)]
    assert (run.records["a"].failures, run.records["a"].failure) == (1, ERROR)
    run.fail("a", 10, at_ms=500)
    assert run.timers[-1].due_ms == 700, "the pause is that after a second failure"
    run.apply(TimerFired("a", 10, 700))
    run.fail("a", 11, at_ms=800)
    assert run.status is RunStatus.FAILED


def test_the_loss_of_an_attempt_that_is_known_to_have_begun_has_its_cost() -> None:
    run = Driver(graph(call("a", options=RETRY)))
    run.apply(AttemptStarted("a", 1, 5))
    run.apply(AttemptLost("a", 1, "gone", 10, is_free=True))
    assert run.records["a"].status is TaskStatus.BACKING_OFF
    assert run.records["a"].failures == 1


def test_errors_of_user_code_are_not_retried_unless_asked() -> None:
    options = TaskOptions(retry=RetryRule(max_attempts=3, application_errors=False))
    run = Driver(graph(call("a", options=options)))
    run.fail("a")
    assert run.status is RunStatus.FAILED
    lost = Driver(graph(call("a", options=options)))
    lost.apply(AttemptLost("a", 1, "gone", 0))
    assert lost.status is RunStatus.RUNNING


def test_an_attempt_that_takes_too_long_is_cancelled_and_tried_again() -> None:
    options = replace(RETRY, attempt_timeout_ms=500)
    run = Driver(graph(call("a", options=options)))
    run.apply(AttemptStarted("a", 1, 1_000))
    assert run.timers[-1] == SetTimer("a", 1, 1_500, is_recorded=False)
    assert run.apply(TimerFired("a", 1, 1_499)) == []
    run.apply(TimerFired("a", 1, 1_500))
    assert run.cancelled == [("a", 1)]
    assert run.timers[-1] == SetTimer("a", 1, 1_600)
    assert run.succeed("a", 1) == []


def test_a_command_to_start_an_attempt_says_whether_its_time_is_limited() -> None:
    run = Driver(graph(call("a", options=replace(RETRY, attempt_timeout_ms=500)), call("b")))
    assert run.dispatched == [("a", 1), ("b", 1)]
    assert run.limited == {"a"}


# ------------------------------------------------------------------------------ failures


def test_a_failure_stops_the_siblings_and_the_run() -> None:
    run = Driver(graph(call("a"), call("b"), call("c", "a", "b")))
    run.fail("a")
    assert run.cancelled == [("b", 1)]
    assert run.run.graph.tasks["b"].status is TaskStatus.CANCELED
    assert run.status is RunStatus.FAILED
    assert run.succeed("b") == []


def test_a_caught_failure_is_a_value() -> None:
    run = Driver(graph(call("a", options=CATCH), call("b", "a")))
    run.fail("a")
    assert run.dispatched[-1] == ("b", 1)
    assert run.inputs["b"] == (Source(task_id="a", wraps=0),)
    assert run.records["a"].status is TaskStatus.SUCCESSFUL
    assert run.records["a"].failure == replace(ERROR, task_id="a", attempts=1)


def test_a_lost_worker_is_caught_once_its_retries_are_used_up() -> None:
    options = replace(
        CATCH, retry=RetryRule(max_attempts=2, initial_interval_ms=100, jitter=0, application_errors=True)
    )
    run = Driver(graph(call("a", options=options), call("b", "a")))
    run.apply(AttemptLost("a", 1, "gone", 10))
    assert run.dispatched == [("a", 1)]
    assert run.timers[-1] == SetTimer("a", 1, 10)
    run.apply(TimerFired("a", 1, 10))
    run.apply(AttemptLost("a", 2, "gone again", 120))
    assert run.dispatched == [("a", 1), ("a", 2), ("b", 1)]
    failure = run.records["a"].failure
    assert failure is not None
    assert (failure.kind, failure.attempts) == (FailureKind.SYSTEM, 2)
    assert "gone again" in failure.message
    assert run.restarted().inputs["b"] == (Source(task_id="a"),)


def test_a_task_catches_for_itself_and_not_for_its_inputs() -> None:
    run = Driver(graph(call("a"), call("b", "a", options=CATCH), call("c", "b")))
    run.fail("a")
    assert run.status is RunStatus.FAILED
    assert run.dispatched == [("a", 1)]


def test_a_caught_success_is_wrapped() -> None:
    run = Driver(graph(call("a", options=CATCH), call("b", "a")))
    run.succeed("a")
    assert run.inputs["b"] == (Source(task_id="a", wraps=1),)
    assert run.restarted().inputs["b"] == (Source(task_id="a", wraps=1),)


def test_catching_covers_the_graph_that_a_task_returned() -> None:
    run = Driver(graph(call("a", options=CATCH), call("b", "a")))
    run.go_on("a", graph(call("x"), call("y"), call("z", "x", "y")))
    run.go_on("x", graph(call("deep")))
    run.fail("deep")
    assert run.cancelled == [("y", 1)]
    assert run.inputs["b"] == (Source(task_id="a"),)
    assert run.succeed("y") == []
    again = run.restarted()
    assert again.dispatched == [("b", 1)]
    assert again.inputs["b"] == (Source(task_id="a"),)
    again.succeed("b")
    assert again.status is RunStatus.SUCCESSFUL


def test_nested_catching_wraps_once_for_each_layer() -> None:
    run = Driver(graph(call("a", options=CATCH), call("b", "a")))
    run.go_on("a", graph(call("x", options=CATCH)))
    run.succeed("x")
    assert run.inputs["b"] == (Source(task_id="x", wraps=2),)
    assert run.restarted().inputs["b"] == (Source(task_id="x", wraps=2),)


def test_a_failed_run_resumes_from_what_failed() -> None:
    run = Driver(graph(call("a"), call("b"), call("c", "a", "b"), call("d", "c")))
    run.succeed("a")
    run.succeed("b")
    run.fail("c")
    run = run.restarted()
    assert run.run.status is RunStatus.FAILED
    assert run.dispatched == []
    run = run.resumed(100)
    assert run.dispatched == [("c", 2)]
    assert run.status is RunStatus.RUNNING
    run.succeed("c", 2)
    run.succeed("d")
    assert run.status is RunStatus.SUCCESSFUL


def test_a_crash_right_after_a_resume_loses_nothing() -> None:
    run = Driver(graph(call("a"), call("b", "a")))
    run.succeed("a")
    run.fail("b")
    run = run.resumed(100)
    again = run.restarted()
    assert again.dispatched == [("b", 2)]


def test_a_resume_inside_a_returned_graph() -> None:
    run = Driver(graph(call("a"), call("b", "a")))
    run.go_on("a", graph(call("x"), call("y", "x")))
    run.succeed("x")
    run.fail("y")
    run = run.resumed(100)
    assert run.dispatched == [("y", 2)]
    run.succeed("y", 2)
    assert run.inputs["b"] == (Source(task_id="y"),)


def test_a_sleep_interrupted_by_a_failure_does_not_start_over() -> None:
    run = Driver(graph(SpecNode("s", Sleep(delay_ms=5_000)), call("a"), call("z", "s", "a")))
    run.fail("a")
    run = run.resumed(1_000)
    assert run.timers == [SetTimer("s", 1, 5_000)]
    assert run.dispatched == [("a", 2)]


def test_cancelling_ends_everything() -> None:
    run = Driver(graph(call("a"), SpecNode("w", WaitEvent("k")), call("c", "a", "w")))
    run.apply(CancelRequested("enough", 50))
    assert run.cancelled == [("a", 1)]
    assert run.status is RunStatus.CANCELED
    assert run.ends[-1].failure is not None
    assert run.ends[-1].failure.message == "enough"
    assert run.apply(EventArrived(1, "k", VALUE, 60)) == []


# ------------------------------------------------------------------------------ continuations


def test_a_returned_graph_takes_the_place_of_its_task() -> None:
    run = Driver(graph(call("a"), call("b", "a")))
    commands = run.go_on("a", graph(call("x"), call("y", "x")))
    assert [type(command) for command in commands] == [RecordTask, StartAttempt]
    run.succeed("x")
    assert ("b", 1) not in run.dispatched
    run.succeed("y")
    assert run.inputs["b"] == (Source(task_id="y"),)


def test_ids_are_never_given_twice() -> None:
    run = Driver(graph(call("f"), call("f_1", "f")))
    run.go_on("f", graph(call("f"), call("f_1", "f")))
    assert list(run.state()) == ["f", "f_1", "f_2", "f_1_1"]


def test_ids_are_the_same_after_a_restart_in_whatever_order_graphs_came() -> None:
    run = Driver(graph(call("a"), call("b"), call("c", "a", "b")))
    run.go_on("b", graph(call("f")))
    run.go_on("a", graph(call("f"), call("g", "f")))
    run.succeed("f_1")
    again = run.restarted()
    assert list(again.state()) == list(run.state())
    assert sorted(again.dispatched) == [("f", 1), ("g", 1)]


@pytest.mark.parametrize("depth", [1_000, 10_000])
def test_tail_recursion_is_a_loop(depth: int) -> None:
    run = Driver(graph(call("f"), call("end", "f")))
    current = "f"
    for _ in range(depth):
        run.go_on(current, graph(call("f")))
        current = run.dispatched[-1][0]
    run.succeed(current)
    assert run.inputs["end"] == (Source(task_id=current),)
    again = run.restarted()
    assert again.dispatched == [("end", 1)]
    assert again.inputs["end"] == (Source(task_id=current),)


@pytest.mark.parametrize(
    "make", [lambda i: call(f"n{i}", f"n{i - 1}"), lambda i: SpecNode(f"n{i}", WaitEvent("k"), after=(f"n{i - 1}",))]
)
def test_long_chains_need_no_recursion(make: object) -> None:
    length = 10_000
    assert callable(make)
    run = Driver(Spec((call("n0"), *(make(i) for i in range(1, length))), f"n{length - 1}"))
    for sequence in range(1, length):
        run.apply(EventArrived(sequence, "k", VALUE, 5))
    for task_id, attempt in run.dispatched:  # grows while it is walked
        run.succeed(task_id, attempt)
    assert run.status is RunStatus.SUCCESSFUL


# ------------------------------------------------------------------------------ events and timers


def test_an_event_reaches_its_waiter_once() -> None:
    run = Driver(graph(SpecNode("w", WaitEvent("k")), call("a", "w")))
    assert run.run.is_dormant
    commands = run.apply(EventArrived(7, "k", VALUE, 50))
    assert [type(command) for command in commands] == [ConsumeEvent, RecordTask, StartAttempt]
    assert run.apply(EventArrived(7, "k", VALUE, 50)) == []
    assert run.consumed == [(7, "w")]


def test_an_early_event_is_kept_also_over_a_restart() -> None:
    run = Driver(graph(call("a"), SpecNode("w", WaitEvent("k"), after=("a",))))
    assert run.apply(EventArrived(3, "k", VALUE, 5)) == []
    again = run.restarted()
    again.succeed("a")
    assert again.consumed == [(3, "w")]
    assert again.status is RunStatus.SUCCESSFUL


def test_events_of_one_key_are_delivered_in_order() -> None:
    first = SpecNode("w1", WaitEvent("k"))
    second = SpecNode("w2", WaitEvent("k"), after=("w1",))
    run = Driver(Spec((first, second), "w2"))
    run.apply(EventArrived(1, "other", VALUE, 5))
    run.apply(EventArrived(2, "k", VALUE, 5))
    run.apply(EventArrived(3, "k", VALUE, 5))
    assert run.consumed == [(2, "w1"), (3, "w2")]


def test_what_waits_says_so_after_a_restart_and_since_when() -> None:
    waits = (
        SpecNode("early", WaitEvent("k")),
        SpecNode("late", WaitEvent("k"), after=("a",)),
        SpecNode("never", WaitEvent("k"), after=("b",)),
    )
    run = Driver(graph(call("a"), call("b", "late"), *waits, SpecNode("both", Wait((NodeRef("a"), NodeRef("b")), 2))))
    run.apply(TaskSucceeded("a", 1, VALUE, at_ms=70))
    run = run.restarted(at_ms=None)
    run.run.settle(began_ms=40)
    tasks = run.run.graph.tasks
    told = {name: (tasks[name].status, tasks[name].started_ms) for name in ("early", "late", "never", "both")}
    assert told == {
        "early": (TaskStatus.RUNNING, 40),
        "late": (TaskStatus.RUNNING, 70),
        "never": (TaskStatus.BLOCKED, None),
        "both": (TaskStatus.RUNNING, 40),
    }
    run.take(run.run.recover(at_ms=500))
    run.apply(EventArrived(1, "k", VALUE, 600))
    run.apply(EventArrived(2, "k", VALUE, 700))
    assert (run.records["early"].started_ms, run.records["early"].ended_ms) == (40, 600)
    assert (run.records["late"].started_ms, run.records["late"].ended_ms) == (70, 700)


def test_an_event_wait_times_out() -> None:
    options = TaskOptions(catch_exceptions=True)
    run = Driver(graph(SpecNode("w", WaitEvent("k", timeout_ms=100), options=options), call("a", "w")))
    assert run.records["w"].wake_ms == 100
    again = run.restarted(at_ms=60)
    assert again.timers == [SetTimer("w", 1, 100)]
    again.apply(TimerFired("w", 1, 100))
    assert again.inputs["a"] == (Source(task_id="w"),)
    assert again.records["w"].failure is not None
    assert again.records["w"].failure.kind is FailureKind.TIMEOUT


def test_an_event_in_time_makes_the_timer_void() -> None:
    run = Driver(graph(SpecNode("w", WaitEvent("k", timeout_ms=100)), call("a", "w")))
    run.apply(EventArrived(1, "k", VALUE, 50))
    assert run.apply(TimerFired("w", 1, 100)) == []
    assert run.records["w"].wake_ms is None


def test_a_sleep_counts_from_when_it_is_ready_and_a_restart_does_not_move_it() -> None:
    run = Driver(graph(call("a"), SpecNode("s", Sleep(delay_ms=1_000), after=("a",)), call("b", "s")))
    commands = run.succeed("a")
    assert [type(command) for command in commands] == [RecordTask, SetTimer, RecordTask]
    assert run.timers[-1].due_ms == 1_010
    assert run.run.next_wake_ms == 1_010
    again = run.restarted(at_ms=900)
    assert again.timers == [SetTimer("s", 1, 1_010)]
    again.apply(TimerFired("s", 1, 1_010))
    assert again.dispatched == [("b", 1)]


def test_a_sleep_in_a_stopped_scope_never_wakes() -> None:
    run = Driver(graph(call("a", options=CATCH), call("b", "a")))
    run.go_on("a", graph(call("x"), SpecNode("s", Sleep(delay_ms=100)), call("y", "x", "s")))
    run.fail("x")
    assert run.records["s"].status is TaskStatus.CANCELED
    assert run.apply(TimerFired("s", 1, 200)) == []


# ------------------------------------------------------------------------------ restarts


def test_what_was_in_flight_runs_again_at_no_cost() -> None:
    run = Driver(graph(call("a"), call("b"), call("c", "a", "b")))
    run.succeed("a")
    again = run.restarted()
    assert again.dispatched == [("b", 1)]
    again.succeed("b")
    again.succeed("c")
    assert again.status is RunStatus.SUCCESSFUL


def test_a_restart_at_any_point_ends_the_same() -> None:
    """Restart after every event of a run with everything in it: the records always suffice."""
    spec = graph(call("a"), call("b", options=CATCH), SpecNode("w", WaitEvent("k")), call("c", "a", "b", "w"))
    steps: list[Event] = [
        TaskContinued("a", 1, graph(call("x"), call("y", "x")), "a's graph", 10),
        TaskFailed("b", 1, ERROR, 20),
        TaskSucceeded("x", 1, VALUE, 30),
        EventArrived(1, "k", VALUE, 40),
        TaskSucceeded("y", 1, VALUE, 50),
        TaskSucceeded("c", 1, VALUE, 60),
    ]
    whole = Driver(spec)
    for step in steps:
        whole.apply(step)
    for at in range(len(steps) + 1):
        run = Driver(spec)
        run.specs["a's graph"] = graph(call("x"), call("y", "x"))
        for step in steps[:at]:
            run.apply(step)
        run = run.restarted()
        for step in steps[at:]:
            run.apply(step)
        assert run.status is RunStatus.SUCCESSFUL, at
        assert run.consumed == whole.consumed, at
        assert {task_id: status for task_id, (status, *_) in run.state().items()} == {
            task_id: status for task_id, (status, *_) in whole.state().items()
        }, at


def test_an_attempt_that_was_cut_off_has_its_number_for_good() -> None:
    """However often the engine dies, no two starts of a task have one number, and none of them costs a retry."""
    run = Driver(graph(call("a", options=RETRY), call("b", "a")))
    assert run.dispatched == [("a", 1)]
    for attempt in (2, 3):
        run = run.restarted(before="unknown")
        assert run.dispatched == [("a", attempt)]
    run.fail("a", 3)
    run.apply(TimerFired("a", 3, 100_000))
    assert run.dispatched[-1] == ("a", 4)
    run = run.restarted(before="unknown", at_ms=200_000)
    assert run.dispatched == [("a", 5)], "it may have begun since its pause was over"
    run.succeed("a", 5)
    assert run.dispatched[-1] == ("b", 1), "nothing of it began before"


def test_a_pause_between_attempts_lasts_and_its_number_is_not_given_again() -> None:
    """Another engine, whose clock was ahead, may have begun the next attempt."""
    run = Driver(graph(call("a", options=RETRY)))
    run.fail("a")
    run = run.restarted(before="unknown", at_ms=11)
    assert run.dispatched == []
    run.apply(TimerFired("a", 2, 100_000))
    assert run.dispatched == [("a", 3)]


def test_times_of_a_task_are_those_of_its_workers() -> None:
    """By the engine's clock the first one began in the future, and the second one ended in the past."""
    run = Driver(graph(call("a", options=RETRY)))
    run.apply(AttemptStarted("a", 1, 20, 5_000))
    run.apply(TaskFailed("a", 1, ERROR, 30, 5_000, 5_010))
    run.apply(TimerFired("a", 1, 100_000))
    run.apply(TaskSucceeded("a", 2, VALUE, 100_500, 40, 540))
    assert (run.records["a"].started_ms, run.records["a"].ended_ms) == (5_000, 5_500)


def test_an_attempt_has_its_time_from_when_the_engine_heard_of_it() -> None:
    """Its worker's clock may be any."""
    run = Driver(graph(call("a", options=replace(RETRY, attempt_timeout_ms=100))))
    run.apply(AttemptStarted("a", 1, 20, 5_000))
    assert run.timers[-1].due_ms == 120


def test_attempts_of_a_run_and_of_returned_graphs_know_who_waits_for_it() -> None:
    driver = Driver(replace(graph(call("a"), call("b", "a")), callers=("n/w",)))
    driver.go_on("a", graph(call("inner")))
    driver = driver.restarted()
    driver.succeed("inner")
    assert driver.dispatched == [("inner", 1), ("b", 1)]
    assert driver.callers == {("n/w",)}


def test_a_row_of_waiting_runs_is_bounded() -> None:
    with pytest.raises(InvalidSpec, match="64"):
        replace(graph(call("a")), callers=("n/w",) * 65)
