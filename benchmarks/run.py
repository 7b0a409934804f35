"""`make bench`: the floors, then Perdure's workloads against `perdure serve` on a Ray of its own.

python benchmarks/run.py [--quick] [--slow] [--only W1,W3] [-o results.json]

Every figure is the median of several rounds. Read one with much noise as a lower bound.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import floors
import meters
import report
import workloads
from service import Service

import perdure

QUICK_SCALE = 5
LIMIT_S = 600
"""A round that takes longer fails."""


async def measure(name: str, work: Callable[[], Awaitable[dict[str, float]]], rounds: int) -> dict[str, Any]:
    """So many rounds: of each figure the median, the extremes and all values; and the noise meanwhile."""
    print(f"{name} ...", end="", flush=True, file=sys.stderr)
    values: dict[str, list[float]] = {}
    with meters.noise() as noise:
        for _ in range(rounds):
            async with asyncio.timeout(LIMIT_S):
                for figure, value in (await work()).items():
                    values.setdefault(figure, []).append(value)
    print(f" {noise.seconds:.0f} s", file=sys.stderr)
    figures = {
        figure: {"median": meters.median(all_), "min": min(all_), "max": max(all_), "rounds": all_}
        for figure, all_ in values.items()
    }
    return {"figures": figures, "others": noise.others, "stolen": noise.stolen, "flushes": noise.flushes}


async def measure_all(only: set[str], *, quick: bool, folder: Path, slow: bool = False) -> dict[str, Any]:
    """`only`: first words of workloads, or their whole names; empty: all, those that are slow if asked for."""
    results: dict[str, Any] = {"machine": _machine(), "floors": {}, "workloads": {}}
    for name, (floor, rounds) in floors.FLOORS.items():
        results["floors"][name] = await measure(name, floor, 1 if quick else rounds)
    service = Service(folder)
    service.start()
    try:
        async with perdure.Client(service.address, patience=120) as client:
            stage = workloads.Stage(client, service, QUICK_SCALE if quick else 1)
            chosen = workloads.WORKLOADS | (workloads.SLOW if slow else {})
            for name, (workload, rounds) in chosen.items():
                if only and not only & {name, name.split()[0]}:
                    continue
                await workloads.warm_up(stage)
                results["workloads"][name] = await measure(name, partial(workload, stage), 1 if quick else rounds)
    finally:
        service.stop()
    return results


def _machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of each, of a fifth of the size")
    parser.add_argument("--slow", action="store_true", help="those that take minutes, too")
    parser.add_argument("--only", default="", help="such as W1,W3")
    parser.add_argument("-o", "--output", type=Path, help="a file for the results, as JSON")
    given = parser.parse_args()
    output = given.output.absolute() if given.output else None
    # Not where temporary files are: that may be memory, and flushes would cost nothing.
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        os.chdir(folder)
        only = set(filter(None, given.only.split(",")))
        results = asyncio.run(measure_all(only, quick=given.quick, folder=Path(folder), slow=given.slow))
        os.chdir("..")
    print(report.table(results))
    if output is not None:
        output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
