"""Worlds of several engines whose attempts are run by the real lease pool, over a network that fails."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from simulation.fleet_world import run_fleet
from simulation.many import limited, run_many

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "500")) // 25
FIRST = int(os.environ.get("SIMULATION_FIRST", "0"))


@pytest.mark.timeout(300 + 30 * SEEDS)
def test_every_attempt_is_reported_once_whatever_becomes_of_leases_agents_and_streams() -> None:
    marks: Counter[str] = Counter()
    for seen in run_many("fleet", limited(range(FIRST, FIRST + SEEDS), more=True, curious=True, pool=True)):
        marks += seen.marks
    assert {"worker", "cut", "agent", "ray", "stand still", "both still", "kill", "pause"} <= set(marks)


@pytest.mark.timeout(300)
def test_a_world_with_a_pool_replays_exactly() -> None:
    assert run_fleet(7, pool=True) == run_fleet(7, pool=True)


@pytest.mark.timeout(300)
def test_shapes_that_all_wait_for_one_cpu_are_served_in_turn() -> None:
    """10: each new lease was told to run an attempt, to give it back and to end, all in one message."""
    run_fleet(10, limits=(-1, -1), more=True, curious=True, pool=True)
