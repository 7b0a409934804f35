"""Rows of calls on real Ray: workers that wait lend their CPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

import perdure
from chains import check_a_long_row, check_a_row_whose_worker_is_killed
from services import Service

pytestmark = [pytest.mark.ray]

CPUS = 2
"""Of the session's cluster."""


@pytest.mark.parametrize("method", ["call", "call_blocking"])
async def test_more_actors_wait_for_each_other_than_the_cluster_has_cpus(
    steady: Service, method: str, tmp_path: Path
) -> None:
    async with perdure.Client(steady.address) as client:
        await check_a_long_row(client, tmp_path, method, 2 * CPUS + 1)


async def test_a_row_of_calls_outlives_the_worker_of_one_that_waits(steady: Service, tmp_path: Path) -> None:
    async with perdure.Client(steady.address) as client:
        await check_a_row_whose_worker_is_killed(client, tmp_path, CPUS + 2)
