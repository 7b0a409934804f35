"""Graphs of a size. Importable by the engine's threads, which are in another process."""

from __future__ import annotations

from typing import Any

import perdure


@perdure.task
def successor(value: int) -> int:
    return value + 1


@perdure.task
def total(values: list[int]) -> int:
    return sum(values)


@perdure.task
def descend(depth: int) -> Any:
    """`depth` continuations, each inside the one before."""
    return descend.bind(depth - 1) if depth else "bottom"


def chain(length: int) -> Any:
    node = successor.bind(0)
    for _ in range(length - 1):
        node = successor.bind(node)
    return node


def fan_out(width: int) -> Any:
    return total.bind([successor.bind(index) for index in range(width)])


def nest(depth: int) -> Any:
    return descend.bind(depth)
