"""The workflows of the chaos: one of each sort, each with the value it must have, and what its tasks leave behind.

Each attempt appends one line to a file of its worker process, outside of everything that Perdure stores,
before it does anything else. The functions travel with their code, since workers cannot import tests.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cloudpickle  # type: ignore[import-untyped]

import perdure

cloudpickle.register_pickle_by_value(sys.modules[__name__])

RETRY: Final = perdure.RetryPolicy(initial_interval=0.1, max_interval=1.0)
LARGE_BYTES: Final = 300_000
KEY: Final = "go"
SHARE: Final = 0.5
"""CPUs of a task, so that several tasks share a node."""


@dataclass(frozen=True)
class Began:
    """An attempt began."""

    run_id: str
    task_id: str
    attempt: int
    at_ms: int


@dataclass(frozen=True)
class Case:
    """A workflow to run: its sort, its graph, the value it must have, and how many events it needs. `volatile` are
    ids of tasks whose outputs are not kept."""

    sort: str
    graph: Any
    value: Any
    events: int = 0
    volatile: frozenset[str] = frozenset()


def read_traces(folder: Path) -> list[Began]:
    found = []
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            run_id, task_id, attempt, at = line.split()
            found.append(Began(run_id, task_id, int(attempt), int(at)))
    return found


def trace(folder: str) -> None:
    about = perdure.context()
    line = f"{about.run_id} {about.task_id} {about.attempt} {time.time_ns() // 1_000_000}\n"
    file = os.open(f"{folder}/{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


# ------------------------------------------------------------------------------ what tasks do


@perdure.task(num_cpus=SHARE, max_retries=-1, retry_policy=RETRY)
def add(folder: str, takes_s: float, *numbers: int) -> int:
    trace(folder)
    time.sleep(takes_s)
    return sum(numbers) + 1


@perdure.task(num_cpus=SHARE, max_retries=-1, retry_policy=RETRY)
async def add_async(folder: str, takes_s: float, *numbers: int) -> int:
    trace(folder)
    await asyncio.sleep(takes_s)
    return sum(numbers) + 1


@perdure.task(num_cpus=SHARE, max_retries=-1, retry_policy=RETRY)
def unfold(folder: str, depth: int) -> Any:
    trace(folder)
    return add.bind(folder, 0.01, unfold.bind(folder, depth - 1)) if depth else 0


@perdure.task(num_cpus=SHARE, max_retries=-1, retry_exceptions=True, retry_policy=RETRY)
def flaky(folder: str, failures: int, before: int) -> int:
    trace(folder)
    if perdure.context().attempt <= failures:
        raise ConnectionError("as ordered")
    return before + 1


@perdure.task(num_cpus=SHARE, max_retries=-1, retry_exceptions=False, retry_policy=RETRY, catch_exceptions=True)
def fail(folder: str, before: int) -> int:
    trace(folder)
    raise ValueError(f"after {before}")


@perdure.task(num_cpus=SHARE, max_retries=-1, retry_policy=RETRY)
def tell(folder: str, outcome: Any) -> str:
    trace(folder)
    value, error = outcome
    return f"{value} {error!r}"


@perdure.task(num_cpus=SHARE, max_retries=-1, retry_policy=RETRY)
def large(folder: str, seed: int, before: bytes = b"") -> bytes:
    trace(folder)
    return grown(seed, before)


@perdure.task(num_cpus=SHARE, max_retries=-1, retry_policy=RETRY)
def digest(folder: str, data: bytes) -> str:
    trace(folder)
    return hashlib.sha256(data).hexdigest()


@perdure.task(num_cpus=SHARE, max_retries=-1, retry_policy=RETRY)
def gather(folder: str, *payloads: str) -> list[str]:
    trace(folder)
    return sorted(payloads)


def grown(seed: int, before: bytes) -> bytes:
    return random.Random(f"{seed} {hashlib.sha256(before).hexdigest()}").randbytes(LARGE_BYTES)


# ------------------------------------------------------------------------------ workflows


def _chain(folder: str, dice: random.Random) -> Case:
    length = dice.randint(3, 15)
    step = dice.choice((add, add_async))
    value: Any = 0
    for _ in range(length):
        value = step.bind(folder, dice.choice((0.0, 0.02, 0.1)), value)
    return Case("chain", value, length)


def _fan(folder: str, dice: random.Random) -> Case:
    width = dice.randint(3, 20)
    step = dice.choice((add, add_async))
    return Case("fan-out", add.bind(folder, 0.0, *(step.bind(folder, 0.02, 0) for _ in range(width))), width + 1)


def _continuation(folder: str, dice: random.Random) -> Case:
    depth = dice.randint(1, 5)
    return Case("continuation", unfold.bind(folder, depth), depth)


def _events(folder: str, dice: random.Random) -> Case:
    count = dice.randint(1, 4)
    waits = [perdure.event(KEY) for _ in range(count)]
    return Case("events", gather.bind(folder, *waits), [f"e{index}" for index in range(count)], count)


def _nap(folder: str, dice: random.Random) -> Case:
    nap = perdure.sleep(dice.choice((0.5, 2.0, 6.0)), after=add.bind(folder, 0.0, 0))
    return Case("sleep", add.bind(folder, 0.0, add.bind(folder, 0.0, 1), _zero_after(folder, nap)), 3)


def _zero_after(folder: str, nap: Any) -> Any:
    return nothing.bind(folder, nap)


@perdure.task(num_cpus=SHARE, max_retries=-1, retry_policy=RETRY)
def nothing(folder: str, before: Any) -> int:
    trace(folder)
    return 0


def _retries(folder: str, dice: random.Random) -> Case:
    return Case("retries", flaky.bind(folder, dice.randint(1, 3), flaky.bind(folder, 1, 0)), 2)


def _caught(folder: str, dice: random.Random) -> Case:
    return Case("caught", tell.bind(folder, fail.bind(folder, add.bind(folder, 0.02, 0))), "None ValueError('after 1')")


def _volatile(folder: str, dice: random.Random) -> Case:
    length = dice.randint(3, 8)
    value: Any = 0
    volatile = set()
    for index in range(length):
        is_kept = index % 2 == 0
        task_id = f"v{index}"
        value = add.options(checkpoint=is_kept, task_id=task_id).bind(folder, 0.02, value)
        if not is_kept:
            volatile.add(task_id)
    return Case("volatile", value, length, volatile=frozenset(volatile))


def _large(folder: str, dice: random.Random) -> Case:
    value: Any = None
    expected = b""
    for _ in range(dice.randint(1, 3)):
        seed = dice.randrange(1 << 30)
        value = large.bind(folder, seed) if value is None else large.bind(folder, seed, value)
        expected = grown(seed, expected)
    return Case("large values", digest.bind(folder, value), hashlib.sha256(expected).hexdigest())


SORTS: Final[tuple[Callable[[str, random.Random], Case], ...]] = (
    _chain,
    _fan,
    _continuation,
    _events,
    _nap,
    _retries,
    _caught,
    _volatile,
    _large,
)


def any_case(folder: Path, dice: random.Random) -> Case:
    return dice.choice(SORTS)(str(folder), dice)
