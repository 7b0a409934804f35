"""Whether the cost of a step depends on how many there are: chains and fan-outs of growing size.

python benchmarks/scale.py [--rounds 3] [--largest 100000]

Of each size the median of steps/s, and what a step costs the engine: CPU (the least of the rounds, since others on
the machine only add to it), memory that it keeps for a step while the run is at work, and bytes that it writes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import meters
import psutil
import steps
import workloads
from service import Service

import perdure

CHAINS = (200, 2_000, 10_000)
FANS = (1_000, 10_000, 100_000)
LOOK_S = 0.02


def fan_result(width: int) -> int:
    return width * (width - 1) // 2


async def peak_bytes(engine: psutil.Process) -> int:
    """The most memory that the engine has in use until this is cancelled."""
    most = engine.memory_info().rss
    try:
        while True:
            most = max(most, engine.memory_info().rss)
            await asyncio.sleep(LOOK_S)
    except asyncio.CancelledError:
        return most


async def measure(
    client: perdure.Client, engine: psutil.Process, graph: Callable[[int], Any], size: int, result: int, rounds: int
) -> str:
    speeds, cpus, writes, memories = [], [], [], []
    for _ in range(rounds):
        cpu, written, memory = engine.cpu_times(), engine.io_counters().write_bytes, engine.memory_info().rss
        peak = asyncio.create_task(peak_bytes(engine))
        began = time.perf_counter()
        assert await client.run(graph(size)) == result
        speeds.append(size / (time.perf_counter() - began))
        after = engine.cpu_times()
        peak.cancel()
        cpus.append((after.user + after.system - cpu.user - cpu.system) / size * 1e6)
        writes.append((engine.io_counters().write_bytes - written) / size)
        memories.append((await peak - memory) / size)
    speed = f"{meters.median(speeds):>9,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})"
    return f"{size:>9,} {speed:32}{min(cpus):>10,.0f}{meters.median(writes):>12,.0f}{meters.median(memories):>12,.0f}"


async def measure_all(folder: Path, rounds: int, largest: int) -> None:
    service = Service(folder)
    service.start()
    try:
        async with perdure.Client(service.address, patience=120) as client:
            await workloads.warm_up(workloads.Stage(client, service))
            engine = psutil.Process(service.pid)
            for name, graph, sizes in (("chain", steps.chain, CHAINS), ("fan-out", steps.fan_out, FANS)):
                print(f"{name:>9} {'steps/s':32}{'CPU us':>10}{'B written':>12}{'B memory':>12}")
                for size in sizes:
                    if size <= largest:
                        result = size if graph is steps.chain else fan_result(size)
                        print(await measure(client, engine, graph, size, result, rounds), flush=True)
    finally:
        service.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--largest", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        os.chdir(folder)
        asyncio.run(measure_all(Path(folder), given.rounds, given.largest))
        os.chdir("..")


if __name__ == "__main__":
    main()
