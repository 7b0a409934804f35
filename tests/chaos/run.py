"""A run of the chaos: load, faults, settling, verdict; and the table of what was measured."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import perdure
from chaos.faults import FAULTS, Fault, deck
from chaos.graphs import read_traces
from chaos.load import Load
from chaos.verdict import Verdict, judge
from chaos.world import World, running_world
from perdure import errors

PAUSE_S: Final = (1.0, 5.0)
STUCK_S: Final = 120.0
"""When the faults are over, runs have as long as they need, unless no attempt begins and no run ends for this long."""
LOOK_S: Final = 5.0
AFTER_MS: Final = 15_000
"""So long after a fault, work that it held up is looked for."""


@dataclass
class Seen:
    """The result of one seed."""

    seed: int
    verdict: Verdict
    faults: list[Fault]
    errors_met: int
    agents_ended: int
    began_ms: list[int] = field(default_factory=list)  # of attempts, in order


async def run_chaos(seed: int, seconds: float, folder: Path) -> Seen:
    dice = random.Random(seed)
    async with running_world(folder) as world:
        load = Load(world, seed)
        loading = asyncio.create_task(load.go_on())
        faults: list[Fault] = []
        agents_ended = 0
        try:
            deadline_s = time.monotonic() + seconds
            names: list[str] = []
            while time.monotonic() < deadline_s and not loading.done():
                await asyncio.sleep(dice.uniform(*PAUSE_S))
                names = names or deck(dice)
                fault = Fault(names.pop(), _now_ms(), in_flight=load.in_flight())
                print(f"{time.strftime('%X')} {fault.name}, {len(fault.in_flight)} runs in flight", flush=True)
                await FAULTS[fault.name](world, dice)
                fault.ended_ms = _now_ms()
                faults.append(fault)
                agents_ended += _look_after(world)
            load.enough.set()
            print(f"{time.strftime('%X')} faults are over, {len(load.in_flight())} runs in flight", flush=True)
            agents_ended += _look_after(world)
            await _settle(world, load, loading)
            if loading.done():
                loading.result()
            else:
                await _tell_what_waits(world, load)
            agents_ended += _look_after(world)
            verdict = await judge(world, load.runs)
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        began_ms = sorted(line.at_ms for line in read_traces(world.traces))
        return Seen(seed, verdict, faults, load.errors_met, agents_ended, began_ms)


async def _settle(world: World, load: Load, loading: asyncio.Task[None]) -> None:
    seen, since_s = (0, 0), time.monotonic()
    while not loading.done() and time.monotonic() - since_s < STUCK_S:
        await asyncio.wait([loading], timeout=LOOK_S)
        progress = len(read_traces(world.traces)), len(load.in_flight())
        if progress != seen:
            seen, since_s = progress, time.monotonic()


async def _tell_what_waits(world: World, load: Load) -> None:
    async with perdure.Client(world.address, patience=LOOK_S) as client:
        for workflow_id in sorted(load.in_flight()):
            try:
                tasks = [task async for task in client.handle(workflow_id).tasks()]
            except errors.PerdureError as error:
                print(f"{workflow_id}: {error}")
                continue
            open_tasks = [task for task in tasks if not task.status.is_final]
            said = "; ".join(
                f"{task.task_id} {task.status} after {task.attempts} attempts {task.waiting}" for task in open_tasks
            )
            print(f"{workflow_id} waits: {said}", flush=True)


def _look_after(world: World) -> int:
    """Engines that we did not end, live. Ray ends the processes of its drivers when something surprises it, so
    agents are started again, as those who run them would have it; gives how many."""
    for process in (*world.engines, world.cluster, world.s3):
        if (code := process.code()) is not None:
            said = process.log_path.read_text()[-3000:]
            raise AssertionError(f"{process.log_path} ended by itself with {code}:\n{said}")
    ended = [agent for agent in world.agents if agent.code() is not None]
    for agent in ended:
        print(f"{time.strftime('%X')} {agent.log_path.name}: the agent ended by itself with {agent.code()}", flush=True)
        agent.start()
    return len(ended)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def table(all_seen: list[Seen]) -> str:
    """Faults x outcome, as Markdown."""
    by_name: defaultdict[str, list[tuple[Seen, Fault]]] = defaultdict(list)
    for seen in all_seen:
        for fault in seen.faults:
            by_name[fault.name].append((seen, fault))
    lines = [
        "| fault | times | runs in flight | of them lost or wrong | nothing began for, median | at most |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in FAULTS:
        met = by_name[name]
        if not met:
            continue
        broken = sum(len(fault.in_flight & seen.verdict.broken.keys()) for seen, fault in met)
        gaps_s = [_gap_s(seen.began_ms, fault) for seen, fault in met]
        in_flight = sum(len(fault.in_flight) for _, fault in met)
        middle, most = statistics.median(gaps_s), max(gaps_s)
        lines.append(f"| {name} | {len(met)} | {in_flight} | {broken} | {middle:.1f} s | {most:.1f} s |")
    return "\n".join(lines)


def _gap_s(began_ms: list[int], fault: Fault) -> float:
    """The longest time without a new attempt from the beginning of the fault until a while after its end."""
    last_ms = fault.ended_ms + AFTER_MS
    inside = [at_ms for at_ms in began_ms if fault.began_ms <= at_ms <= last_ms]
    edges = [fault.began_ms, *inside]
    return max((after - before for before, after in itertools.pairwise(edges)), default=0) / 1000


def summary(all_seen: list[Seen]) -> str:
    verdicts = [seen.verdict for seen in all_seen]
    return (
        f"{sum(v.runs for v in verdicts)} acknowledged runs, {sum(v.tasks for v in verdicts)} tasks, "
        f"{sum(v.events for v in verdicts)} acknowledged events, {sum(v.attempts for v in verdicts)} attempts "
        f"({sum(v.repeated for v in verdicts)} of them repeated), {sum(len(seen.faults) for seen in all_seen)} faults, "
        f"{sum(seen.errors_met for seen in all_seen)} calls that clients had to repeat, "
        f"{sum(seen.agents_ended for seen in all_seen)} agents that Ray ended; "
        f"{sum(len(v.broken) for v in verdicts)} runs lost, wrong or run again"
    )
