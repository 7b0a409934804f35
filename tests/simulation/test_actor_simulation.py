"""Whole worlds with actors by seed, of one engine and of several."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from simulation.many import limited, run_many
from simulation.shrink import run_short
from simulation.world import run_seed

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "200"))
FIRST = int(os.environ.get("SIMULATION_FIRST", "0"))
HAPPENS = {
    "call",
    "called again",
    "result",
    "query",
    "drop",
    "dropped too late",
    "delete of an actor",
    "asked again",
    "another class",
}

IDLE_HAPPENS = {"actor deleted as idle", "made anew", "call of a short-lived actor", "asked again"}


def worlds(count: int, **how: Any) -> list[tuple[int, Any]]:
    """Worlds with one to three actors."""
    seeds = limited(range(FIRST, FIRST + count), **how)
    return [(seed, {**each, "actors": 1 + seed % 3}) for seed, each in seeds]


def marks_of(all_seen: Iterable[Any]) -> Counter[str]:
    return sum((seen.marks for seen in all_seen), Counter())


@pytest.mark.timeout(180 + 3 * SEEDS)
def test_each_call_takes_place_once_and_in_its_order_whatever_dies() -> None:
    seen = run_many("one", worlds(SEEDS, never=0.0, curious=True))
    assert sum(each.lives for each in seen) > SEEDS, "no engine ever died"
    assert set(marks_of(seen)) >= HAPPENS


@pytest.mark.timeout(180 + 3 * SEEDS)
def test_an_embedded_database_keeps_actors_as_the_reference_does() -> None:
    seen = run_many("one", worlds(SEEDS // 10, never=0.0, store="sqlite"))
    assert sum(each.lives for each in seen) > SEEDS // 10, "no engine ever died"


@pytest.mark.timeout(180 + 6 * SEEDS)
def test_whichever_engine_is_asked_each_call_takes_place_once_and_in_its_order() -> None:
    seen = run_many("fleet", worlds(SEEDS // 2, more=True, curious=True, attaching=True))
    assert sum(each.lives for each in seen) > SEEDS, "hardly an engine ever died"
    assert set(marks_of(seen)) >= HAPPENS | {"taken over", "fenced", "kill", "pause"}


@pytest.mark.timeout(300 + 30 * SEEDS)
def test_methods_take_turns_whatever_becomes_of_their_workers() -> None:
    seen = run_many("fleet", worlds(SEEDS // 20, more=True, curious=True, pool=True))
    assert {"call", "result", "worker", "cut"} <= set(marks_of(seen))


@pytest.mark.timeout(300 + 30 * SEEDS)
def test_postgresql_keeps_actors_as_the_reference_does() -> None:
    marks: Counter[str] = Counter()
    for seed, how in worlds(max(SEEDS // 50, 2), store="postgres", trouble=0.1, trouble_until_s=60.0):
        marks += run_short("fleet", seed, how).marks
    assert {"call", "result", "asked again"} <= set(marks)


@pytest.mark.timeout(180 + 3 * SEEDS)
def test_an_idle_actor_is_deleted_and_loses_no_call_whatever_dies() -> None:
    seen = run_many("one", worlds(SEEDS // 2, never=0.0, idle=2))
    assert sum(each.lives for each in seen) > SEEDS // 2, "no engine ever died"
    assert set(marks_of(seen)) >= IDLE_HAPPENS


@pytest.mark.timeout(180 + 6 * SEEDS)
def test_an_idle_actor_is_deleted_once_by_one_of_several_engines() -> None:
    seen = run_many("fleet", worlds(SEEDS // 4, more=True, idle=2))
    assert set(marks_of(seen)) >= IDLE_HAPPENS | {"taken over", "fenced"}


@pytest.mark.timeout(600)
def test_dying_at_every_call_of_the_store_while_an_idle_actor_is_deleted() -> None:
    calls = 0
    while True:
        calls += 1
        seen = run_seed(1_000, shapes=[], idle=1, trouble=0.0, crash_at=calls)
        if seen.lives == 1:
            break
    assert calls > 20, "the engine must have died at least once a step"


@pytest.mark.timeout(600)
def test_dying_at_every_call_of_the_store() -> None:
    calls = 0
    while True:
        calls += 1
        seen = run_seed(1_000, shapes=["one"], actors=1, trouble=0.0, crash_at=calls)
        if seen.lives == 1:
            break
    assert calls > 20, "the engine must have died at least once a step"
