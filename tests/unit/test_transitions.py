"""The table of a task's states: every transition in it happens, and no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perdure.engine.graph_run.transitions import TRANSITIONS
from perdure.engine.messages import AttemptLost, AttemptStarted, CancelRequested, EventArrived, TimerFired
from perdure.model import NULL, RetryRule, Sleep, SpecNode, TaskOptions, TaskStatus, WaitEvent
from transitions import Transition, each_transition, refuse_unknown
from unit.driver import CATCH, ONCE, Driver, call, graph

RETRY = TaskOptions(retry=RetryRule(max_attempts=3, initial_interval_ms=100, jitter=0, application_errors=True))
VOLATILE = replace(ONCE, checkpoint=False)


def begin(driver: Driver, task_id: str, attempt: int = 1) -> None:
    driver.apply(AttemptStarted(task_id, attempt, at_ms=5))


def cancel(driver: Driver) -> None:
    driver.apply(CancelRequested("enough", at_ms=50))


def attempts() -> None:
    driver = Driver(graph(call("a", options=RETRY), call("b", "a")))
    driver.apply(AttemptLost("a", 1, "its worker died", at_ms=10))
    driver.apply(TimerFired("a", 1, at_ms=1_000))
    begin(driver, "a", 2)
    driver.fail("a", 2)
    driver.apply(TimerFired("a", 2, at_ms=2_000))
    driver.succeed("a", 3)
    begin(driver, "b")
    driver.fail("b")


def failures() -> None:
    driver = Driver(graph(call("caught", options=CATCH), call("b", "caught")))
    driver.fail("caught")
    driver.apply(AttemptLost("b", 1, "its worker died", at_ms=10))  # before it began
    driver.resumed(1_000)


def cancellations() -> None:
    for has_begun in (False, True):
        driver = Driver(graph(call("a"), call("b", "a")))
        if has_begun:
            begin(driver, "a")
        cancel(driver)
        driver.resumed(1_000)
    driver = Driver(graph(call("a", options=RETRY)))
    driver.fail("a")
    cancel(driver)


def waits() -> None:
    event = SpecNode("event", WaitEvent("go"))
    driver = Driver(graph(call("a"), replace(event, after=("a",)), SpecNode("sleep", Sleep(100), after=("event",))))
    driver.apply(EventArrived(1, "go", NULL, at_ms=5))
    driver.succeed("a")  # the event is there already
    driver.apply(TimerFired("sleep", 1, at_ms=1_000))


def lost_values() -> None:
    driver = Driver(graph(call("a", options=VOLATILE), call("b", "a"), call("c", "b")))
    driver.succeed("a")
    driver.fail("b")
    driver.resumed(1_000)


def test_every_transition_of_the_table_happens() -> None:
    seen: set[Transition] = set()
    with each_transition(seen.add):
        for scenario in (attempts, failures, cancellations, waits, lost_values):
            scenario()
    assert seen == set(TRANSITIONS)


def test_an_unknown_transition_is_refused() -> None:
    with pytest.raises(AssertionError, match="SUCCESSFUL -> RUNNING"):
        refuse_unknown((TaskStatus.SUCCESSFUL, TaskStatus.RUNNING))
