"""How much of two CPUs tasks of 1, 10 and 100 ms get, beside plain Ray; and 1,000 that wait at the same time.

python benchmarks/efficiency.py [--rounds 5] [--lengths 1,10,100] [--kinds busy,asleep] [--quick] [--markdown]

A fan-out of tasks that spin until they had so much CPU time (busy), and of tasks that sleep so long (asleep: no matter
who else uses the cores). The efficiency is the time that a loop over all tasks takes in one process, halved, by the
time that the fan-out took from its start to its output: sending, storing and gathering included. Plain Ray does the
same on a cluster of the same settings (`ray.get([task.remote() ...])`), the two in turn, round by round.

Then 1,000 `async def` tasks that sleep for a second, which all fit into one lease; beside an actor of plain Ray's.

`python efficiency.py ray` is the plain Ray.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import meters
import report
import workloads
from service import Service, ray_beside

import perdure

CPUS = 2
IDEAL_S = 2.0
"""What each fan-out would take on two CPUs without any cost."""
WAITERS = 1_000
WAIT_S = 1.0
SAMPLE = 20
WARM = 20
"""So many tasks before each round: workers that were idle while the other side ran may be gone."""
KINDS = ("busy", "asleep")


def work(kind: str, ms: float) -> int:
    """Takes so long, of CPU time or just of time; gives 1."""
    if kind == "asleep":
        time.sleep(ms / 1e3)
    else:
        end = time.thread_time() + ms / 1e3
        while time.thread_time() < end:
            pass
    return 1


async def wait(seconds: float) -> int:
    """Gives the process that it waited in."""
    await asyncio.sleep(seconds)
    return os.getpid()


task = perdure.task(work)
waiter = perdure.task(num_cpus=CPUS)(wait)


@perdure.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@perdure.task
def distinct(numbers: list[int]) -> int:
    return len(set(numbers))


# ------------------------------------------------------------------------------ plain Ray


def _ray() -> None:
    """Answers each line (a call as JSON) with one."""
    import ray

    ray.init("local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    remote: Any = ray.remote(work)

    @ray.remote
    class Waiter:
        async def wait(self, seconds: float) -> int:
            return await wait(seconds)

    actor: Any = Waiter.options(max_concurrency=WAITERS).remote()  # type: ignore[attr-defined]

    def fan_out(kind: str, ms: float, count: int) -> None:
        assert sum(ray.get([remote.remote(kind, ms) for _ in range(count)])) == count

    def waits(count: int, seconds: float) -> None:
        assert len(set(ray.get([actor.wait.remote(seconds) for _ in range(count)]))) == 1

    fan_out("asleep", 1, 200)
    waits(10, 0.0)
    print("ready", flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        began = time.perf_counter()
        {"fan_out": fan_out, "waits": waits}[name](*arguments)
        print(time.perf_counter() - began, flush=True)
    ray.shutdown()


class PlainRay:
    """A Ray of its own in another process, and the seconds that calls take there."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call(self, *request: Any) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


@contextmanager
def plain_ray() -> Iterator[PlainRay]:
    with ray_beside(__file__) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield PlainRay(process)


# ------------------------------------------------------------------------------ Perdure


async def fan_out(client: perdure.Client, kind: str, ms: float, count: int) -> float:
    began = time.perf_counter()
    assert await client.run(total.bind([task.bind(kind, ms) for _ in range(count)])) == count
    return time.perf_counter() - began


async def waits(client: perdure.Client, count: int, seconds: float) -> tuple[float, int]:
    """Seconds, and how many processes it took."""
    began = time.perf_counter()
    processes = await client.run(distinct.bind([waiter.bind(seconds) for _ in range(count)]))
    return time.perf_counter() - began, processes


# ------------------------------------------------------------------------------ measuring


def loop_s(kind: str, ms: float, count: int) -> float:
    """What so many tasks take without anything around them, from a sample."""
    began = time.perf_counter()
    for _ in range(SAMPLE):
        work(kind, ms)
    return (time.perf_counter() - began) / SAMPLE * count


