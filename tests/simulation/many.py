"""Many worlds, side by side in as many processes as there are processors."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

LIMITS = ((-1, -1), (1, -1), (2, 0), (1, 1), (2, 3))
"""How many runs may run, and how many wait, in one world after the other."""
CHUNK = 10


def run_many(run: Callable[..., T], worlds: Iterable[tuple[int, Mapping[str, Any]]]) -> list[T]:
    """What was seen in each world: a seed, and how it is run. The first that breaks a promise raises."""
    todo = list(worlds)
    count = min(os.cpu_count() or 1, len(todo))
    # Spawned and not forked: what is in this process, threads of gRPC above all, does not survive a fork.
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_be_quiet) as pool:
        return list(pool.map(_Runner(run), todo, chunksize=CHUNK))


def limited(seeds: Iterable[int], **how: Any) -> list[tuple[int, Mapping[str, Any]]]:
    """Each seed with limits that follow from it."""
    return [(seed, {"limits": LIMITS[seed % len(LIMITS)], **how}) for seed in seeds]


class _Runner:
    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    def __call__(self, world: tuple[int, Mapping[str, Any]]) -> Any:
        seed, how = world
        return self._run(seed, **how)


def _be_quiet() -> None:
    """Only the world listens to what is logged."""
    logging.getLogger().addHandler(logging.NullHandler())
