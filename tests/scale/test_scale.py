"""Large runs over real gRPC, in an engine of its own: they end, and its memory does not follow them.

What an engine may keep of a run that is over is bounded: the recent values, the decoded graphs, the
pages of the database. So a first run of a size may take some memory, and further ones hardly any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

import perdure
from scale.graphs import chain, fan_out, nest
from services import Service, running

MIB = 1024 * 1024
NOISE_MIB = 8
"""What allocators do."""
FULL = (pytest.mark.slow, pytest.mark.timeout(900))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, "--executor", "local")
    with running(service):
        service.up()
        yield service


def memory_mib(service: Service) -> float:
    """The memory that the engine uses now."""
    return float(psutil.Process(service.pid).memory_info().rss) / MIB


@pytest.mark.parametrize(
    ("make", "size", "expected", "growth_mib"),
    [
        pytest.param(chain, 1_000, 1_000, 40, id="chain-1000"),
        pytest.param(fan_out, 1_000, 500_500, 40, id="fan-out-1000"),
        pytest.param(nest, 200, "bottom", 40, id="nest-200"),
        pytest.param(chain, 10_000, 10_000, 150, id="chain-10000", marks=FULL),
        pytest.param(fan_out, 10_000, 50_005_000, 150, id="fan-out-10000", marks=FULL),
        pytest.param(nest, 1_000, "bottom", 50, id="nest-1000", marks=FULL),
    ],
)
async def test_large_runs_end_and_do_not_stay_in_memory(
    service: Service, make: Callable[[int], Any], size: int, expected: object, growth_mib: float
) -> None:
    async with perdure.Client(service.address) as client:
        await client.run(make(2))  # what is loaded on the way is no growth
        levels = [memory_mib(service)]
        for _ in range(3):
            assert await client.run(make(size)) == expected
            levels.append(memory_mib(service))
        handle = await client.start(make(size))
        assert await handle.output() == expected
        assert (await handle.status()).status is perdure.RunStatus.SUCCESSFUL
    first, *_, last = (after - before for before, after in pairwise(levels))
    assert first < growth_mib, levels
    assert last < first / 2 + NOISE_MIB, levels
    assert levels[-1] - levels[0] < growth_mib * 1.5, levels


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_many_runs_do_not_stay_in_memory(service: Service) -> None:
    """Ten thousand small runs, in batches: the later ones cost nothing."""
    levels = []
    async with perdure.Client(service.address) as client:
        for _ in range(5):
            handles = [await client.start(chain(2)) for _ in range(2_000)]
            assert [await handle.output() for handle in handles] == [2] * len(handles)
            levels.append(memory_mib(service))
    assert levels[-1] - levels[-2] < NOISE_MIB, levels
    assert levels[-1] - levels[0] < 40, levels
