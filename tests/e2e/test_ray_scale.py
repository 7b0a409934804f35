"""Large runs on a real Ray."""

from __future__ import annotations

import cloudpickle  # type: ignore[import-untyped]
import psutil
import pytest

import perdure
from scale import graphs
from services import Process, Service

cloudpickle.register_pickle_by_value(graphs)  # workers cannot import tests

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

GROWTH_MIB = 150


async def test_chains_fan_outs_and_nests_on_ray(service: Service, agent: Process) -> None:
    engine = psutil.Process(service.pid)
    async with perdure.Client(service.address) as client:
        assert await client.run(graphs.chain(2)) == 2
        before = engine.memory_info().rss
        assert await client.run(graphs.chain(10_000)) == 10_000
        assert await client.run(graphs.fan_out(10_000)) == 50_005_000
        assert await client.run(graphs.nest(1_000)) == "bottom"
    assert engine.memory_info().rss - before < GROWTH_MIB * 1024 * 1024
