"""Asynchronous functions that wait, by the thousand, without a CPU."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import perdure
from patience import PATIENCE_S
from services import Service
from traces import meet

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

pytestmark = [pytest.mark.ray]

LISTENERS = 10_000
HARNESS_S = PATIENCE_S


@perdure.task(num_cpus=0)
async def listen(gate: str, index: int) -> tuple[int, int]:
    """Until the file is there; all of a process look with one pair of eyes."""
    loop: Any = asyncio.get_running_loop()
    if not hasattr(loop, "perdure_test_gate"):
        loop.perdure_test_gate = loop.create_task(_look(Path(gate)))
    await asyncio.shield(loop.perdure_test_gate)
    return index, os.getpid()


async def _look(gate: Path) -> None:
    while not gate.exists():
        await asyncio.sleep(0.05)


@perdure.task(num_cpus=0)
def summary(*heard: Any) -> tuple[int, int, int]:
    return len(heard), sum(index for index, _ in heard), len({pid for _, pid in heard})


@perdure.task
def both(*names: str) -> set[str]:
    return set(names)


async def test_ten_thousand_listeners_leave_both_cpus_free(
    steady: Service, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    gate = tmp_path / "gate"
    async with perdure.Client(steady.address) as client:
        began = time.monotonic()
        graph = summary.bind(*(listen.bind(str(gate), index) for index in range(LISTENERS)))
        handle = await client.start(graph)
        async with asyncio.timeout(HARNESS_S):
            while (await handle.status()).tasks_running < LISTENERS:
                await asyncio.sleep(0.1)
        record_property("all_wait_after_s", round(time.monotonic() - began, 2))
        folder = str(tmp_path)
        for index in range(3):
            pair = [meet.bind(folder, f"a{index}", f"b{index}"), meet.bind(folder, f"b{index}", f"a{index}")]
            async with asyncio.timeout(HARNESS_S):
                assert await client.run(both.bind(*pair)) == {f"a{index}", f"b{index}"}
        assert (await handle.status()).tasks_running == LISTENERS
        gate.touch()
        began = time.monotonic()
        async with asyncio.timeout(HARNESS_S):
            count, total, processes = await handle.output()
        record_property("all_done_after_s", round(time.monotonic() - began, 2))
    assert (count, total) == (LISTENERS, sum(range(LISTENERS)))
    assert processes <= 4
