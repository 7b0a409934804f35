"""The machine of an actor that is deleted when nobody calls it for a while."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perdure import actorwire
from perdure.engine.actor.idle import IDLE
from perdure.engine.messages import Command, DeleteUnused, SetTimer, TimerFired
from perdure.model import ActorSpec, MethodOutcome, ReminderSetting
from perdure.storage.rows import IDLE_TASK
from unit.actor_driver import CLASS, ActorDriver, text

TTL_MS = 1_000
SHORT_LIVED = replace(CLASS, ttl_ms=TTL_MS)


def idle_timer(driver: ActorDriver) -> SetTimer:
    return [timer for timer in driver.timers if timer.task_id == IDLE][-1]


def time_is_up(driver: ActorDriver) -> list[Command]:
    """The timer that was set last is due."""
    timer = idle_timer(driver)
    return driver.apply(TimerFired(timer.task_id, timer.attempt, timer.due_ms))


def deleted(commands: list[Command]) -> bool:
    return any(isinstance(command, DeleteUnused) for command in commands)


def test_the_machine_and_the_stores_mean_the_same_timer() -> None:
    assert IDLE == IDLE_TASK


def test_an_actor_without_a_ttl_has_no_timer() -> None:
    driver = ActorDriver().created()
    assert driver.timers == []
    assert driver.actor.next_wake_ms is None


def test_an_actor_that_is_never_called_is_deleted_after_its_constructor() -> None:
    driver = ActorDriver(SHORT_LIVED)
    assert driver.timers == []
    driver.created()
    assert idle_timer(driver).due_ms == 10 + TTL_MS
    assert time_is_up(driver) == [DeleteUnused(IDLE, idle_timer(driver).attempt, 0)]


@pytest.mark.parametrize("restarts", [False, True])
def test_the_last_call_postpones_the_end(restarts: bool) -> None:
    driver = ActorDriver(SHORT_LIVED).created()
    driver.call("a")
    driver.succeed("a", state="1", at_ms=700)
    assert len([timer for timer in driver.timers if timer.task_id == IDLE]) == 1, "a call sets no timer"
    if restarts:
        driver = driver.restarted()
    assert not deleted(time_is_up(driver))
    assert idle_timer(driver).due_ms == 700 + TTL_MS
    if restarts:
        driver = driver.restarted()
    assert time_is_up(driver) == [DeleteUnused(IDLE, idle_timer(driver).attempt, 1)]


def test_a_call_that_fails_postpones_the_end() -> None:
    driver = ActorDriver(SHORT_LIVED).created()
    driver.call("a")
    driver.fail("a", at_ms=900)
    assert not deleted(time_is_up(driver))
    assert idle_timer(driver).due_ms == 900 + TTL_MS


@pytest.mark.parametrize("restarts", [False, True])
def test_an_actor_whose_call_runs_is_not_idle(restarts: bool) -> None:
    driver = ActorDriver(SHORT_LIVED).created()
    driver.call("a")
    driver.call("b")
    for _ in range(3):
        assert not deleted(time_is_up(driver))
    if restarts:
        driver = driver.restarted()
    driver.succeed("a", attempt=1 + restarts, at_ms=20_000)
    driver.succeed("b", at_ms=20_000)
    assert not deleted(time_is_up(driver))
    assert idle_timer(driver).due_ms == 20_000 + TTL_MS
    assert deleted(time_is_up(driver))


def test_an_actor_with_a_reminder_is_not_idle() -> None:
    driver = ActorDriver(SHORT_LIVED).created()
    driver.call("a")
    what = ReminderSetting("k", at_ms=50_000, method="ring", call=text("its call"))
    driver.give("a", actorwire.outcome_payload(MethodOutcome(text("set"), text("1"), reminders=(what,))))
    assert not deleted(time_is_up(driver))
    assert idle_timer(driver).due_ms == 50_000 + TTL_MS, "it cannot be idle before"
    (reminder,) = [timer for timer in driver.timers if timer.task_id != IDLE]
    driver.apply(TimerFired(reminder.task_id, reminder.attempt, 50_000))
    (ring,) = driver.running
    driver.succeed(ring, state="rang", at_ms=50_100)
    assert not deleted(time_is_up(driver))
    assert idle_timer(driver).due_ms == 50_100 + TTL_MS
    assert deleted(time_is_up(driver))


def test_early_and_outdated_timers_change_nothing() -> None:
    driver = ActorDriver(SHORT_LIVED).created()
    first = idle_timer(driver)
    assert driver.apply(TimerFired(IDLE, first.attempt, first.due_ms - 1)) == []
    driver.call("a")
    driver.succeed("a", at_ms=700)
    time_is_up(driver)
    assert driver.apply(TimerFired(IDLE, first.attempt, 1_000_000)) == []


def test_a_deletion_that_did_not_happen_is_wanted_again() -> None:
    driver = ActorDriver(SHORT_LIVED).created()
    assert deleted(time_is_up(driver))
    assert deleted(time_is_up(driver))
    driver.call("a")
    assert not deleted(time_is_up(driver)), "it was called meanwhile"


def test_a_restart_sets_the_timer() -> None:
    driver = ActorDriver(SHORT_LIVED).created().restarted()
    assert idle_timer(driver).due_ms == 10 + TTL_MS
    assert driver.actor.next_wake_ms == 10 + TTL_MS


@pytest.mark.parametrize("ttl_ms", [-1, 1, 999, 315_576_000_000_001])
def test_a_ttl_is_one_second_or_more(ttl_ms: int) -> None:
    with pytest.raises(ValueError, match="1 second or more"):
        ActorSpec(CLASS.function, ttl_ms=ttl_ms)
