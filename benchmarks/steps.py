"""The graphs that are measured. Their tasks do next to nothing, so what is left is Perdure's."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

import perdure

MIB = 1 << 20


@perdure.task
def step(before: int, lines: str = "") -> int:
    """One more than before. Appends a line to a file if one is named: executions are counted by that."""
    if lines:
        # One write with O_APPEND, so that lines of several processes do not mix.
        file = os.open(lines, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
        try:
            os.write(file, b"step\n")
        finally:
            os.close(file)
    return before + 1


@perdure.actor
class Counter:
    def __init__(self) -> None:
        self.count = 0

    @perdure.method
    def incr(self) -> int:
        self.count += 1
        return self.count

    @perdure.readonly
    def value(self) -> int:
        return self.count


@perdure.task
def leaf(number: int) -> int:
    return number


@perdure.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@perdure.task
def array(mib: int) -> Any:
    return np.arange(mib * MIB // 8, dtype=np.int64)


@perdure.task
def increased(values: Any) -> Any:
    return values + 1


@perdure.task
def last(values: Any) -> int:
    return int(values[-1])


def chain(length: int, lines: str = "") -> int:
    """So many steps in a row; its value is their number."""
    value = 0
    for _ in range(length):
        value = step.bind(value, lines)
    return value


def fan_out(width: int) -> int:
    """So many steps side by side, and their sum: width * (width - 1) / 2."""
    return total.bind([leaf.bind(number) for number in range(width)])


@perdure.task
def process() -> int:
    """The id of the process that runs it, after a pause in which others run elsewhere."""
    time.sleep(0.1)
    return os.getpid()


@perdure.task
def distinct(values: list[int]) -> int:
    return len(set(values))


def processes(width: int) -> int:
    """The number of processes that work on so many tasks side by side."""
    return distinct.bind([process.bind() for _ in range(width)])


def payload(mib: int) -> int:
    """An array of so many MiB through three steps; its value is the number of elements."""
    return last.bind(increased.bind(array.bind(mib)))
