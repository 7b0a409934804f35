"""Whole worlds of several engines by seed. `make simulate` runs fresh ones; a seed that found a bug is kept below."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

import pytest

from simulation.fleet_world import FleetSeen, run_fleet
from simulation.many import LIMITS, limited, run_many
from simulation.shrink import run_short

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "200"))
FIRST = int(os.environ.get("SIMULATION_FIRST", "0"))
FOUND_BUGS = (24, 34, 114, 171, 191, 199, 227, 278, 357, 359, 469, 657, 906, 1073, 178513478675)


def marks_of(all_seen: Iterable[FleetSeen]) -> Counter[str]:
    return sum((seen.marks for seen in all_seen), Counter())


@pytest.mark.timeout(180 + 6 * SEEDS)
def test_every_world_keeps_its_promises_and_everything_happens_in_some() -> None:
    all_seen = run_many("fleet", limited(range(FIRST, FIRST + SEEDS), more=True, curious=True, attaching=True))
    assert sum(seen.lives for seen in all_seen) > 2 * SEEDS, "hardly an engine ever died"
    assert {"SUCCESSFUL", "FAILED", "CANCELED"} <= {status for seen in all_seen for status in seen.statuses}
    happened = {"kill", "left", "pause", "fenced", "cut off", "outage", "taken over"}
    happened |= {"asked again", "cancel", "resume", "delete", "full", "waited"}
    assert {"watched", "watched to the end", "attached", "attached again"} <= set(marks_of(all_seen))
    assert happened | {"batch", "run and wait", "expired", "id used again"} <= set(marks_of(all_seen))


KILLS = 1_000


@pytest.mark.timeout(3_600)
def test_a_thousand_times_one_of_two_engines_is_killed_and_the_other_one_goes_on_in_time() -> None:
    """Within the lease and two seconds. Some are killed before the other one is there to see it."""
    shapes = ["sleeps", "waits", "chain", "fan", "hangs", "grows", "races"]
    how = {"engines": 2, "fates": ("kill",), "faults": 1, "trouble": 0.0, "shapes": shapes}
    marks = marks_of(run_many("fleet", [(seed, how) for seed in range(KILLS * 3 // 2)]))
    assert marks["taken over"] >= KILLS
    assert marks["runs taken over"] >= KILLS / 2
    assert not marks["fenced"], "nobody else was declared dead"


CALLS = 240


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("crash_after", [False, True], ids=["before", "after"])
def test_dying_at_every_call_of_the_store(crash_after: bool) -> None:
    """Die at the first call, then at the second, ...; before it takes effect, or when it has."""
    shapes = ["grows", "waits", "fails", "sleeps", "forgets"]
    how = {"engines": 2, "shapes": shapes, "faults": 0, "trouble": 0.0, "crash_after": crash_after}
    numbers = range(1, CALLS + 1)
    all_seen = run_many("fleet", [(1_000, {"limits": (3, -1), "crash_at": number, **how}) for number in numbers])
    assert [seen.marks["died at a call"] for seen in all_seen] == [1] * CALLS


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
    """34: an engine that had not heard that its end of a run was stored ended it again; another engine ran it by
    then."""
    run_fleet(seed, shapes=["fails"] * 5, trouble=0.35, trouble_until_s=120.0)


@pytest.mark.parametrize("seed", [0, 2, 3, 5, 17, 27])
def test_what_one_engine_told_no_other_one_takes_back(seed: int) -> None:
    """0, 3: a watch ended with its run, before it told of what became of the last tasks elsewhere. 2: what was read of
    a run before it ended was told after its end. 5: a run was taken over before subscribers heard the last changes of
    its engine. 17: the commit that made a run was repeated, and its owner named the second one as its etag. 27:
    without room a watch began with what was stored, and never heard of what had happened before it came."""
    run_fleet(seed, limits=LIMITS[seed % len(LIMITS)], more=True, curious=True)


@pytest.mark.parametrize("seed", [17, 246])
def test_late_publications_of_a_follower_take_nothing_back(seed: int) -> None:
    """17: a watch that began during a look of the follower heard of the end of a run, and not of its tasks. 246: a
    call that waited was answered with an end that was published after the run had been resumed."""
    ((_, how),) = limited([seed], more=True, curious=True)
    run_short("fleet", seed, how)
