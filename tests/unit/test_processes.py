"""Leases as processes beside the engine: what their end does to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from perdure.service.executors.pool.pool import LeasePool
from perdure.service.executors.processes import _Processes
from perdure.v1 import worker_service_pb2 as pb


class Process:
    """One that is to be killed."""

    def __init__(self, *, has_ended: bool) -> None:
        self.killed = asyncio.Event()
        self._has_ended = has_ended

    def kill(self) -> None:
        self.killed.set()
        if self._has_ended:
            raise ProcessLookupError

    async def wait(self) -> int:
        return 0


@pytest.fixture
async def processes() -> AsyncIterator[_Processes]:
    pool = LeasePool(engine_id="e", blob_url="memory:", idle_s=1)
    processes = _Processes(pool, str, ())
    processes.start()
    yield processes
    await processes.stop()
    await pool.stop()


@pytest.mark.parametrize("has_ended", [True, False])
async def test_a_process_that_ended_before_it_is_killed_does_no_harm(processes: _Processes, has_ended: bool) -> None:
    """uvloop says so, asyncio does not."""
    found = {"a": Process(has_ended=has_ended), "b": Process(has_ended=has_ended)}
    processes._running.update(cast("dict[str, Any]", found))
    assert processes._session is not None
    for name, process in found.items():
        processes._session.send(pb.ServeAgentResponse(kill=pb.KillLease(lease_id=name)))
        async with asyncio.timeout(60):
            await process.killed.wait()
