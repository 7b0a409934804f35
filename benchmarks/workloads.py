"""What is measured: each function does one round and gives its figures, times in seconds."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import meters
import steps
from service import EngineApart, Service

import perdure

Figures = dict[str, float]

IN_FLIGHT = 128
SLEEP_S = 6 * 3600
WARM_UP_S = 120
SETTLE_S = 0.1
"""From the start of a run that waits for an event to the sending of it."""


@dataclass
class Stage:
    """What a workload works with. `scale` divides the sizes of a quick run."""

    client: perdure.Client
    service: Service
    scale: int = 1

    def size(self, full: int) -> int:
        return max(full // self.scale, 1)


Workload = Callable[[Stage], Awaitable[Figures]]


async def abreast(count: int, width: int, work: Callable[[], Awaitable[Any]]) -> float:
    """Do it so many times, `width` at a time; gives the seconds."""
    left = iter(range(count))

    async def lane() -> None:
        for _ in left:
            await work()

    began = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(width)))
    return time.perf_counter() - began


async def warm_up(stage: Stage) -> None:
    """Leases on all CPUs, functions loaded. Ray starts workers of a runtime environment when they are needed only, and
    their start takes a CPU for seconds."""
    for _ in range(10):
        await stage.client.run(steps.step.bind(0))
    cpus = os.cpu_count() or 1
    async with asyncio.timeout(WARM_UP_S):
        while await stage.client.run(steps.processes(4 * cpus)) < cpus:
            pass
    await stage.client.run(steps.fan_out(100))


async def one_step(stage: Stage) -> Figures:
    """W1: a run of one step, from its start to its output, one run at a time."""
    times = []
    for _ in range(stage.size(200)):
        began = time.perf_counter()
        await stage.client.run(steps.step.bind(0))
        times.append(time.perf_counter() - began)
    return {"median_s": meters.median(times), "p99_s": meters.percentile(times, 99)}


async def many_runs(stage: Stage) -> Figures:
    """W2: runs of one step, 128 in flight."""
    count = stage.size(1_000)
    seconds = await abreast(count, IN_FLIGHT, lambda: stage.client.run(steps.step.bind(0)))
    return {"runs_per_s": count / seconds}


async def chain(stage: Stage) -> Figures:
    """W3: a run of 200 steps in a row."""
    length = 200
    began = time.perf_counter()
    assert await stage.client.run(steps.chain(length)) == length
    return {"steps_per_s": length / (time.perf_counter() - began)}


async def fan_out(stage: Stage) -> Figures:
    """W4: a run of 1,000 steps side by side, and one that takes them all."""
    width = 1_000
    began = time.perf_counter()
    assert await stage.client.run(steps.fan_out(width)) == width * (width - 1) // 2
    return {"steps_per_s": width / (time.perf_counter() - began)}


async def payload(stage: Stage) -> Figures:
    """W5: 64 MiB through three steps."""
    mib = 64
    began = time.perf_counter()
    assert await stage.client.run(steps.payload(mib)) == mib * steps.MIB // 8
    return {"s": time.perf_counter() - began}


async def event(stage: Stage) -> Figures:
    """W6: from the sending of an event to the output of the run that waited for it."""
    times = []
    for _ in range(stage.size(50)):
        handle = await stage.client.start(perdure.event("go"))
        await asyncio.sleep(SETTLE_S)
        began = time.perf_counter()
        await handle.send_event("go", "went")
        assert await handle.output() == "went"
        times.append(time.perf_counter() - began)
    return {"median_s": meters.median(times), "p99_s": meters.percentile(times, 99)}


async def sleepers(stage: Stage) -> Figures:
    """W7: 10,000 runs that fall asleep for hours: how fast, and the memory that each takes in all processes
    together and in the engine alone."""
    count = stage.size(10_000)
    gc.collect()
    all_before, engine_before = meters.resident_bytes(), meters.resident_bytes(of=stage.service.pid)
    seconds = await abreast(count, 64, lambda: stage.client.start(perdure.sleep(SLEEP_S)))
    gc.collect()
    all_grown = meters.resident_bytes() - all_before
    engine_grown = meters.resident_bytes(of=stage.service.pid) - engine_before
    return {"starts_per_s": count / seconds, "bytes_each": all_grown / count, "engine_bytes_each": engine_grown / count}


async def one_actor(stage: Stage) -> Figures:
    """W9: calls of one actor that change it, one at a time, and then queries of it."""
    counter = stage.client.actor(steps.Counter, f"one-{uuid.uuid4().hex}")
    await counter.incr()
    calls = await _times(stage.size(300), counter.incr)
    queries = await _times(stage.size(300), counter.value)
    return {
        "call_median_s": meters.median(calls),
        "call_p99_s": meters.percentile(calls, 99),
        "query_median_s": meters.median(queries),
    }


async def _times(count: int, work: Callable[[], Awaitable[Any]]) -> list[float]:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        await work()
        times.append(time.perf_counter() - began)
    return times


async def many_actors(stage: Stage) -> Figures:
    """W9: 1,000 actors, 64 calls in flight, each of another actor than those beside it."""
    count = stage.size(5_000)
    mark = uuid.uuid4().hex
    actors = [stage.client.actor(steps.Counter, f"{mark}-{number}") for number in range(1_000)]
    await abreast_each(actors, 64)
    cpu_s = meters.cpu_s(stage.service.pid)
    seconds = await abreast_each((actors[number % len(actors)] for number in range(count)), 64)
    cpu_s = meters.cpu_s(stage.service.pid) - cpu_s
    return {"calls_per_s": count / seconds, "engine_cpu_each_s": cpu_s / count}


async def abreast_each(actors: Iterable[steps.Counter], width: int) -> float:
    """Call each once, `width` at a time; gives the seconds."""
    left = iter(actors)

    async def lane() -> None:
        for actor in left:
            await actor.incr()

    began = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(width)))
    return time.perf_counter() - began


async def many_runs_batched(stage: Stage) -> Figures:
    """W2 in batches: runs of one step that share their graph, from the first start to the last output."""
    count = stage.size(5_000)
    cpu_s = meters.cpu_s(stage.service.pid)
    began = time.perf_counter()
    handles = await stage.client.start_many(_alike(steps.step.bind(0), count))
    started_s = time.perf_counter() - began
    assert await stage.client.outputs(handles) == [1] * count
    seconds = time.perf_counter() - began
    cpu_s = meters.cpu_s(stage.service.pid) - cpu_s
    return {"runs_per_s": count / seconds, "starts_per_s": count / started_s, "engine_cpu_each_s": cpu_s / count}


async def sleepers_batched(stage: Stage) -> Figures:
    """W7 in batches: 100,000 runs that fall asleep for hours."""
    count = stage.size(100_000)
    cpu_s, before = meters.cpu_s(stage.service.pid), meters.resident_bytes(of=stage.service.pid)
    began = time.perf_counter()
    await stage.client.start_many(_alike(perdure.sleep(SLEEP_S), count))
    seconds = time.perf_counter() - began
    cpu_s = meters.cpu_s(stage.service.pid) - cpu_s
    grown = meters.resident_bytes(of=stage.service.pid) - before
    figures = {"starts_per_s": count / seconds, "engine_cpu_each_s": cpu_s / count}
    return figures | {"engine_bytes_each": max(grown, 0) / count}


def _alike(graph: object, count: int) -> list[perdure.RunItem]:
    return [perdure.RunItem(graph)] * count


async def restart(stage: Stage) -> Figures:
    """The start of an engine whose store has 100,000 runs that ended and 100,000 that sleep; what it then holds in
    memory; and the first page of a listing."""
    count = stage.size(100_000)
    for begin in range(0, count, 10_000):
        part = min(count - begin, 10_000)
        await stage.client.outputs(await stage.client.start_many(_alike(steps.step.bind(0), part)))
    await stage.client.start_many(_alike(perdure.sleep(SLEEP_S), count))
    await asyncio.to_thread(stage.service.kill)
    began = time.perf_counter()
    await asyncio.to_thread(stage.service.start)
    start_s = time.perf_counter() - began
    await stage.client.info()
    engine_bytes = meters.resident_bytes(of=stage.service.pid)
    pages = []
    for _ in range(20):
        began = time.perf_counter()
        assert await anext(stage.client.list())
        pages.append(time.perf_counter() - began)
    return {"start_s": start_s, "first_page_s": meters.median(pages), "engine_bytes": engine_bytes}


async def recover_chain(stage: Stage) -> Figures:
    """W8: everything is killed half way through a chain of 200, Ray included."""
    return await _recovery(stage, _kill_all, runs=1, length=200)


async def recover_many(stage: Stage) -> Figures:
    """W8: everything is killed half way through 100 chains of 10, Ray included."""
    return await _recovery(stage, _kill_all, runs=100, length=10)


async def recover_workers(stage: Stage) -> Figures:
    """W8: the processes that run tasks are killed half way through 100 chains of 10."""
    return await _recovery(stage, _kill_workers, runs=100, length=10)


async def recover_engine_chain(stage: Stage) -> Figures:
    """W8: the engine is killed half way through a chain of 200; the agent and its Ray live."""
    return await _engine_recovery(runs=1, length=200)


async def recover_engine_many(stage: Stage) -> Figures:
    """W8: the engine is killed half way through 100 chains of 10; the agent and its Ray live."""
    return await _engine_recovery(runs=100, length=10)


async def _engine_recovery(*, runs: int, length: int) -> Figures:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        service = EngineApart(Path(folder))
        await asyncio.to_thread(service.start)
        try:
            async with perdure.Client(service.address, patience=120) as client:
                stage = Stage(client, service)
                await warm_up(stage)
                return await _recovery(stage, _kill_all, runs=runs, length=length)
        finally:
            await asyncio.to_thread(service.stop)


def _kill_all(service: Service) -> None:
    service.kill()


def _kill_workers(service: Service) -> None:
    service.kill_workers()


async def _recovery(stage: Stage, kill: Callable[[Service], None], *, runs: int, length: int) -> Figures:
    """Seconds from the restart to the end of all runs; of them those to the first answer of the engine, and those
    from there; and how many steps were executed again."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "lines"
        lines.touch()
        ids = [uuid.uuid4().hex for _ in range(runs)]
        graph = steps.chain(length, str(lines))
        handles = await asyncio.gather(*(stage.client.start(graph, workflow_id=name) for name in ids))
        while _count(lines) < runs * length // 2:
            await asyncio.sleep(0.003)
        await asyncio.to_thread(kill, stage.service)
        began = time.perf_counter()
        if not stage.service.is_running:
            await asyncio.to_thread(stage.service.start)
        up_s = time.perf_counter() - began
        assert await asyncio.gather(*(handle.output() for handle in handles)) == [length] * runs
        seconds = time.perf_counter() - began
        again = _count(lines) - runs * length
        return {"s": seconds, "of_it_start_s": up_s, "of_it_then_s": seconds - up_s, "steps_again": again}


