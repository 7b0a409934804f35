"""The machine of one run: tasks whose outputs are not checkpointed, and tasks that run beside others."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from perdure.engine.graph_run.run import DEFERRED_MAX
from perdure.engine.messages import AttemptLost, CancelRequested, StartAttempt, TaskFailed, TaskSucceeded, TimerFired
from perdure.model import NodeRef, RetryRule, RunStatus, SpecNode, TaskOptions, TaskStatus, Wait
from unit.driver import CATCH, ERROR, FUNCTION, ONCE, VALUE, Driver, call, graph

NOT = replace(ONCE, checkpoint=False)
KEPT = replace(ONCE, checkpoint=True)
RETRY = replace(ONCE, retry=RetryRule(max_attempts=3, initial_interval_ms=100, jitter=0, application_errors=True))


def test_an_output_without_a_checkpoint_is_at_hand_and_not_recorded() -> None:
    driver = Driver(graph(call("a", options=NOT), call("b", "a")))
    driver.succeed("a")
    assert driver.kept == ["a"]
    assert "a" not in driver.records
    assert driver.dispatched == [("a", 1), ("b", 1)]
    assert driver.run.keeps_values
    driver.succeed("b")
    assert driver.kept == []
    assert driver.run.status is RunStatus.SUCCESSFUL


def test_a_volatile_output_is_dropped_with_its_last_user() -> None:
    driver = Driver(graph(call("a", options=NOT), call("b", "a"), call("c", "a"), call("d", "b", "c")))
    driver.succeed("a")
    driver.succeed("b")
    assert driver.kept == ["a"]
    driver.succeed("c")
    assert driver.kept == []
    assert not driver.run.keeps_values


def test_after_a_restart_a_needed_volatile_task_runs_again() -> None:
    driver = Driver(graph(call("a"), call("b", "a", options=NOT), call("c", "b", options=NOT), call("d", "c")))
    driver.succeed("a")
    driver.succeed("b")
    driver.succeed("c")
    driver = driver.restarted()
    assert driver.dispatched == [("b", 1)], "a is checkpointed, c waits for b"
    driver.succeed("b")
    driver.succeed("c")
    driver.succeed("d")
    assert driver.run.status is RunStatus.SUCCESSFUL


def test_after_a_restart_an_unneeded_volatile_task_does_not_run() -> None:
    driver = Driver(graph(call("a", options=NOT), call("b", "a", options=NOT), call("c", "b"), call("d", "c")))
    for task in "abc":
        driver.succeed(task)
    driver = driver.restarted()
    assert driver.dispatched == [("d", 1)]
    assert driver.run.graph.tasks["a"].status is TaskStatus.SUCCESSFUL
    driver.succeed("d")
    assert driver.run.status is RunStatus.SUCCESSFUL


def test_only_the_branch_that_needs_it_makes_it_run_again() -> None:
    driver = Driver(graph(call("a", options=NOT), call("b", "a"), call("c", "a"), call("d", "b", "c")))
    driver.succeed("a")
    driver.succeed("b")
    driver = driver.restarted()
    assert driver.dispatched == [("a", 2)]
    driver.succeed("a", attempt=2)
    assert driver.dispatched == [("a", 2), ("c", 1)], "b is done"


def test_a_task_that_has_returned_its_graph_needs_its_arguments_no_more() -> None:
    driver = Driver(graph(call("a", options=NOT), call("b", "a"), call("c", "b")))
    driver.succeed("a")
    driver.go_on("b", graph(call("inner")))
    driver = driver.restarted()
    assert driver.dispatched == [("inner", 1)]


def test_when_it_runs_again_for_one_it_does_not_start_another_that_returned_its_graph() -> None:
    driver = Driver(graph(call("a", options=NOT), call("b", "a"), call("c", "a"), call("d", "b", "c")))
    driver.succeed("a")
    driver.go_on("b", graph(call("inner")))
    driver = driver.restarted()
    assert sorted(driver.dispatched) == [("a", 2), ("inner", 1)]
    driver.succeed("a", attempt=2)
    assert sorted(driver.dispatched) == [("a", 2), ("c", 1), ("inner", 1)]
    driver.succeed("inner")
    driver.succeed("c")
    driver.succeed("d")
    assert driver.run.status is RunStatus.SUCCESSFUL


def test_the_value_of_the_run_is_recorded_whatever_its_options_say() -> None:
    driver = Driver(graph(call("a", options=NOT)))
    driver.go_on("a", graph(call("x", options=NOT), call("b", "x", options=NOT)))
    driver.succeed("x")
    driver.succeed("b")
    assert driver.records["b"].output == VALUE
    assert driver.kept == []
    assert driver.run.status is RunStatus.SUCCESSFUL


def test_unset_is_as_the_task_that_returned_the_graph() -> None:
    driver = Driver(graph(call("a", options=NOT), call("b", options=KEPT), call("c", "a", "b")))
    driver.go_on("a", graph(call("a1"), call("a2", options=KEPT), call("a3", "a1", "a2")))
    driver.go_on("b", graph(call("b1"), call("b2", "b1")))
    for task in ("a1", "a2", "a3", "b1", "b2"):
        driver.succeed(task)
    assert sorted(driver.kept) == ["a3"], "a1 was dropped with a3"
    assert {"a2", "b1", "b2"} <= set(driver.records)


def test_a_graph_whose_volatile_value_was_lost_makes_it_again() -> None:
    driver = Driver(graph(call("a", options=KEPT), call("c", "a"), call("d", "c")))
    driver.go_on("a", graph(call("x"), call("y", "x", options=NOT)))
    driver.succeed("x")
    driver.succeed("y")
    lost = driver.restarted()
    assert lost.dispatched == [("y", 1)]
    driver.succeed("c")
    used = driver.restarted()
    assert used.dispatched == [("d", 1)]
    used.succeed("d")
    assert used.run.status is RunStatus.SUCCESSFUL


def test_what_is_waited_for_is_recorded() -> None:
    wait = SpecNode("w", Wait((NodeRef("a"), NodeRef("b"))))
    driver = Driver(graph(call("a", options=NOT), call("b", options=NOT), wait, call("d", "w")))
    driver.go_on("a", graph(call("inner", options=NOT)))
    driver.succeed("inner")
    assert driver.records["inner"].output == VALUE
    assert driver.kept == []


def test_a_failure_that_was_caught_is_recorded() -> None:
    driver = Driver(graph(call("a", options=replace(CATCH, checkpoint=False)), call("b", "a")))
    driver.fail("a")
    assert driver.records["a"].failure is not None
    assert driver.restarted().dispatched == [("b", 1)]


def test_a_retry_that_succeeded_has_no_wake_time_on_record() -> None:
    options = TaskOptions(retry=RetryRule(max_attempts=2, jitter=0, application_errors=True), checkpoint=False)
    driver = Driver(graph(call("a", options=options), call("b", "a")))
    driver.apply(TaskFailed("a", 1, ERROR, at_ms=0))
    assert driver.records["a"].wake_ms == 1_000
    driver.apply(TimerFired("a", 1, at_ms=1_000))
    driver.apply(TaskSucceeded("a", 2, VALUE, at_ms=1_001))
    assert driver.records["a"].wake_ms is None
    assert driver.records["a"].status is TaskStatus.READY
    again = driver.restarted()
    assert again.dispatched == [("a", 3)], "fenced against the attempts of before"


def test_a_resumed_run_makes_again_what_it_needs_and_no_more() -> None:
    driver = Driver(graph(call("a", options=NOT), call("b", "a"), call("c", "b")))
    driver.succeed("a")
    driver.succeed("b")
    driver.fail("c")
    assert driver.status is RunStatus.FAILED
    again = driver.resumed(20)
    assert again.dispatched == [("c", 2)]


def test_a_volatile_run_is_recorded_with_the_next_record_and_not_before() -> None:
    driver = Driver(graph(call("a", options=NOT), call("b", "a", options=NOT), call("c", "b")))
    driver.apply(TaskSucceeded("a", 1, VALUE, at_ms=20, started_ms=10))
    driver.apply(TaskSucceeded("b", 1, VALUE, at_ms=40, started_ms=30))
    assert driver.records == {}
    driver.succeed("c")
    records = [driver.records[name] for name in "abc"]
    assert [record.seq for record in records] == [0, 1, 2]
    assert [record.output for record in records] == [None, None, VALUE]
    assert [(record.started_ms, record.ended_ms) for record in records[:2]] == [(10, 20), (30, 40)]


def test_an_ended_run_is_restored_unchanged() -> None:
    driver = Driver(graph(call("outer"), call("last", "outer")))
    driver.go_on("outer", graph(call("one", options=NOT), call("plus", "one")))
    driver.apply(TaskSucceeded("one", 1, VALUE, at_ms=20, started_ms=10))
    driver.succeed("plus")
    driver.succeed("last")
    assert driver.status is RunStatus.SUCCESSFUL
    again = driver.restarted()
    assert again.state() == driver.state()
    one = again.run.graph.tasks["one"]
    assert (one.status, one.attempt, one.started_ms, one.ended_ms) == (TaskStatus.SUCCESSFUL, 1, 10, 20)
    assert one.output_bytes == VALUE.size
    assert again.run.graph.tasks["outer"].source == "plus"


def test_in_a_failed_run_those_that_ran_have_ended_and_the_others_have_not() -> None:
    spec = graph(call("a", options=NOT), call("b", "a"), call("c", "b", options=NOT), call("d", "c"))
    driver = Driver(spec)
    driver.succeed("a")
    driver.fail("b")
    assert driver.restarted().state() == driver.state()
    resumed = driver.resumed(20)
    assert resumed.dispatched == [("a", 2)], "its value is lost"
    assert resumed.run.graph.tasks["a"].ended_ms is None


def test_a_canceled_run_keeps_that_it_ran() -> None:
    driver = Driver(graph(call("a", options=NOT), call("b", "a")))
    driver.succeed("a")
    event = CancelRequested("enough", 50)
    foretold = driver.run.cancellation(event)
    assert driver.apply(event) == foretold
    assert driver.restarted().run.graph.tasks["a"].status is TaskStatus.SUCCESSFUL


def test_a_run_of_an_older_version_has_no_record_of_it() -> None:
    driver = Driver(graph(call("outer")))
    driver.go_on("outer", graph(call("one", options=NOT), call("plus", "one")))
    driver.succeed("one")
    driver.succeed("plus")
    del driver.records["one"]
    assert driver.restarted().state() == driver.state()


def test_a_graph_ends_after_a_restart_though_its_volatile_task_is_not_needed() -> None:
    driver = Driver(graph(call("outer"), call("next", "outer"), call("last", "next")))
    driver.go_on("outer", graph(call("one", options=NOT), call("plus", "one")))
    driver.succeed("one")
    driver.succeed("plus")
    again = driver.restarted()
    assert again.dispatched == [("next", 1)]
    again.succeed("next")
    again.succeed("last")
    assert again.status is RunStatus.SUCCESSFUL


def test_many_are_worth_a_commit_of_their_own() -> None:
    names = [f"t{number}" for number in range(DEFERRED_MAX)]
    driver = Driver(graph(*(call(name, options=NOT) for name in names), call("sum", *names)))
    for name in names[:-1]:
        driver.succeed(name)
    assert driver.records == {}
    driver.succeed(names[-1])
    assert list(driver.records) == names


def test_a_task_of_a_returned_graph_may_run_where_its_owner_ran() -> None:
    beside = replace(ONCE, allow_inplace=True)
    driver = Driver(graph(call("a", options=beside)))
    commands = driver.go_on("a", graph(call("b", options=beside), call("c", "b")))
    dispatches = [command for command in commands if isinstance(command, StartAttempt)]
    assert [(command.task_id, command.beside) for command in dispatches] == [("b", "a")]
    assert dispatches[0].call.function is FUNCTION
    (last,) = [command for command in driver.succeed("b") if isinstance(command, StartAttempt)]
    assert last.beside == ""


def test_a_number_that_may_have_begun_unseen_is_not_given_again() -> None:
    driver = Driver(graph(call("a", options=NOT), call("b", "a")))
    driver.apply(AttemptLost("a", 1, "gone", 10, is_free=True))
    assert driver.dispatched == [("a", 1), ("a", 2)]
    assert driver.restarted().dispatched == [("a", 2)]
    driver.succeed("a", 2)
    assert driver.records["a"].attempt == 2
    assert driver.dispatched[-1] == ("b", 1)
    assert driver.restarted(before="told").dispatched == [("a", 3)]


def test_what_needed_a_value_that_is_gone_may_have_begun() -> None:
    """So all of them go on with their next numbers, however often the engine dies; others begin with 1."""
    nodes = call("a", options=NOT), call("b", "a", options=NOT), call("c", "b"), call("d", "c")
    driver = Driver(graph(*nodes))
    seen = [driver.dispatched]
    for _ in range(3):
        driver = driver.restarted(before="unknown")
        seen.append(driver.dispatched)
        for task in "ab":
            driver.succeed(*driver.dispatched[-1])
            assert driver.dispatched[-1][0] == chr(ord(task) + 1)
    numbers = [[number for life in seen for name, number in life if name == task] for task in "abc"]
    assert all(number > before for told in numbers for before, number in pairwise(told))
    driver.succeed(*driver.dispatched[-1])
    assert driver.dispatched[-1] == ("d", 1)


def test_a_value_that_was_forgotten_is_made_by_another_attempt() -> None:
    """No attempt was in flight, but this one had run."""
    driver = Driver(graph(call("a", options=NOT), call("b", "a", options=RETRY)))
    driver.succeed("a")
    driver.fail("b")
    driver = driver.restarted(at_ms=11, before="told")
    assert driver.dispatched == [("a", 2)]
    driver.succeed("a", 2)
    driver.apply(TimerFired("b", 1, 100_000))
    assert driver.dispatched == [("a", 2), ("b", 2)]


def test_what_a_volatile_owner_of_a_graph_gave_may_have_been_used() -> None:
    driver = Driver(graph(call("a", options=NOT), call("b", "a")))
    driver.go_on("a", graph(call("x", options=NOT)))
    driver.succeed("x")
    assert driver.dispatched[-1] == ("b", 1)
    driver = driver.restarted(before="unknown")
    assert driver.dispatched == [("x", 2)]
    driver.succeed("x", 2)
    assert driver.dispatched[-1] == ("b", 2)
