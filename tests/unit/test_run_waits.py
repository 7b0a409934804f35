"""The machine of one run: waiting for some of several tasks, and tasks of the run as needs of later graphs."""

from __future__ import annotations

import pytest

from perdure.engine.graph_run.run import Run
from perdure.engine.messages import Source, TaskContinued, TimerFired
from perdure.model import (
    NULL,
    WAITED,
    Call,
    InvalidSpec,
    NodeRef,
    Payload,
    RunStatus,
    Spec,
    SpecNode,
    TaskRef,
    TaskStatus,
    Wait,
    Waited,
    WaitEvent,
)
from unit.driver import CATCH, ERROR, FUNCTION, ONCE, Driver, call, graph


def wait(node_id: str, *needs: str | TaskRef, num_returns: int = 1, timeout_ms: int | None = None) -> SpecNode:
    refs = tuple(need if isinstance(need, TaskRef) else NodeRef(need) for need in needs)
    return SpecNode(node_id, Wait(refs, num_returns, timeout_ms))


def use(node_id: str, *tasks: str, node: str | None = None) -> SpecNode:
    refs = (*(TaskRef(task) for task in tasks), *((NodeRef(node),) if node else ()))
    return SpecNode(node_id, Call(FUNCTION, NULL, refs), options=ONCE)


def waited(driver: Driver, task_id: str) -> tuple[list[str], list[str]]:
    output = driver.records[task_id].output
    assert output is not None
    assert output.encoding == WAITED
    found = Waited.from_payload(output)
    return [task for task, _, _ in found.ready], list(found.remaining)


def test_a_wait_ends_with_as_many_as_it_asks_for_in_the_order_given() -> None:
    driver = Driver(graph(call("a"), call("b"), call("c"), wait("w", "a", "b", "c", num_returns=2), call("d", "w")))
    driver.succeed("c")
    assert "w" not in driver.records
    driver.succeed("a")
    assert waited(driver, "w") == (["a", "c"], ["b"])
    assert driver.dispatched[-1] == ("d", 1)
    assert driver.inputs["d"] == (Source(task_id="w"),)


def test_the_run_ends_without_unneeded_tasks_and_stops_them() -> None:
    driver = Driver(graph(call("a"), call("b"), wait("w", "a", "b"), call("d", "w")))
    driver.succeed("a")
    driver.succeed("d")
    assert driver.run.status is RunStatus.SUCCESSFUL
    assert driver.cancelled == [("b", 1)]


def test_what_is_waited_for_and_needed_otherwise_too_is_waited_for_by_the_run() -> None:
    driver = Driver(graph(call("a"), call("b"), wait("w", "a", "b"), call("d", "w", "b")))
    driver.succeed("a")
    assert ("d", 1) not in driver.dispatched
    driver.succeed("b")
    driver.succeed("d")
    assert driver.run.status is RunStatus.SUCCESSFUL


def test_a_time_out_gives_what_there_is() -> None:
    driver = Driver(graph(call("a"), call("b"), wait("w", "a", "b", num_returns=2, timeout_ms=50)))
    assert [(timer.task_id, timer.due_ms) for timer in driver.timers] == [("w", 50)]
    driver.succeed("b")
    driver.apply(TimerFired("w", 1, at_ms=49))
    assert "w" in driver.records
    assert driver.records["w"].output is None
    driver.apply(TimerFired("w", 1, at_ms=50))
    assert waited(driver, "w") == (["b"], ["a"])
    assert driver.run.status is RunStatus.SUCCESSFUL


def test_a_time_out_counts_from_the_start_and_survives_a_restart() -> None:
    driver = Driver(graph(call("a"), wait("w", "a", timeout_ms=50))).restarted(at_ms=40)
    assert [(timer.task_id, timer.due_ms) for timer in driver.timers] == [("w", 50)]
    driver.apply(TimerFired("w", 1, at_ms=60))
    assert waited(driver, "w") == ([], ["a"])


def test_the_outcome_of_a_wait_does_not_change_after_a_restart() -> None:
    driver = Driver(graph(call("a"), call("b"), wait("w", "a", "b"), call("d", "w")))
    driver.succeed("b")
    before = driver.records["w"]
    driver = driver.restarted()
    assert sorted(driver.dispatched) == [("a", 1), ("d", 1)]
    driver.succeed("a")
    assert driver.records["w"] == before
    driver.succeed("d")
    assert driver.run.status is RunStatus.SUCCESSFUL


def test_a_wait_that_was_complete_but_not_recorded_ends_at_the_restart() -> None:
    driver = Driver(graph(call("a"), call("b"), wait("w", "a", "b"), call("d", "w")))
    driver.succeed("a")
    del driver.records["w"]
    driver = driver.restarted()
    assert waited(driver, "w") == (["a"], ["b"])


def test_the_remaining_are_nodes_of_later_graphs() -> None:
    """The loop that reports results as they come."""
    driver = Driver(graph(call("a"), call("b"), call("c"), wait("w", "a", "b", "c"), call("r", "w")))
    driver.succeed("b")
    driver.go_on("r", graph(wait("w", TaskRef("a"), TaskRef("c")), call("r", "w")))
    assert driver.run.status is RunStatus.RUNNING
    driver.succeed("c")
    assert waited(driver, "w_1") == (["c"], ["a"])
    driver = driver.restarted()
    driver.go_on("r_1", graph(wait("w", TaskRef("a")), call("r", "w")))
    driver.succeed("a")
    driver.succeed("r_2")
    assert driver.run.status is RunStatus.SUCCESSFUL


