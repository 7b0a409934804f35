"""What several engines on one PostgreSQL cost: 1, 2 and 4 of them, and one on SQLite beside.

python benchmarks/fleet.py [--engines 1,2,4] [--rounds 3] [--quick] [--markdown]

Each engine has an agent of its own on one Ray, whose four leases they share evenly (by a resource for each engine), so
all that differs is the number of engines. The work is the same, too, and spread over them. On a machine of two
cores the sum cannot grow; so read the CPU time that all engines together, and the database with all its processes,
take for a run or a step. CPU times are the least of the rounds: others on the machine only add to them.

`python fleet.py ray ENGINES` is the Ray.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import meters
import report
import steps
import workloads
from databases import throw_away
from service import Service, ray_beside

import perdure

LEASES = 4
CHAINS, LENGTH = 16, 50
FANS, WIDTH = 4, 1_000
BATCH = 1_000
QUICK_SCALE = 5


@dataclass
class Fleet:
    """Engines with their clients. `database_pid` is 0 where the engine is its own database. `scale` divides sizes."""

    services: list[Service]
    clients: list[perdure.Client]
    database_pid: int
    scale: int = 1

    def each(self, count: int) -> Iterator[tuple[int, perdure.Client]]:
        """So many times an engine's number and a client of it, in turn."""
        return itertools.islice(itertools.cycle(enumerate(self.clients)), count)

    def engines_cpu_s(self) -> float:
        return sum(meters.cpu_s(service.pid) for service in self.services)

    def database_cpu_s(self) -> float:
        return meters.tree_cpu_s(self.database_pid) if self.database_pid else 0.0


def slot(engine: int) -> str:
    return f"engine-{engine}"


@cache
def placed(task: Any, engine: int) -> Any:
    """The task, on leases of this engine."""
    return task.options(num_cpus=0, resources={slot(engine): 1})


# ------------------------------------------------------------------------------ the work, each gives how much it was


async def many_runs(fleet: Fleet) -> int:
    """W2: runs of one step, 128 in flight."""
    count = 2_000 // fleet.scale
    turns = fleet.each(count)

    async def one() -> None:
        engine, client = next(turns)
        await client.run(placed(steps.step, engine).bind(0))

    await workloads.abreast(count, workloads.IN_FLIGHT, one)
    return count


async def chains(fleet: Fleet) -> int:
    """W3: chains beside one another."""

    async def one(engine: int, client: perdure.Client) -> None:
        step, value = placed(steps.step, engine), 0
        for _ in range(length):
            value = step.bind(value)
        assert await client.run(value) == length

    length = LENGTH // fleet.scale
    await asyncio.gather(*(one(*turn) for turn in fleet.each(CHAINS)))
    return CHAINS * length


async def fan_outs(fleet: Fleet) -> int:
    """W4: fan-outs of 1,000 beside one another."""
    width = WIDTH // fleet.scale

    async def one(engine: int, client: perdure.Client) -> None:
        leaf, total = placed(steps.leaf, engine), placed(steps.total, engine)
        assert await client.run(total.bind([leaf.bind(number) for number in range(width)])) == width * (width - 1) // 2

    await asyncio.gather(*(one(*turn) for turn in fleet.each(FANS)))
    return FANS * width


async def sleepers(fleet: Fleet) -> int:
    """W7: runs that fall asleep for hours, started in batches."""
    batches = 20 // fleet.scale

    async def one(client: perdure.Client) -> None:
        await client.start_many([perdure.RunItem(perdure.sleep(workloads.SLEEP_S))] * BATCH)

    await asyncio.gather(*(one(client) for _, client in fleet.each(batches)))
    return batches * BATCH


WORK: dict[str, Callable[[Fleet], Awaitable[int]]] = {
    "W2 runs/s": many_runs,
    "W3 steps/s": chains,
    "W4 steps/s": fan_outs,
    "W7 starts/s": sleepers,
}


# ------------------------------------------------------------------------------ what there is


@contextmanager
def cluster(engines: int) -> Iterator[str]:
    """A Ray of its own; gives its address."""
    with ray_beside(__file__, str(engines)) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())


def _ray(engines: int) -> None:
    import ray

    slots = {slot(engine): LEASES / engines for engine in range(engines)}
    found = ray.init("local", num_cpus=2, resources=slots, include_dashboard=False, log_to_driver=False)
    print(json.dumps(found.address_info["gcs_address"]), flush=True)
    sys.stdin.read()  # until whoever started us is done
    ray.shutdown()


@asynccontextmanager
async def running_fleet(storage: str, engines: int, folder: Path, scale: int) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        flags, database_pid = ["--storage", str(folder / "storage")], 0
        if storage == "postgresql":
            database = await stack.enter_async_context(throw_away())
            flags, database_pid = ["--storage", database.url, "--blobs", (folder / "blobs").as_uri()], database.pid
        flags += ["--ray-address", stack.enter_context(cluster(engines))]
        services, clients = [], []
        for engine in range(engines):
            (folder / slot(engine)).mkdir()
            service = Service(folder / slot(engine), *flags)
            stack.callback(service.stop)
            service.start()
            services.append(service)
            clients.append(await stack.enter_async_context(perdure.Client(service.address, patience=120)))
        fleet = Fleet(services, clients, database_pid, scale)
        for engine, client in fleet.each(engines):
            leaf, total = placed(steps.leaf, engine), placed(steps.total, engine)
            await client.run(total.bind([leaf.bind(number) for number in range(100)]))
        yield fleet


# ------------------------------------------------------------------------------ measuring


async def measure(fleet: Fleet, work: Callable[[Fleet], Awaitable[int]], rounds: int) -> tuple[str, str, str]:
    """The speed, median and extremes; the CPU of the engines and that of the database, microseconds for each."""
    speeds, engines, database = [], [], []
    for _ in range(rounds):
        engines_s, database_s = fleet.engines_cpu_s(), fleet.database_cpu_s()
        began = time.perf_counter()
        count = await work(fleet)
        speeds.append(count / (time.perf_counter() - began))
        engines.append((fleet.engines_cpu_s() - engines_s) / count * 1e6)
        database.append((fleet.database_cpu_s() - database_s) / count * 1e6)
    speed = f"{meters.median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})"
    return speed, f"{min(engines):,.0f}", f"{min(database):,.0f}" if fleet.database_pid else "-"


async def measure_all(sizes: list[int], rounds: int, scale: int) -> list[list[str]]:
    rows = [["", "", "speed", "engines us", "database us", "others"]]
    for storage, engines in [("sqlite", 1), *(("postgresql", size) for size in sizes)]:
        with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
            async with running_fleet(storage, engines, Path(folder), scale) as fleet:
                for name, work in WORK.items():
                    print(f"{engines} on {storage}: {name}", file=sys.stderr, flush=True)
                    with meters.noise() as noise:
                        measured = await measure(fleet, work, rounds)
                    rows.append([name, f"{engines} on {storage}", *measured, f"{noise.others:.2f} cores"])
    return [rows[0], *sorted(rows[1:], key=lambda row: row[0])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engines", default="1,2,4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of each, of a fifth of the size")
    parser.add_argument("--markdown", action="store_true", help="print a table for a page")
    given = parser.parse_args()
    sizes = [int(size) for size in given.engines.split(",")]
    rounds, scale = (1, QUICK_SCALE) if given.quick else (given.rounds, 1)
    print(report.printed(asyncio.run(measure_all(sizes, rounds, scale)), given.markdown))


if __name__ == "__main__":
    if sys.argv[1:2] == ["ray"]:
        _ray(int(sys.argv[2]))
    else:
        main()
