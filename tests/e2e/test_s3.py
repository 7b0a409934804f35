"""A large array through leases on a real Ray, by way of S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import perdure
from s3 import S3Server
from services import Process, Service, running

pytestmark = [pytest.mark.ray, pytest.mark.slow]

COUNT = 8 * 1024 * 1024


@pytest.fixture
def service(tmp_path: Path, s3_server: S3Server) -> Iterator[Service]:
    url = s3_server.blobs_url(tmp_path / "cache")
    service = Service(tmp_path, "--executor", "agents", "--blobs", url)
    with running(service):
        service.up()
        yield service


@perdure.task
def count(number: int) -> Any:
    return numpy.arange(number, dtype=numpy.float64)


@perdure.task
def double(array: Any) -> Any:
    return array * 2


@perdure.task
def add_up(array: Any) -> tuple[float, int]:
    return float(array.sum()), array.nbytes


async def test_64_mib_through_three_tasks(service: Service, agent: Process, tmp_path: Path) -> None:
    async with perdure.Client(service.address) as client:
        total, size = await client.run(add_up.bind(double.bind(count.bind(COUNT))), workflow_id="w")
        assert (total, size) == (float(COUNT) * (COUNT - 1), 64 * 1024 * 1024)
        kept = [path for path in (tmp_path / "cache").glob("??/*") if path.stat().st_size >= size]
        assert len(kept) == 2  # both arrays, as files that were mapped
        assert not (tmp_path / "storage" / "blobs").exists()
        assert (await client.handle("w").output())[1] == size
