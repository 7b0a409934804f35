"""Workflows that wait, by the ten thousand, and two CPUs that are free."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]
import pytest

import perdure
from patience import PATIENCE_S
from perdure.batches import EventItem, RunItem
from services import Process, Service
from traces import meet

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

pytestmark = [pytest.mark.ray]

WORKFLOWS = 10_000
HARNESS_S = PATIENCE_S


@perdure.task(num_cpus=0)
def both(*names: str) -> set[str]:
    return set(names)


async def test_ten_thousand_wait_for_events_and_as_many_sleep_and_both_cpus_are_free(
    service: Service, agent: Process, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    event, nap = perdure.event("go"), perdure.sleep(36_000)
    async with perdure.Client(service.address) as client:
        began = time.monotonic()
        waiting = await client.start_many(RunItem(event, f"waits-{index}") for index in range(WORKFLOWS))
        asleep = await client.start_many(RunItem(nap, f"sleeps-{index}") for index in range(WORKFLOWS))
        record_property("all_wait_after_s", round(time.monotonic() - began, 2))
        folder = str(tmp_path)
        for index in range(3):
            pair = [meet.bind(folder, f"a{index}", f"b{index}"), meet.bind(folder, f"b{index}", f"a{index}")]
            async with asyncio.timeout(HARNESS_S):
                assert await client.run(both.bind(*pair)) == {f"a{index}", f"b{index}"}
        running = [known.workflow_id async for known in client.list("status = RUNNING", page_size=1000)]
        assert len(running) == len(set(running)) == 2 * WORKFLOWS
        assert (await asleep[-1].status()).status is perdure.RunStatus.RUNNING
        began = time.monotonic()
        await client.send_events(EventItem(f"waits-{index}", "go", index) for index in range(WORKFLOWS))
        assert await client.outputs(waiting, timeout=HARNESS_S) == list(range(WORKFLOWS))
        record_property("all_told_after_s", round(time.monotonic() - began, 2))
