"""How a world is run: a broken promise ends it and names it, and what happened in it has a digest."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from simulation.clock import Trace, VirtualLoop, run_virtually
from simulation.surprises import noticed

HORIZON_S = 3_000.0
"""A time after every retry, sleep and time-out of a world; a task that still waits then is stuck."""


class Traced(Protocol):
    digest: str
    """Of everything that happened, step by step."""


T = TypeVar("T", bound=Traced)


def run_world(name: str, main: Callable[[VirtualLoop], Coroutine[Any, Any, T]], trace: Trace | None = None) -> T:
    """Run a world to its end. Whatever breaks in it is raised as an AssertionError that begins with its name."""
    trace = trace or Trace()

    try:
        seen = run_virtually(main, trace, within=noticed)
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error
    except TimeoutError as error:
        raise AssertionError(f"{name}: somebody still waits when everything should be over") from error
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
    seen.digest = trace.digest
    return seen
