"""Actors whose methods wait for calls of other actors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import perdure
from chains import check_a_long_row, check_a_row_whose_worker_is_killed
from perdure.service.executors.local import THREADS
from perdure.service.executors.pool.provisioning import FREE_SHAPE_LEASES_MAX
from services import Service, running


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """An engine that runs user code in processes."""
    service = Service(tmp_path, "--executor", "local")
    with running(service):
        service.up()
        yield service


@pytest.mark.parametrize("method", ["call", "call_blocking"])
async def test_more_actors_wait_for_each_other_than_the_engine_has_threads(
    client: perdure.Client, method: str, tmp_path: Path
) -> None:
    await check_a_long_row(client, tmp_path, method, 2 * THREADS + 1)


@pytest.mark.parametrize("method", ["call", "call_blocking"])
async def test_more_actors_wait_for_each_other_than_there_are_processes(
    service: Service, method: str, tmp_path: Path
) -> None:
    async with perdure.Client(service.address) as client:
        await check_a_long_row(client, tmp_path, method, 2 * FREE_SHAPE_LEASES_MAX + 1)


async def test_a_row_of_calls_outlives_the_process_of_one_that_waits(service: Service, tmp_path: Path) -> None:
    async with perdure.Client(service.address) as client:
        await check_a_row_whose_worker_is_killed(client, tmp_path, FREE_SHAPE_LEASES_MAX + 2)
