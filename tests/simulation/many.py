"""Many worlds, side by side in as many processes as there are processors."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

from simulation.shrink import run_short

LIMITS = ((-1, -1), (1, -1), (2, 0), (1, 1), (2, 3))
"""How many runs may run, and how many wait, in one world after the other."""
CHUNK = 10


def run_many(kind: str, worlds: Iterable[tuple[int, Mapping[str, Any]]]) -> list[Any]:
    """What was seen in each world of a kind: a seed, and how it is run. The first that breaks a promise raises, and is
    made short before."""
    todo = list(worlds)
    count = min(os.cpu_count() or 1, len(todo))
    # Spawned and not forked: what is in this process, threads of gRPC above all, does not survive a fork.
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_be_quiet) as pool:
        return list(pool.map(partial(_run, kind), todo, chunksize=CHUNK))


def limited(seeds: Iterable[int], **how: Any) -> list[tuple[int, Mapping[str, Any]]]:
    """Each seed with limits that follow from it; every other one as if all runs were large."""
    return [(seed, {"limits": LIMITS[seed % len(LIMITS)], "large": seed % 2 == 1, **how}) for seed in seeds]


def _run(kind: str, world: tuple[int, Mapping[str, Any]]) -> Any:
    seed, how = world
    return run_short(kind, seed, how)


def _be_quiet() -> None:
    """Only the world listens to what is logged."""
    logging.getLogger().addHandler(logging.NullHandler())
