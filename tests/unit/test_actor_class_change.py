"""The machine of an actor that is given another class."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perdure.engine.messages import ConsumeEvent, EventArrived
from perdure.model import ACTOR_CLASS, ActorSpec, Function, Payload, Resources, Shape
from unit.actor_driver import CLASS, ActorDriver

NEW = ActorSpec(Function("new@", "new"), replace(CLASS.options, shape=Shape(Resources(num_cpus=2))), 7, ("read",), 0)


def started(driver: ActorDriver) -> tuple[str, Shape]:
    """The class and the shape of the attempt that was started last."""
    return driver.started[-1].call.function.name, driver.started[-1].shape


def records(driver: ActorDriver) -> list[str]:
    return [task_id for task_id in driver.records if task_id.startswith(".class/")]


@pytest.mark.parametrize("restarts", [False, True])
def test_calls_after_the_change_have_the_new_class(restarts: bool) -> None:
    driver = ActorDriver().created()
    change = driver.sent_class("1", NEW)
    assert ConsumeEvent(change.sequence, ".call") in driver.apply(change)
    if restarts:
        driver = driver.restarted()
    driver.call("a")
    assert started(driver) == ("new", NEW.options.shape)
    assert driver.actor.spec == NEW
    driver.succeed("a", state="1")
    assert driver.result("a") == "done"


def test_a_call_under_way_ends_with_its_class_and_those_that_wait_begin_with_the_new_one() -> None:
    driver = ActorDriver().created()
    driver.call("a")
    driver.call("b")
    driver.apply(driver.sent_class("1", NEW))
    assert started(driver)[0] == CLASS.function.name
    driver.succeed("a", state="1")
    assert started(driver)[0] == "new"


def test_a_change_that_was_recorded_and_not_read_before_a_restart_is_made_after_it() -> None:
    driver = ActorDriver().created()
    driver.sent_class("1", NEW)
    driver.sent_call("a")
    driver = driver.restarted()
    assert started(driver)[0] == "new"


def test_the_last_of_several_changes_holds_and_no_other_is_kept() -> None:
    driver = ActorDriver().created()
    for number in range(3):
        driver.apply(driver.sent_class(f"{number}", replace(NEW, max_pending_calls=10 + number)))
    assert records(driver) == [".class/2"]
    assert driver.restarted().actor.spec.max_pending_calls == 12


def test_the_constructor_ends_with_its_class() -> None:
    driver = ActorDriver()
    driver.apply(driver.sent_class("1", NEW))
    driver.created()
    driver.call("a")
    assert started(driver)[0] == "new"


def test_a_class_with_another_ttl_begins_its_time() -> None:
    driver = ActorDriver(replace(CLASS, ttl_ms=1_000)).created()
    assert driver.actor.next_wake_ms == 1_010
    driver.apply(driver.sent_class("1", replace(CLASS, ttl_ms=5_000)))
    assert driver.actor.next_wake_ms == 5_005
    assert driver.restarted().actor.next_wake_ms == 5_005
    driver.apply(driver.sent_class("2", CLASS))
    assert driver.actor.next_wake_ms is None
    assert ".idle" not in driver.records
    driver.apply(driver.sent_class("3", replace(CLASS, ttl_ms=2_000)))
    assert driver.actor.next_wake_ms == 2_005


@pytest.mark.parametrize("data", [b"\xff", b"", b"\n\x01a"])
def test_a_malformed_change_is_taken_and_changes_nothing(data: bytes) -> None:
    driver = ActorDriver().created()
    event = driver.send(Payload(ACTOR_CLASS, data))
    assert isinstance(event, EventArrived)
    assert driver.apply(event) == [ConsumeEvent(event.sequence, ".call")]
    assert driver.actor.spec == CLASS
