"""How long the machine of an actor keeps the results of calls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perdure import actorwire
from perdure.engine.actor import mailbox
from unit.actor_driver import CLASS, ActorDriver

DAY_MS = 24 * 3600 * 1000
SHORT = replace(CLASS, call_retention_ms=16_000)


def kept(driver: ActorDriver) -> list[str]:
    calls = [call.id for call in driver.actor.calls()]
    assert {*calls} == {task_id for task_id in driver.records if not task_id.startswith(".")}
    assert len(driver.events) >= len(calls)
    return calls


def call(driver: ActorDriver, call_id: str, at_ms: int) -> None:
    driver.call(call_id)
    begun = driver.started[-1].attempt
    driver.succeed(call_id, attempt=begun, at_ms=at_ms)
    assert driver.records[call_id].ended_ms == at_ms


@pytest.mark.parametrize("restarts", [False, True])
def test_results_that_are_too_old_are_forgotten_when_another_call_ends(restarts: bool) -> None:
    driver = ActorDriver(SHORT).created()
    for place in range(3):
        call(driver, f"c{place}", 1_000 * place + 1)
    if restarts:
        driver = driver.restarted()
    call(driver, "later", 16_900)
    assert kept(driver) == ["c0", "c1", "c2", "later"], "a few are not worth it"
    call(driver, "last", 17_100)
    assert kept(driver) == ["c2", "later", "last"]
    assert driver.result("c2") == "done"


def test_a_forgotten_call_is_a_new_one() -> None:
    driver = ActorDriver(SHORT).created()
    call(driver, "c", 1)
    call(driver, "d", 40_000)
    assert kept(driver) == ["d"]
    call(driver, "c", 40_001)
    assert kept(driver) == ["d", "c"]


def test_results_are_kept_for_a_week_if_the_class_says_nothing() -> None:
    driver = ActorDriver().created()
    call(driver, "c", 1)
    call(driver, "d", 7 * DAY_MS)
    assert kept(driver) == ["c", "d"]
    call(driver, "e", 8 * DAY_MS)
    assert kept(driver) == ["d", "e"]


def test_too_many_results_are_forgotten_before_they_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "KEPT_MAX", 5)
    monkeypatch.setattr(mailbox, "FORGOTTEN_AT_ONCE", 2)
    driver = ActorDriver(SHORT).created()
    for place in range(8):
        call(driver, f"c{place}", place)
    assert kept(driver) == [f"c{place}" for place in range(2, 8)]


def test_the_class_keeps_its_times_on_the_wire() -> None:
    for spec in (SHORT, replace(CLASS, ttl_ms=1_500), CLASS):
        read = actorwire.decode_class(actorwire.encode_class(spec))
        assert (read.ttl_ms, read.call_retention_ms) == (spec.ttl_ms, spec.call_retention_ms)
    message = actorwire.class_to_proto(CLASS)
    message.call_retention.SetInParent()
    with pytest.raises(ValueError, match="1 second or more"):
        actorwire.class_from_proto(message)
