"""How many attempts of a task are told to have begun, when it began, and what it waits for."""

from __future__ import annotations

from perdure.engine.messages import AttemptLost, AttemptStarted, CancelRequested, TaskFailed
from perdure.model import RunStatus, Sleep, SpecNode, TaskStatus, WaitEvent
from perdure.service.runs.views import view_task, waits_for
from unit.driver import ERROR, Driver, call, graph


def told(driver: Driver, task_id: str) -> tuple[str, int, int | None]:
    view = view_task(driver.run.graph.tasks[task_id])
    return str(view.status), view.attempts, view.started_ms


def test_an_attempt_counts_once_it_has_begun() -> None:
    driver = Driver(graph(call("a"), call("b", "a")))
    assert told(driver, "a") == ("READY", 0, None)
    assert told(driver, "b") == ("BLOCKED", 0, None)
    driver.apply(AttemptStarted("a", 1, 5, 5))
    assert told(driver, "a") == ("RUNNING", 1, 5)
    assert told(driver.restarted(before="unknown"), "a") == ("READY", 1, None), "the first may have begun"


def test_an_attempt_that_may_have_begun_unseen_counts() -> None:
    driver = Driver(graph(call("a")))
    driver.apply(AttemptLost("a", 1, "gone", 10, is_free=True))
    assert told(driver, "a") == ("READY", 1, None)
    driver.apply(CancelRequested("enough", 17))
    assert told(driver, "a") == ("CANCELED", 1, None)


def test_what_was_canceled_before_it_began_had_no_attempt() -> None:
    driver = Driver(graph(call("a")))
    driver.apply(CancelRequested("enough", 7))
    assert told(driver, "a") == ("CANCELED", 0, None)


def test_a_resumed_task_begins_anew() -> None:
    """The duration of the attempt does not include the time that the run was failed."""
    driver = Driver(graph(call("a")))
    driver.apply(AttemptStarted("a", 1, 5, 5))
    driver.apply(TaskFailed("a", 1, ERROR, 10, 5, 10))
    assert driver.run.status is RunStatus.FAILED
    assert told(driver, "a") == ("FAILED", 1, 5)
    driver = driver.resumed(50_000)
    assert told(driver, "a") == ("READY", 1, None)
    driver.apply(AttemptStarted("a", 2, 50_003, 50_003))
    assert told(driver, "a") == ("RUNNING", 2, 50_003)
    driver.succeed("a", 2)
    assert told(driver, "a")[:2] == ("SUCCESSFUL", 2)


def test_a_wait_says_what_for() -> None:
    nodes = (
        SpecNode("e", WaitEvent("go")),
        SpecNode("late", WaitEvent("go", timeout_ms=60_000)),
        SpecNode("s", Sleep(delay_ms=1_500)),
        SpecNode("never", Sleep(until_ms=10**17)),
    )
    driver = Driver(graph(*nodes, call("a", "e", "late", "s", "never")))
    found = {task.id: waits_for(task) for task in driver.run.graph if task.status is TaskStatus.RUNNING}
    assert {name: waiting.text for name, waiting in found.items() if waiting is not None} == {
        "e": "waits for the event 'go'",
        "late": "waits for the event 'go' until 1970-01-01T00:01:00Z",
        "s": "sleeps until 1970-01-01T00:00:01Z",
        "never": "sleeps until 100000000000000000 ms",
    }