async def measure_lengths(
    client: perdure.Client, ray: PlainRay, kinds: list[str], lengths: list[float], rounds: int
) -> list[list[str]]:
    rows = [["tasks", "Perdure", "plain Ray", "others"]]
    for kind in kinds:
        for ms in lengths:
            count = round(IDEAL_S * CPUS / ms * 1e3)
            ours, plain = [], []
            with meters.noise() as noise:
                for _ in range(rounds):
                    ideal_s = loop_s(kind, ms, count) / CPUS
                    await fan_out(client, kind, ms, WARM)
                    ours.append(ideal_s / await fan_out(client, kind, ms, count))
                    await asyncio.to_thread(ray.call, "fan_out", kind, ms, WARM)
                    plain.append(ideal_s / await asyncio.to_thread(ray.call, "fan_out", kind, ms, count))
            cells = [f"{meters.median(all_):.0%} ({min(all_):.0%} to {max(all_):.0%})" for all_ in (ours, plain)]
            rows.append([f"{count:,} of {ms:g} ms, {kind}", *cells, f"{noise.others:.2f} cores"])
    return rows


async def measure_waiters(client: perdure.Client, engine: int, ray: PlainRay, rounds: int) -> list[list[str]]:
    ours, plain, cpu, grown, processes = [], [], [], [], 0
    await waits(client, 10, 0.0)
    for _ in range(rounds):
        before, before_s = meters.resident_bytes(), meters.cpu_s(engine)
        most = asyncio.create_task(_peak(before))
        seconds, processes = await waits(client, WAITERS, WAIT_S)
        most.cancel()
        ours.append(seconds)
        cpu.append(meters.cpu_s(engine) - before_s)
        grown.append((await most - before) / meters.MIB)
        plain.append(await asyncio.to_thread(ray.call, "waits", WAITERS, WAIT_S))
    return [
        [f"{WAITERS:,} that wait {WAIT_S:g} s", "Perdure", "plain Ray's actor"],
        ["seconds", *(f"{meters.median(all_):.2f} ({min(all_):.2f} to {max(all_):.2f})" for all_ in (ours, plain))],
        ["worker processes", str(processes), "1"],
        ["engine's CPU, ms", f"{min(cpu) * 1e3:.0f}", "-"],
        ["memory of all processes, at its peak, MiB more", f"{max(meters.median(grown), 0):.0f}", "-"],
    ]


async def _peak(most: int) -> int:
    """The most memory that is in use until this is cancelled."""
    try:
        while True:
            most = max(most, meters.resident_bytes())
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return most


async def measure_all(
    folder: Path, kinds: list[str], lengths: list[float], rounds: int, show: Callable[[list[list[str]]], None]
) -> None:
    service = Service(folder, "--storage", str(folder / "storage"), "--ray-cpus", str(CPUS))
    service.start()
    try:
        with plain_ray() as ray:
            async with perdure.Client(service.address, patience=120) as client:
                await workloads.warm_up(workloads.Stage(client, service))
                show(await measure_lengths(client, ray, kinds, lengths, rounds))
                show(await measure_waiters(client, service.pid, ray, rounds))
    finally:
        service.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", default="1,10,100", help="milliseconds")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--quick", action="store_true", help="one round of each")
    parser.add_argument("--markdown", action="store_true", help="print tables for a page")
    given = parser.parse_args()
    lengths = [float(length) for length in given.lengths.split(",")]
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        show = lambda rows: print(report.printed(rows, given.markdown), end="\n\n", flush=True)  # noqa: E731
        rounds = 1 if given.quick else given.rounds
        asyncio.run(measure_all(Path(folder), given.kinds.split(","), lengths, rounds, show))


if __name__ == "__main__":
    if sys.argv[1:2] == ["ray"]:
        _ray()
    else:
        main()
