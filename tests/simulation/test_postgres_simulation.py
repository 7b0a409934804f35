"""Worlds of several engines over a real PostgreSQL."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from simulation.fleet_world import run_fleet
from simulation.many import LIMITS
from simulation.shrink import run_short

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "500")) // 100
FIRST = int(os.environ.get("SIMULATION_FIRST", "0"))


@pytest.mark.timeout(300 + 120 * SEEDS)
def test_postgresql_keeps_the_promises_and_answers_like_the_reference() -> None:
    marks: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + SEEDS):
        how = {"store": "postgres", "trouble": 0.1, "trouble_until_s": 60.0, "limits": LIMITS[seed % len(LIMITS)]}
        marks += run_short("fleet", seed, how).marks
    assert marks["asked again"]


@pytest.mark.timeout(300)
def test_a_world_over_postgresql_replays_exactly() -> None:
    """Though its commits have other numbers."""
    assert run_fleet(3, store="postgres", trouble=0.1) == run_fleet(3, store="postgres", trouble=0.1)


@pytest.mark.timeout(300)
def test_a_takeover_whose_answer_is_lost_twice_is_not_forgotten() -> None:
    """6: the question about the runs of a lost takeover was lost, too, and the next one found nothing."""
    run_fleet(6, store="postgres", limits=(2, 3), faults=8, trouble=0.1, trouble_until_s=60)
