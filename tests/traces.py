"""Work that leaves traces outside of everything that Perdure stores: which attempt of what began, where and when.

Its functions travel with their code, since workers cannot import tests.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

import perdure
from patience import PATIENCE_S

cloudpickle.register_pickle_by_value(sys.modules[__name__])

HARNESS_S = PATIENCE_S
RETRY = perdure.RetryPolicy(initial_interval=0.1)


@dataclass(frozen=True)
class Trace:
    """An attempt began: of which step, in which process, when."""

    name: str
    pid: int
    at_s: float


class Traces:
    """The file that steps append to, outside of everything that Perdure stores."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Trace]:
        if not self.path.exists():
            return []
        words = [line.split() for line in self.path.read_text().splitlines()]
        return [Trace(name, int(pid), float(at)) for name, pid, at in words]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(HARNESS_S):
            while len(self.read()) < count:
                await asyncio.sleep(0.01)


def leave(path: str, name: str) -> None:
    """One write of few bytes in append mode is whole."""
    with open(path, "a") as file:
        file.write(f"{name} {os.getpid()} {time.time()}\n")


@perdure.task(max_retries=3, retry_policy=RETRY)
def step(path: str, name: str, before: Any = (), takes_s: float = 0.05) -> tuple[tuple[str, int], ...]:
    """Returns the name and process id of each step, which show whose output was recorded."""
    leave(path, name)
    time.sleep(takes_s)
    return (*before, (name, os.getpid()))


@perdure.task(max_retries=3, retry_policy=RETRY)
def gather(*parts: Any) -> Any:
    return sorted(item for part in parts for item in part)


def chain(path: Path, name: str, length: int) -> Any:
    value: Any = ()
    for index in range(length):
        value = step.bind(str(path), f"{name}.{index}", value)
    return value


def fan(path: Path, name: str, width: int, takes_s: float) -> Any:
    return gather.bind(*(step.bind(str(path), f"{name}.{index}", (), takes_s) for index in range(width)))


@perdure.task(num_cpus=1)
def meet(folder: str, name: str, other: str) -> str:
    """Ends only if both run at the same time."""
    (Path(folder) / name).touch()
    while not (Path(folder) / other).exists():
        time.sleep(0.005)
    return name
