"""Tasks that use Ray themselves: tasks, actors, generators, data sets."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
import ray

import perdure
from services import Service

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

pytestmark = [pytest.mark.ray]


def square(value: int) -> int:
    return value * value


class Counter:
    def __init__(self) -> None:
        self.total = 0

    def add(self, value: int) -> int:
        self.total += value
        return self.total


def count(until: int) -> Iterator[int]:
    for value in range(until):  # noqa: UP028 - Ray asks generators for more than `yield from` gives
        yield value


@perdure.task(num_cpus=0.5)
def with_tasks(until: int) -> int:
    remote = ray.remote(num_cpus=0.5)(square)
    return sum(ray.get([remote.remote(value) for value in range(until)]))


@perdure.task(num_cpus=0.5)
def with_an_actor(until: int) -> int:
    counter: Any = ray.remote(num_cpus=0.5)(Counter).remote()
    totals: list[int] = ray.get([counter.add.remote(value) for value in range(until)])
    return totals[-1]


@perdure.task(num_cpus=0.5)
def with_a_generator(until: int) -> list[int]:
    """Values come one by one, from another process."""
    remote: Any = ray.remote(num_cpus=0.5)(count)
    return [ray.get(ref) for ref in remote.remote(until)]


@perdure.task(num_cpus=0.5)
def with_wait(until: int) -> int:
    remote = ray.remote(num_cpus=0.5)(square)
    waiting = [remote.remote(value) for value in range(until)]
    total = 0
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1)
        total += sum(ray.get(ready))
    return total


@perdure.task(num_cpus=0.5)
def together(*values: Any) -> tuple[Any, ...]:
    return values


async def test_tasks_use_rays_tasks_actors_and_generators(steady: Service) -> None:
    graph = together.bind(with_tasks.bind(5), with_an_actor.bind(5), with_a_generator.bind(5), with_wait.bind(5))
    async with perdure.Client(steady.address) as client:
        async with asyncio.timeout(120):
            assert await client.run(graph) == (30, 10, [0, 1, 2, 3, 4], 30)


@perdure.task(num_cpus=0.5)
def make_rows(count: int) -> Any:
    import ray.data

    return ray.data.range(count, override_num_blocks=2).map(lambda row: {"id": row["id"] * 2})


@perdure.task(num_cpus=0.5)
def keep_some(rows: Any) -> Any:
    return rows.filter(lambda row: row["id"] % 4 == 0).materialize()


@perdure.task(num_cpus=0.5)
def total(rows: Any) -> int:
    return int(rows.sum("id"))


async def test_a_data_set_passes_from_task_to_task(steady: Service) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    async with perdure.Client(steady.address) as client:
        async with asyncio.timeout(180):
            assert await client.run(total.bind(keep_some.bind(make_rows.bind(20)))) == sum(range(0, 40, 4))