def test_a_later_graph_may_need_the_value_of_an_earlier_task() -> None:
    driver = Driver(graph(call("a"), call("b"), wait("w", "a", "b"), call("r", "w")))
    driver.succeed("a")
    driver.go_on("r", graph(use("sum", "a", "b")))
    assert ("sum", 1) not in driver.dispatched
    driver.succeed("b")
    assert driver.inputs["sum"] == (Source(task_id="a"), Source(task_id="b"))
    driver.succeed("sum")
    assert driver.run.status is RunStatus.SUCCESSFUL


def test_a_wait_for_what_is_there_already_ends_at_once() -> None:
    driver = Driver(graph(call("a"), call("b"), wait("w", "a", "b", num_returns=2), call("r", "w")))
    driver.succeed("a")
    driver.succeed("b")
    driver.go_on("r", graph(wait("v", TaskRef("b"), TaskRef("a"), num_returns=1), use("u", node="v")))
    assert waited(driver, "v") == (["b"], ["a"])


def test_a_value_that_came_by_a_continuation_or_as_a_pair_is_named_by_its_source() -> None:
    driver = Driver(graph(call("a"), call("b", options=CATCH), wait("w", "a", "b", num_returns=2), call("d", "w")))
    driver.go_on("a", graph(call("inner")))
    driver.succeed("inner")
    driver.succeed("b")
    output = driver.records["w"].output
    assert output is not None
    assert Waited.from_payload(output).ready == (("a", "inner", 0), ("b", "b", 1))


def test_waits_for_events_and_waits() -> None:
    event = SpecNode("e", WaitEvent("k"))
    driver = Driver(graph(call("a"), event, wait("w", "a", "e"), wait("v", "w", "e"), call("d", "v")))
    driver.succeed("a")
    assert waited(driver, "w") == (["a"], ["e"])
    assert waited(driver, "v") == (["w"], ["e"])
    driver.succeed("d")
    assert driver.run.status is RunStatus.SUCCESSFUL


def test_an_uncaught_failure_fails_the_run_waited_for_or_not() -> None:
    driver = Driver(graph(call("a"), call("b"), wait("w", "a", "b"), call("d", "w")))
    driver.succeed("a")
    driver.fail("b")
    assert driver.run.status is RunStatus.FAILED
    assert driver.cancelled == [("d", 1)]


def test_a_late_failure_inside_an_ended_graph_is_ignored() -> None:
    driver = Driver(graph(call("f", options=CATCH), call("d", "f")))
    driver.go_on("f", graph(call("a"), call("b"), wait("w", "a", "b")))
    driver.succeed("a")
    assert driver.dispatched[-1] == ("d", 1)
    driver.fail("b", failure=ERROR)
    assert driver.run.status is RunStatus.RUNNING
    driver.succeed("d")
    assert driver.run.status is RunStatus.SUCCESSFUL


def test_what_comes_too_late_starts_nothing_in_a_stopped_graph() -> None:
    driver = Driver(
        graph(call("a"), call("b"), wait("w", "a", "b"), call("r", "w", options=CATCH), call("d", "r", "b"))
    )
    driver.succeed("a")
    driver.go_on("r", graph(use("u", "b"), call("bad"), call("end", "u", "bad")))
    driver.fail("bad")
    driver.succeed("b")
    assert "u" not in dict(driver.dispatched)
    assert driver.dispatched[-1] == ("d", 1)


@pytest.mark.parametrize(("task", "says"), [("nobody", "not there"), ("r", "waits for it")])
def test_a_graph_may_not_name_unknown_tasks_or_its_dependents(task: str, says: str) -> None:
    driver = Driver(graph(call("a"), call("r", "a"), call("d", "r")))
    driver.succeed("a")
    spec = graph(use("u", task))
    tasks = driver.run.graph.tasks
    with pytest.raises(InvalidSpec, match=says):
        driver.run.graph.check(spec, tasks["r"])
    with pytest.raises(InvalidSpec, match=says):
        driver.apply(TaskContinued("r", 1, spec, "key", at_ms=1))
    assert list(tasks) == ["a", "r", "d"]
    assert "r" not in driver.records
    assert tasks["r"].status is not TaskStatus.SUCCESSFUL


def test_a_graph_of_its_own_names_no_tasks() -> None:
    with pytest.raises(InvalidSpec, match="not there"):
        Run(graph(use("u", "elsewhere")))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Wait(()),
        lambda: Wait((NodeRef("a"),), num_returns=2),
        lambda: Wait((NodeRef("a"),), num_returns=0),
        lambda: Wait((NodeRef("a"), NodeRef("a"))),
        lambda: SpecNode("w", Wait((NodeRef("a"),)), after=("a",)),
        lambda: Spec((wait("w", "w"),), "w"),
    ],
)
def test_waits_that_cannot_be(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=r"wait|num_returns|cycle"):
        make()


def test_twenty_thousand_are_waited_for_one_by_one_in_linear_time() -> None:
    count = 20_000
    names = [f"a{number}" for number in range(count)]
    driver = Driver(graph(*(call(name) for name in names), wait("w", *names, num_returns=count)))
    for name in names:
        driver.succeed(name)
    assert len(waited(driver, "w")[0]) == count


def test_a_payload_of_a_wait_round_trips() -> None:
    found = Waited((("a", "b", 1),), ("c",))
    payload = found.to_payload()
    assert isinstance(payload, Payload)
    assert Waited.from_payload(payload) == found
