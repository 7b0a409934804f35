"""The machine of an actor with reminders, over restarts."""

from __future__ import annotations

from perdure import actorwire
from perdure.engine.messages import TimerFired
from perdure.model import MethodOutcome, ReminderSetting
from unit.actor_driver import ActorDriver, text


def setting(driver: ActorDriver, call_id: str, attempt: int = 1) -> None:
    """A call that sets the reminder "k"."""
    driver.call(call_id)
    what = ReminderSetting("k", after_ms=100, method="ring", call=text("its call"))
    outcome = MethodOutcome(text("set"), text(call_id), reminders=(what,))
    driver.give(call_id, actorwire.outcome_payload(outcome), attempt)


def ring(driver: ActorDriver) -> str:
    """The timer that was set last is due. Returns the call that has its turn."""
    timer = driver.timers.pop()
    driver.apply(TimerFired(timer.task_id, timer.attempt, timer.due_ms))
    (task_id,) = driver.running
    return task_id


def test_a_reminder_that_is_set_again_after_a_restart_rings_again() -> None:
    driver = ActorDriver().created()
    setting(driver, "a")
    first = ring(driver)
    driver.succeed(first, state="rang")
    driver = driver.restarted()
    setting(driver, "b")
    driver = driver.restarted()
    second = ring(driver)
    assert second != first
    driver.succeed(second, state="rang again")
    assert driver.state == ["rang again"]
    driver.call("c")
    assert driver.running == ["c"]


def test_a_reminder_whose_call_had_its_turn_before_a_crash_goes_on_with_it() -> None:
    driver = ActorDriver().created()
    setting(driver, "a")
    task_id = ring(driver)
    driver.call("b")
    driver = driver.restarted()
    assert driver.running == [task_id]
    driver.succeed(task_id, attempt=2, state="rang")
    assert driver.state == ["rang"]
    assert not [record for record in driver.records if record.startswith(".reminder")]
    assert driver.running == ["b"]


def test_a_reminder_whose_call_waited_at_a_crash_rings_after_it() -> None:
    driver = ActorDriver().created()
    setting(driver, "a")
    driver.call("b")
    timer = driver.timers.pop()
    driver.apply(TimerFired(timer.task_id, timer.attempt, timer.due_ms))
    assert driver.running == ["b"]
    driver = driver.restarted()
    driver.succeed("b", attempt=2, state="b")
    driver.succeed(ring(driver), state="rang")
    assert driver.state == ["rang"]
