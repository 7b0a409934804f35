"""Whole worlds of several engines by seed. `make simulate` runs fresh ones; a seed that found a bug is kept below."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from simulation.fleet_world import run_fleet

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "60"))
FIRST = int(os.environ.get("SIMULATION_FIRST", "0"))
FOUND_BUGS = (24, 34, 114, 171, 191, 199, 227, 278, 357, 359, 469, 657, 906, 1073, 178513478675)
LIMITS = [(-1, -1), (1, -1), (2, 0), (1, 1), (2, 3)]


@pytest.mark.timeout(180 + SEEDS)
def test_every_world_keeps_its_promises_and_everything_happens_in_some() -> None:
    lives = 0
    statuses: Counter[str] = Counter()
    marks: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + SEEDS):
        seen = run_fleet(seed, limits=LIMITS[seed % len(LIMITS)])
        lives += seen.lives
        statuses += seen.statuses
        marks += seen.marks
    assert lives > 2 * SEEDS, "hardly an engine ever died"
    assert {"SUCCESSFUL", "FAILED", "CANCELED"} <= set(statuses)
    happened = {"kill", "left", "pause", "fenced", "cut off", "outage", "taken over"}
    assert happened | {"asked again", "cancel", "resume", "delete", "full", "waited"} <= set(marks)


def test_a_seed_replays_exactly() -> None:
    assert run_fleet(7) == run_fleet(7)


@pytest.mark.parametrize("seed", FOUND_BUGS)
def test_seeds_that_found_bugs(seed: int) -> None:
    """24, 171, 191: two runs were to start; the first found no slot, one became free, and the second took it.
    34, 114, 199, 227, 278: an engine that had stood still told what it remembered, or what others had seen
    the end of already. 357, 359, 469, 657, 906: it went on where it had stopped, with what others had done.
    1073: the answer to a deletion got lost, and its repetition found nothing to delete. 178513478675: a run fell
    asleep between the commit of an event and its delivery, and its engine died."""
    run_fleet(seed, limits=LIMITS[seed % len(LIMITS)])


@pytest.mark.parametrize("seed", [24, 34, 84])
def test_failed_runs_go_on_elsewhere_while_their_end_is_still_being_repeated(seed: int) -> None:
    """34: who had ended a run ended it again, for he had not heard that it was; it was at work elsewhere by then."""
    run_fleet(seed, shapes=["fails"] * 5, trouble=0.35, trouble_until_s=120.0)
