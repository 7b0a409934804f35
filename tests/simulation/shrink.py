"""Makes a world that fails shorter: parts of it are left out, by halves and then one by one, while it fails in the
same way. What is left is what the failure needs, and is printed with the command that runs it again.
"""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from simulation.fleet_world import run_fleet
from simulation.parts import Parts
from simulation.world import run_seed

WORLDS: Mapping[str, Callable[..., Any]] = {"one": run_seed, "fleet": run_fleet}
"""The kinds of worlds: of one engine, and of several."""
TRIES_MAX = 150
"""Worlds that are run to make one shorter."""
CPU_MAX_S = 120.0
"""The same in seconds: a world with a task that waits for ever takes many of them."""


@dataclass
class Short:
    """A world that failed. `left`: the parts that it still has, each with what it is."""

    kind: str
    seed: int
    how: Mapping[str, Any]
    error: AssertionError
    left: dict[str, str]
    count: int
    """The parts that it had."""

    def __str__(self) -> str:
        lines = [str(self.error), f"with {len(self.left)} of its {self.count} parts:"]
        lines += [f"  {name}{f': {what}' if what else ''}" for name, what in self.left.items()]
        return "\n".join([*lines, f"again: {self.command}"])

    @property
    def command(self) -> str:
        only = ", ".join(self.left)
        how = json.dumps(self.how)
        return f"python tools/simulate.py 1 {self.seed} --world {self.kind} --how '{how}' --only '{only}'"


def run_short(kind: str, seed: int, how: Mapping[str, Any]) -> Any:
    """Run a world; if it fails, raise a short one that fails in the same way."""
    parts = Parts()
    try:
        return WORLDS[kind](seed, parts=parts, **how)
    except AssertionError as error:
        raise AssertionError(str(shorten(kind, seed, how, error, parts))) from error


def shorten(kind: str, seed: int, how: Mapping[str, Any], error: AssertionError, parts: Parts) -> Short:
    """Leave out what the failure does not need. `parts`: those of the world that failed with this error."""
    short = Short(kind, seed, how, error, parts.seen, len(parts.seen))
    tries, until_s = 0, time.process_time() + CPU_MAX_S
    size = len(short.left)
    while size > 1:
        size = (size + 1) // 2
        place = 0
        while place < len(short.left):
            if tries == TRIES_MAX or time.process_time() > until_s:
                return short
            names = list(short.left)
            tries += 1
            found = _try(short, names[:place] + names[place + size :])
            if found is None:
                place += size
                continue
            short.error, short.left = found
            if size == 1:
                place = 0  # what seemed to be needed may have been so for the sake of this one
    return short


def _try(short: Short, only: Collection[str]) -> tuple[AssertionError, dict[str, str]] | None:
    """A failure of the same kind with these parts only, and those of them that came up; None if there is none."""
    parts = Parts(only)
    try:
        WORLDS[short.kind](short.seed, parts=parts, **short.how)
    except AssertionError as error:
        return (error, parts.seen) if _kind_of(error) == _kind_of(short.error) else None
    return None


def _kind_of(error: AssertionError) -> tuple[object, ...]:
    """Where it was found, and as what; names and numbers are others in another world."""
    cause = error.__cause__ or error
    where = traceback.extract_tb(cause.__traceback__)[-1]
    words = re.findall(r"\b[a-z]{3,}\b", str(error)) if where.name == "select" else ()
    return type(cause), where.filename, where.lineno, tuple(words)
