"""Graphs deeper and wider than what the predecessor could take (330 nodes), by the real engine in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import perdure
from perdure import testing

DEEP, WIDE = 10_000, 100_000


@perdure.task
def increment(value: int) -> int:
    return value + 1


@perdure.task
def count(*values: int) -> int:
    assert len(set(values)) == len(values)
    return len(values)


@perdure.task
def descend(levels: int) -> Any:
    """A loop: each level is the value of the one before."""
    return descend.bind(levels - 1) if levels else "bottom"


@perdure.task
def nest(levels: int) -> Any:
    """No loop: each level adds something to the one inside."""
    return increment.bind(nest.bind(levels - 1)) if levels else 0


def chain() -> Any:
    node = increment.bind(0)
    for _ in range(DEEP - 1):
        node = increment.bind(node)
    return node


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (chain, DEEP),
        (lambda: descend.bind(DEEP), "bottom"),
        (lambda: nest.bind(DEEP), DEEP),
        (lambda: count.bind(*[increment.bind(number) for number in range(WIDE)]), WIDE),
    ],
    ids=["chain", "loop", "nest", "fan-out"],
)
async def test_it_runs_and_a_restart_knows_its_value(make: Callable[[], Any], value: object) -> None:
    async with testing.engine(threads=2) as engine:
        handle = await engine.client.start(make())
        assert await handle.output() == value
        await engine.crash()
        assert await handle.output() == value
        assert (await handle.status()).status is perdure.RunStatus.SUCCESSFUL
