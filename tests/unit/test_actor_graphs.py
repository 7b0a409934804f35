"""The machine of an actor whose methods return graphs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perdure.engine.actor.mailbox import FORGOTTEN_AT_ONCE, KEPT_MAX
from perdure.engine.messages import CancelRequested, Source, TaskContinued
from perdure.model import (
    NULL,
    Call,
    InvalidSpec,
    NodeRef,
    Resources,
    RunStatus,
    Shape,
    Sleep,
    Spec,
    SpecNode,
    TaskStatus,
    Wait,
    WaitEvent,
)
from unit.actor_driver import CLASS, CREATED, RETRIED, ActorDriver, method, text
from unit.driver import CATCH, FUNCTION, ONCE, call, graph

VOLATILE = replace(ONCE, checkpoint=False)


def called() -> ActorDriver:
    """An actor with a call that runs and one that waits."""
    driver = ActorDriver().created()
    driver.call("a")
    driver.call("b")
    return driver


def test_the_value_of_a_returned_graph_is_the_result_and_later_calls_wait_for_it() -> None:
    driver = called()
    driver.go_on("a", graph(call("x"), call("y", "x")), state="1")
    assert driver.state == ["1"]
    assert driver.running == ["a/x"]
    assert driver.result("a") == ""
    driver.give("a/x", text("one"))
    driver.give("a/y", text("two"))
    assert driver.result("a") == "two"
    assert driver.consumed == {1: "a"}
    assert driver.running == ["b"]
    task = driver.actor.find_task("a")
    assert task is not None
    assert task.source == "a/y"
    assert driver.actor.find_task("a/y") is None


def test_a_graph_that_was_returned_survives_a_restart() -> None:
    driver = called()
    driver.go_on("a", graph(call("x"), call("y", "x")), state="1")
    driver.give("a/x", text("one"))
    driver = driver.restarted()
    assert [(start.task_id, start.attempt) for start in driver.started] == [("a/y", 2)]
    driver.give("a/y", text("two"), attempt=2)
    assert driver.result("a") == "two"
    driver = driver.restarted()
    assert driver.result("a") == "two"
    assert driver.running == ["b"]


def test_attempts_of_a_call_and_of_its_graph_know_who_waits_for_them() -> None:
    driver = ActorDriver().created()
    driver.call_by("a", ("n/w", "n/b"))
    driver.call("b")
    driver.go_on("a", graph(call("x"), method("m", "add", "x")), state="1")
    driver.go_on_plainly("a/x", graph(call("inner")))
    driver = driver.restarted(before="nothing")
    driver.give("a/inner", NULL)
    driver.succeed("a/m")
    assert {(start.task_id, start.callers) for start in driver.started} == {
        ("a/inner", ("n/w", "n/b")),
        ("a/m", ("n/w", "n/b")),
        ("b", ()),
    }


def test_a_returned_graph_that_fails_fails_its_call_and_leaves_no_records() -> None:
    driver = called()
    driver.go_on("a", graph(call("x"), call("y"), call("z", "x", "y")), state="1")
    driver.give("a/x", text("one"))
    driver.begin("a/y")
    driver.fail("a/y")
    assert driver.result("a") == "builtins.ValueError"
    assert driver.state == ["1"]
    assert not [task_id for task_id in driver.records if "/" in task_id]
    assert driver.running == ["b"]
    assert driver.restarted().running == ["b"]


def test_a_call_is_dropped_with_the_graph_that_it_returned() -> None:
    driver = called()
    sleep = SpecNode("s", Sleep(delay_ms=1_000))
    driver.go_on("a", graph(call("x"), call("y", "x"), method("m"), method("n"), sleep, call("z", "y", "m", "n", "s")))
    driver.give("a/x", text("one"))
    driver.drop("a")
    assert driver.result("a") == "perdure.CallDropped"
    assert sorted(driver.cancelled) == [("a/m", 1), ("a/y", 1)]
    assert not [task_id for task_id in driver.records if "/" in task_id]
    assert driver.running == ["b"]
    assert driver.pass_time() == []


def test_methods_in_a_returned_graph_take_turns_and_see_each_others_state() -> None:
    driver = called()
    driver.go_on("a", graph(method("m"), method("n"), call("f"), method("o", "add", "m", "n", "f")), state="1")
    assert sorted(driver.running) == ["a/f", "a/m"]
    driver.succeed("a/m", state="2", output="m")
    assert sorted(driver.running) == ["a/f", "a/n"]
    assert driver.started[-1].inputs == (Source(".state@3"),)
    driver.give("a/f", text("f"))
    driver.succeed("a/n", state="3", output="n")
    (start,) = [start for start in driver.started if start.task_id == "a/o"]
    assert start.inputs == (Source("a/m"), Source("a/n"), Source("a/f"), Source(".state@4"))
    assert driver.output("a/n") == "n"
    driver.succeed("a/o", state="4", output="o")
    assert (driver.result("a"), driver.state) == ("o", ["4"])


def test_methods_in_a_returned_graph_run_where_the_actor_does() -> None:
    gpu, other = (Shape(Resources(num_gpus=count)) for count in (1, 2))
    driver = ActorDriver(replace(CLASS, options=replace(CLASS.options, shape=gpu))).created()
    driver.call("a")
    driver.go_on("a", graph(method("m"), method("n", options=replace(ONCE, shape=other)), call("f")))
    driver.succeed("a/m", output="m")
    assert {start.task_id: start.shape for start in driver.started} == {
        ".create": gpu,
        "a": gpu,
        "a/m": gpu,
        "a/n": other,
        "a/f": Shape(),
    }


def test_a_method_that_waits_for_its_turn_is_not_begun_when_its_graph_fails() -> None:
    driver = called()
    driver.go_on("a", graph(method("m"), method("n"), call("z", "m", "n")))
    driver.fail("a/m")
    assert driver.cancelled == []
    assert driver.running == ["b"]
    assert [start.task_id for start in driver.started] == [".create", "a", "a/m", "b"]


def test_a_method_that_backs_off_lets_another_one_have_its_turn() -> None:
    driver = called()
    driver.go_on("a", graph(method("m", options=RETRIED.options), method("n"), call("z", "m", "n")))
    driver.begin("a/m")
    driver.fail("a/m")
    assert driver.running == ["a/n"]
    driver.pass_time()
    assert driver.running == ["a/n"]
    driver.succeed("a/n", state="1")
    assert driver.running == ["a/m"]
    assert driver.started[-1].attempt == 2


def test_a_caught_failure_of_a_method_leaves_the_state() -> None:
    driver = called()
    driver.go_on("a", graph(method("m", options=CATCH), method("n", "add", "m")), state="1")
    driver.fail("a/m")
    assert driver.state == ["1"]
    driver.succeed("a/n", state="2", output="n")
    assert (driver.result("a"), driver.state) == ("n", ["2"])


def test_a_method_is_recorded_whatever_its_checkpoint_option_says() -> None:
    driver = called()
    inner = graph(method("m", options=VOLATILE), call("z", "m"))
    driver.go_on("a", graph(call("x", options=VOLATILE), call("y", "x")))
    driver.go_on_plainly("a/x", inner)
    driver.succeed("a/m", state="1")
    assert driver.output("a/m") == "done"
    driver = driver.restarted()
    assert driver.running == ["a/z"]


def test_a_method_of_a_graph_may_return_a_graph() -> None:
    driver = called()
    driver.go_on("a", graph(method("m"), method("n", "add", "m")), state="1")
    driver.go_on("a/m", graph(method("p")), state="2")
    assert driver.running == ["a/p"]
    driver = driver.restarted()
    driver.succeed("a/p", attempt=2, state="3")
    assert driver.running == ["a/n"]
    driver.succeed("a/n", state="4", output="n")
    assert (driver.result("a"), driver.state) == ("n", ["4"])


def test_tasks_of_two_calls_have_different_ids() -> None:
    driver = called()
    driver.go_on("a", graph(call("x")))
    driver.give("a/x", text("one"))
    driver.go_on("b", graph(call("x")))
    driver.give("b/x", text("two"))
    assert (driver.result("a"), driver.result("b")) == ("one", "two")


# ------------------------------------------------------------------------------ time and events


def test_an_actor_sleeps_while_its_graph_waits_for_time() -> None:
    driver = called()
    driver.go_on("a", graph(SpecNode("s", Sleep(delay_ms=1_000)), call("x", "s")))
    assert driver.actor.is_dormant
    assert driver.actor.next_wake_ms == 1_010
    driver = driver.restarted(before="nothing", at_ms=500)
    assert driver.actor.next_wake_ms == 1_010
    driver.pass_time()
    assert driver.running == ["a/x"]


def test_a_graph_takes_events_that_came_before_it_and_after() -> None:
    driver = called()
    driver.apply(driver.send(text("early"), "key"))
    driver.apply(driver.send(text("other"), "other key"))
    driver.go_on("a", graph(SpecNode("e", WaitEvent("key")), SpecNode("f", WaitEvent("key")), call("x", "e", "f")))
    assert driver.consumed == {3: "a/e"}
    driver = driver.restarted(before="nothing")
    driver.apply(driver.send(text("late"), "key"))
    assert driver.consumed == {3: "a/e", 5: "a/f"}
    assert (driver.output("a/e"), driver.output("a/f")) == ("early", "late")
    driver.give("a/x", text("one"))
    assert driver.restored().last_event == 5
    driver.succeed("b", state="1")
    driver.call("c")
    driver.go_on("c", graph(SpecNode("g", WaitEvent("other key"))))
    assert driver.result("c") == "other"
    assert driver.consumed[4] == "c/g"


def test_an_event_that_nobody_took_is_there_after_a_restart() -> None:
    driver = called()
    driver.apply(driver.send(text("early"), "key"))
    driver = driver.restarted()
    driver.go_on("a", graph(SpecNode("e", WaitEvent("key"))), attempt=2)
    assert driver.result("a") == "early"


def test_a_method_that_is_optional_ends_with_its_call() -> None:
    driver = called()
    wait = SpecNode("w", Wait((NodeRef("m"), NodeRef("f"))))
    driver.go_on("a", Spec((method("m"), call("f"), wait), "w"), state="1")
    driver.give("a/f", text("f"))
    assert driver.cancelled == [("a/m", 1)]
    assert driver.succeed("a/m", state="late") == []
    assert driver.running == ["b"]
    assert driver.state == ["1"]


# ------------------------------------------------------------------------------ values in memory, and their end


def test_values_that_are_not_recorded_are_dropped_with_their_call() -> None:
    driver = called()
    inner = graph(call("p", options=VOLATILE))
    driver.go_on("a", graph(call("x", options=VOLATILE), call("y"), call("z", "x", "y")))
    driver.go_on_plainly("a/x", inner)
    driver.give("a/p", text("p"))
    assert driver.kept == {"a/p"}
    assert driver.actor.keeps_values
    driver.fail("a/y")
    assert driver.kept == set()
    assert not driver.actor.keeps_values


def test_a_result_is_known_after_a_restart_though_not_all_of_its_graph_was_recorded() -> None:
    driver = called()
    driver.go_on("a", graph(call("x", options=VOLATILE), call("y", "x", options=VOLATILE)))
    driver.give("a/x", text("one"))
    driver.give("a/y", text("two"))
    assert driver.result("a") == "two"
    driver = driver.restarted()
    assert driver.result("a") == "two"
    assert driver.running == ["b"]


def test_tasks_of_forgotten_calls_are_forgotten() -> None:
    driver = ActorDriver().created()
    driver.check = lambda: None  # type: ignore[method-assign]  # quadratic
    for number in range(KEPT_MAX + FORGOTTEN_AT_ONCE):
        driver.call(str(number))
        driver.go_on(str(number), graph(call("x")))
        driver.give(f"{number}/x", text("one"))
    assert len([task_id for task_id in driver.records if "/" in task_id]) == KEPT_MAX
    ActorDriver.check(driver)


def test_cancelling_an_actor_ends_the_graph_of_its_call() -> None:
    driver = called()
    driver.go_on("a", graph(call("x"), method("m"), method("n"), SpecNode("s", Sleep(delay_ms=9)), call("z", "x")))
    driver.begin("a/x")
    event = CancelRequested("", 50)
    announced = driver.actor.cancellation(event)
    driver.check()
    assert driver.apply(event) == announced
    assert driver.cancelled == [("a/x", 1), ("a/m", 1)]
    assert driver.actor.counts[TaskStatus.CANCELED] == 4
    driver = driver.resumed()
    assert sorted(driver.running) == ["a/m", "a/x"]
    assert driver.actor.status is RunStatus.RUNNING


# ------------------------------------------------------------------------------ graphs that may not be returned


def test_a_graph_comes_with_a_state_if_a_method_returned_it_and_only_then() -> None:
    driver = called()
    with pytest.raises(InvalidSpec, match="comes with a state"):
        driver.actor.check_returned([], "a", is_method=False)
    driver.go_on("a", graph(call("x"), call("y")))
    with pytest.raises(InvalidSpec, match="comes with a state"):
        driver.actor.check_returned([], "a/x", is_method=True)
    with pytest.raises(InvalidSpec, match="not there"):
        driver.actor.check_returned([("node", "unknown")], "a/x", is_method=False)
    driver.actor.check_returned([("node", "a/y")], "a/x", is_method=False)
    driver.actor.check_returned([], "late", is_method=False)


def test_a_constructor_returns_no_graph() -> None:
    driver = ActorDriver()
    with pytest.raises(InvalidSpec, match="constructor"):
        driver.actor.check_returned([], ".create", is_method=True)


def test_reach_is_the_size_of_a_returned_graph() -> None:
    driver = called()
    spec = graph(call("x"), call("y"))
    assert driver.actor.reach(TaskContinued("a", 1, spec, "key", 1)) == 2
    driver.go_on("a", spec)
    assert driver.actor.reach(CancelRequested("", 1)) == 2


def test_arguments_of_a_method_in_a_graph_are_its_own() -> None:
    driver = called()
    node = method("m", "other")
    driver.go_on("a", graph(node), state="1")
    assert isinstance(node.action, Call)
    assert driver.started[-1].call == node.action
    assert driver.started[-1].call.function == FUNCTION
    driver.give("a/m", NULL)
    assert driver.result("a") == "perdure.InvalidCall"
    assert driver.state == ["1"]
    assert driver.state != [CREATED]
