"""Tasks for the tests, and what they do outside of workflows."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]

import perdure
from patience import PATIENCE_S

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests


@perdure.task
def double(number: int) -> int:
    return 2 * number


@perdure.task
def add(*numbers: int) -> int:
    return sum(numbers)


@perdure.task
def note(path: str, line: str, value: object = None) -> object:
    """Appends a line and gives the value."""
    with open(path, "a") as file:
        file.write(f"{line}\n")
    return value


@perdure.task
def fail_unless(path: str, after: object = None) -> str:
    """Fails while there is no such file."""
    with open(f"{path}.attempts", "a") as file:
        file.write("attempt\n")
    if not Path(path).exists():
        raise LookupError(f"there is no {Path(path).name}")
    return "found"


@perdure.task
def until_exists(path: str) -> str:
    """Runs until the file is there."""
    with open(f"{path}.started", "a") as file:
        file.write("started\n")
    while not Path(path).exists():
        time.sleep(0.01)
    return "seen"


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def eventually(path: Path) -> None:
    """Until there is such a file."""
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} does not appear"
        time.sleep(0.01)
