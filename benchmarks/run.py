"""`make bench`: the floors, then Perdure's workloads against `perdure serve` on a Ray of its own.

python benchmarks/run.py [--quick] [--slow] [--only W1,W3] [--storage sqlite,postgresql] [--markdown] [-o results.json]

Every figure is the median of several rounds. Read one with much noise as a lower bound. With two storages one is
measured after the other, each with its floors, and the results stand side by side.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import floors
import meters
import report
import workloads
from databases import throw_away
from service import Service

import perdure

QUICK_SCALE = 5
LIMIT_S = 600
"""A round that takes longer fails."""
STORAGES = ("sqlite", "postgresql")


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


@asynccontextmanager
async def database_of(storage: str) -> AsyncIterator[str]:
    """The URL of a PostgreSQL of its own, "" for SQLite."""
    if storage == "sqlite":
        yield ""
    else:
        async with throw_away() as database:
            yield database.url


async def measure_all(
    only: set[str], *, quick: bool, folder: Path, slow: bool = False, storage: str = "sqlite"
) -> dict[str, Any]:
    """`only`: first words of workloads, or their whole names; empty: all, those that are slow if asked for."""
    results: dict[str, Any] = {"machine": _machine(), "storage": storage, "floors": {}, "workloads": {}}
    async with database_of(storage) as database:
        for name, (floor, rounds) in floors.floors(database).items():
            results["floors"][name] = await measure(name, floor, 1 if quick else rounds)
        flags = ("--storage", database, "--blobs", (folder / "blobs").as_uri()) if database else ()
        service = Service(folder, *flags)
        service.start()
        try:
            async with perdure.Client(service.address, patience=120) as client:
                stage = workloads.Stage(client, service, QUICK_SCALE if quick else 1)
                chosen = workloads.WORKLOADS | (workloads.SLOW if slow else {})
                for name, (workload, rounds) in chosen.items():
                    if only and not only & {name, name.split()[0]}:
                        continue
                    if database and name in workloads.ON_SQLITE:
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


async def measure_on(storages: list[str], only: set[str], given: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for storage in storages:
        # Not where temporary files are: that may be memory, and flushes would cost nothing.
        with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
            os.chdir(folder)
            try:
                found.append(
                    await measure_all(only, quick=given.quick, folder=Path(folder), slow=given.slow, storage=storage)
                )
            finally:
                os.chdir("..")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of each, of a fifth of the size")
    parser.add_argument("--slow", action="store_true", help="those that take minutes, too")
    parser.add_argument("--only", default="", help="such as W1,W3")
    parser.add_argument("--storage", default="sqlite", help=f"of {', '.join(STORAGES)}; several with commas")
    parser.add_argument("--markdown", action="store_true", help="print a table for a page")
    parser.add_argument("-o", "--output", type=Path, help="a file for the results, as JSON; of several storages a list")
    given = parser.parse_args()
    storages = given.storage.split(",")
    if unknown := set(storages) - set(STORAGES):
        parser.error(f"there is no storage {', '.join(sorted(unknown))}")
    found = asyncio.run(measure_on(storages, set(filter(None, given.only.split(","))), given))
    print(report.table(found[0], given.markdown) if len(found) == 1 else report.beside(found, given.markdown))
    if given.output is not None:
        given.output.write_text(json.dumps(found[0] if len(found) == 1 else found, indent=1) + "\n")


if __name__ == "__main__":
    main()
