"""Runs that an engine with a limit queued are started by an engine without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from perdure import graphwire
from perdure.service.executors.port import Executor
from perdure.service.kernel import Kernel
from perdure.service.machines.graphs import source_of
from perdure.service.operations.asked import NewRun
from perdure.service.queue.slots import ANY
from perdure.storage.memory.store import SharedMemory
from perdure.storage.rows import EngineRow
from unit.driver import call, graph
from unit.engine_by_hand import ByHand

SPEC = graph(call("a"))


@asynccontextmanager
async def engine(shared: SharedMemory, name: str, max_running: int) -> AsyncIterator[tuple[Kernel, ByHand]]:
    hand = ByHand()
    row = EngineRow(name)
    kernel = Kernel(shared.member(), cast(Executor, hand), owner=name, engine=row, max_running=max_running)
    await kernel.start()
    try:
        yield kernel, hand
    finally:
        await kernel.stop(grace_s=1)


async def queue(kernel: Kernel, *names: str) -> None:
    """Start runs, of which the first one has the only slot."""
    for name in names:
        new = NewRun("default", name, name, source_of(SPEC, graphwire.encode_spec(SPEC)))
        await kernel.submissions.submit(new)


async def started(hand: ByHand, count: int) -> set[str]:
    return {(await hand.submitted.get()).workflow_id for _ in range(count)}


async def test_an_engine_that_comes_later_starts_them() -> None:
    shared = SharedMemory()
    async with engine(shared, "limited", 1) as (limited, _):
        await queue(limited, "runs", "waits", "waits too")
    async with engine(shared, "unlimited", ANY) as (_, hand):
        assert await started(hand, 3) == {"runs", "waits", "waits too"}


async def test_an_engine_that_is_there_already_starts_them() -> None:
    shared = SharedMemory()
    async with engine(shared, "unlimited", ANY) as (_, hand):
        async with engine(shared, "limited", 1) as (limited, _):
            await queue(limited, "runs", "waits", "waits too")
        assert await started(hand, 3) == {"runs", "waits", "waits too"}