def _count(lines: Path) -> int:
    return lines.read_bytes().count(b"\n")


ROUNDS = 5
WORKLOADS: dict[str, tuple[Workload, int]] = {
    "W1 one step": (one_step, ROUNDS),
    "W2 many runs": (many_runs, ROUNDS),
    "W2 many runs, batched": (many_runs_batched, ROUNDS),
    "W3 chain of 200": (chain, ROUNDS),
    "W4 fan-out of 1,000": (fan_out, ROUNDS),
    "W5 64 MiB, 3 steps": (payload, ROUNDS),
    "W6 event": (event, ROUNDS),
    "W8 workers, 100 runs": (recover_workers, ROUNDS),
    "W8 engine, chain": (recover_engine_chain, ROUNDS),
    "W8 engine, 100 runs": (recover_engine_many, ROUNDS),
    "W8 all, chain": (recover_chain, 3),
    "W8 all, 100 runs": (recover_many, 3),
    "W9 one actor": (one_actor, ROUNDS),
    "W9 1,000 actors": (many_actors, ROUNDS),
    "W7 sleepers": (sleepers, 1),
    "W7 sleepers, batched": (sleepers_batched, 1),
}
"""Each with its rounds. Sleepers come last: they stay."""
SLOW: dict[str, tuple[Workload, int]] = {
    "restart, 200,000 runs": (restart, 1),
}
"""Those that take minutes."""
ON_SQLITE: Final = frozenset({"W8 engine, chain", "W8 engine, 100 runs"})
"""Have an engine of their own, which is on SQLite."""
