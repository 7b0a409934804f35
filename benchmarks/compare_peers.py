"""`make bench-peers`: Perdure and other systems in turn, round by round, in one run, and the ratios.

python benchmarks/compare_peers.py [--peer dbos=PYTHON]... [--rounds 5] [--only W1,W3] [--quick] [-o results.json]
                                   [--markdown] [--results results.json]

A peer is named with the Python that has its packages (`peers/requirements-*.txt`); one that is not given, or does not
start, is left out. In a round all systems are started with nothing stored, then of each workload each does one
repetition, one system after the other, so that what else the machine does meets all alike; who is first changes from
round to round. Recovery comes at the end, one system at a time: all its processes are killed, and started again.
`--results` prints results of before instead of measuring, `--markdown` as a table for a page.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import meters
import peers_report
import psutil
from databases import throw_away
from peer_process import Column, PeerError, PeerProcess

SCRIPTS = {
    # peer: its adapter, the storages beside its own that it is measured on
    "perdure": ("peer_perdure.py", True),
    "dbos": ("peer_dbos.py", True),
    "temporal": ("peer_temporal.py", False),
    "restate": ("peer_restate.py", False),
    "ray-workflows": ("peer_ray_workflows.py", False),
}
WORKLOADS: dict[str, tuple[str, dict[str, float]]] = {
    "W1 one step": ("one_step", {"count": 100, "within_s": 4}),
    "W2 many runs": ("many_runs", {"count": 1_000, "in_flight": 128, "within_s": 5}),
    "W2 many runs, batched": ("many_runs_batched", {"count": 5_000}),
    "W3 chain of 200": ("chain", {"length": 200}),
    "W4 fan-out of 1,000": ("fan_out", {"width": 1_000}),
    "W5 64 MiB, 3 steps": ("payload", {"mib": 64}),
    "W6 event": ("event", {"count": 8}),
    "W9 one actor": ("one_actor", {"count": 300, "within_s": 4}),
    "W9 1,000 actors": ("many_actors", {"actors": 1_000, "count": 5_000, "in_flight": 64, "within_s": 5}),
    "W7 sleepers": ("sleepers", {"count": 10_000, "in_flight": 64, "within_s": 4}),
    "W7 sleepers, batched": ("sleepers_batched", {"count": 20_000}),
}
"""What the adapters are asked, with its sizes. Sleepers come last: they stay until the system is stopped."""
SLEEPERS = ("sleepers", "sleepers_batched")
"""What is measured of memory, too: first with systems that were just started, and have nothing to give back."""
ACTORS = ("one_actor", "many_actors")
"""What only systems with durable objects can do."""
RECOVERIES = {
    # runs, steps of each
    "W8 recovery, chain": (1, 200),
    "W8 recovery, 100 runs": (100, 10),
}
QUICK_SCALE = 5
SCALED = ("count", "actors", "length", "width", "within_s")
LIMIT_S = 60
RECOVERY_LIMIT_S = 120
CALM_CORES = 0.3
CALM_S = 3
LOOK_S = 0.25
POLL_S = 0.003


@dataclass
class Running:
    """A system at work. `pids` are those of its trees of processes; `rest` is what has to be ended with it."""

    column: Column
    process: PeerProcess
    pids: tuple[int, ...]
    rest: AsyncExitStack

    async def close(self, *, killed: bool = False) -> None:
        """`killed`: it does what nobody waits for any more, and would take long to end in good order."""
        if killed:
            await self.process.kill()
        await self.rest.aclose()


class Comparison:
    """A run: what was measured so far, and what has failed and is not tried again."""

    def __init__(self, columns: list[Column], folder: Path, *, quick: bool) -> None:
        self.columns = columns
        self.peers: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}
        self.cells: dict[str, dict[str, dict[str, Any]]] = {}
        self._folder = folder
        self._scale = QUICK_SCALE if quick else 1

    def results(self) -> dict[str, Any]:
        for cells in self.cells.values():
            for cell in cells.values():
                for values in cell.get("figures", {}).values():
                    rounds = values["rounds"]
                    values |= {"median": meters.median(rounds), "min": min(rounds), "max": max(rounds)}
        found = {"machine": _machine(), "peers": self.peers, "left_out": self.left_out, "cells": self.cells}
        return found | {"ratios": peers_report.ratios(found)}

    async def start(self, column: Column) -> Running | None:
        """The system with nothing stored; None, with a line about it, if it does not start."""
        began = time.perf_counter()
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        async with AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            database = await stack.enter_async_context(throw_away()) if column.on_postgresql else None
            process = PeerProcess(column, folder, database.url if database else "")
            stack.push_async_callback(process.close)
            try:
                self.peers[column.name] = await process.start()
            except (PeerError, OSError) as error:
                print(f"{column.name} is left out: {error}", file=sys.stderr, flush=True)
                self.left_out[column.name] = str(error)
                return None
            _say("started", column, "", time.perf_counter() - began)
            pids = (process.pid, database.pid) if database else (process.pid,)
            return Running(column, process, pids, stack.pop_all())
        raise AssertionError("nothing here keeps an error to itself")

    async def round(self, number: int, workloads: list[str]) -> None:
        """One repetition of each workload by each system, in turn."""
        turns = self.columns[number % len(self.columns) :] + self.columns[: number % len(self.columns)]
        systems: dict[Column, Running | None] = {}
        try:
            for column in turns:
                systems[column] = await self.start(column)
            for workload in workloads:
                for column in turns:
                    if systems[column] is None or self._is_done_with(workload, column):
                        continue
                    if WORKLOADS[workload][0] == SLEEPERS[0]:
                        await self._start_anew(systems, column)
                    system = systems[column]
                    if system is not None and not await self.measure(workload, system):
                        await self._start_anew(systems, column)
        finally:
            await asyncio.gather(*(system.close() for system in systems.values() if system is not None))
        # without those that never started
        self.columns = [column for column in self.columns if column.name in self.peers]

    async def _start_anew(self, systems: dict[Column, Running | None], column: Column) -> None:
        system, systems[column] = systems[column], None
        if system is not None:
            await system.close(killed=True)
        systems[column] = await self.start(column)

    def _is_done_with(self, workload: str, column: Column) -> bool:
        cell = self.cells.setdefault(workload, {}).setdefault(column.name, {})
        if workload in peers_report.ONE_BY_ONE and not self.peers[column.name]["has_batches"]:
            cell["absent"] = "one by one"
        if WORKLOADS[workload][0] in ACTORS and not self.peers[column.name]["has_actors"]:
            cell["absent"] = "no actors"
        return not cell.keys().isdisjoint(peers_report.WORDS)

    async def measure(self, workload: str, system: Running) -> bool:
        """Whether the system can be used further."""
        do, sizes = WORKLOADS[workload]
        sizes = {name: max(size // self._scale, 1) if name in SCALED else size for name, size in sizes.items()}
        await _calm()
        before = meters.proportional_bytes(*system.pids) if do in SLEEPERS else {}
        with meters.noise(*system.pids) as noise:
            answer = await _within(LIMIT_S, system.process.ask(do, **sizes))
        figures = answer.get("figures", {})
        if before and figures:
            await _calm()
            after = meters.proportional_bytes(*system.pids)
            # Of what there is now: a worker that has ended was no part of the sleepers.
            grown = sum(size - before.get(pid, 0) for pid, size in after.items())
            figures["bytes_each"] = max(grown, 0) / figures.pop("started")
        self._add(workload, system.column, answer, noise)
        return bool(figures)

    def _add(self, workload: str, column: Column, answer: dict[str, Any], noise: meters.Noise) -> None:
        _say(workload, column, answer.get("figures", answer), noise.seconds)
        cell = self.cells[workload].setdefault(column.name, {})
        for figure, value in answer.pop("figures", {}).items():
            cell.setdefault("figures", {}).setdefault(figure, {"rounds": []})["rounds"].append(value)
        cell |= answer
        cell["others"] = max(cell.get("others", 0.0), noise.others)
        cell["stolen"] = max(cell.get("stolen", 0.0), noise.stolen)
        cell.setdefault("flushes", []).append(noise.flushes)

    async def recover(self, workload: str, column: Column) -> None:
        """W8: from the kill of all its processes half way to the end of all runs."""
        self.cells.setdefault(workload, {})
        system = await self.start(column)
        if system is None:
            return
        answer: dict[str, Any] = {}
        try:
            with meters.noise() as noise:
                answer = await _within(RECOVERY_LIMIT_S, self._recovered(workload, system.process))
        finally:
            await system.close(killed="figures" not in answer)
        self._add(workload, column, answer, noise)

    async def _recovered(self, workload: str, process: PeerProcess) -> dict[str, Any]:
        runs, length = RECOVERIES[workload]
        lines = self._folder / uuid.uuid4().hex
        lines.touch()
        names = [uuid.uuid4().hex for _ in range(runs)]
        answer = await process.ask("begin", names=names, length=length, lines=str(lines))
        if "failed" in answer:
            return answer
        while (done := _count(lines)) < runs * length // 2:
            await asyncio.sleep(POLL_S)
        if done == runs * length:
            return {"failed": "all had ended before the last start was durable"}
        await process.kill()
        began = time.perf_counter()
        await process.start(again=True)
        up_s = time.perf_counter() - began
        answer = await process.ask("finish", names=names, length=length)
        seconds = time.perf_counter() - began
        if "failed" in answer:
            return answer
        again = _count(lines) - runs * length
        return {"figures": {"s": seconds, "after_up_s": seconds - up_s, "steps_again": again}}


async def _within(limit_s: float, answer: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """The answer, or what it failed of."""
    try:
        async with asyncio.timeout(limit_s):
            return await answer
    except TimeoutError:
        return {"late": f"over {limit_s} s"}
    except PeerError as error:
        return {"failed": str(error)}


async def _calm() -> None:
    """What the one before left to be done should not meet the next one: until the machine is calm, but not for long."""
    until = time.monotonic() + CALM_S
    psutil.cpu_percent()  # from here on
    while time.monotonic() < until:
        await asyncio.sleep(LOOK_S)
        if psutil.cpu_percent() / 100 * (os.cpu_count() or 1) < CALM_CORES:
            return


def _count(lines: Path) -> int:
    return lines.read_bytes().count(b"\n")


def _say(what: str, column: Column, found: object, seconds: float) -> None:
    print(f"{what}: {column.name}: {found} {seconds:.1f} s", file=sys.stderr, flush=True)


def _machine() -> dict[str, Any]:
    return {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}


def columns_of(pythons: dict[str, str], left_out: dict[str, str]) -> list[Column]:
    """What is compared; a peer that is not given is left out."""
    columns = []
    for peer, (script, on_postgresql) in SCRIPTS.items():
        if peer not in pythons:
            left_out[peer] = "not given"
            continue
        python = str(Path(pythons[peer]).absolute())  # and not what it is a link to: then it would have no packages
        columns.append(Column(peer, script, python))
        if on_postgresql:
            columns.append(Column(f"{peer}-postgresql", script, python, on_postgresql=True))
    return columns


def chosen(names: Iterable[str], only: set[str]) -> list[str]:
    """`only`: first words of workloads, or their whole names; empty: all."""
    return [name for name in names if not only or only & {name, name.split()[0]}]


async def measure_all(
    pythons: dict[str, str], only: set[str], rounds: int, folder: Path, *, quick: bool
) -> AsyncIterator[dict[str, Any]]:
    """The results so far after each round, and after each workload of recovery."""
    left_out: dict[str, str] = {}
    comparison = Comparison(columns_of(pythons, left_out), folder, quick=quick)
    comparison.left_out |= left_out
    for peer, why in left_out.items():
        print(f"{peer} is left out: {why}", file=sys.stderr)
    workloads = chosen(WORKLOADS, only)
    for number in range(rounds if workloads else 0):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        await comparison.round(number, workloads)
        yield comparison.results()
    for workload in chosen(RECOVERIES, only):
        for column in comparison.columns:
            await comparison.recover(workload, column)
        yield comparison.results()


async def measured(pythons: dict[str, str], only: set[str], rounds: int, output: Path | None, *, quick: bool) -> Any:
    """What was measured; kept in a file on the way, since a run takes long."""
    results: dict[str, Any] = {}
    # Not where temporary files are: that may be memory, and flushes would cost nothing.
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        async for results in measure_all(pythons, only, rounds, Path(folder), quick=quick):
            if output:
                output.write_text(json.dumps(results, indent=1) + "\n")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Perdure and other systems in turn, and the ratios")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help=", ".join(SCRIPTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="such as W1,W3")
    parser.add_argument("--quick", action="store_true", help="a fifth of the size")
    parser.add_argument("--markdown", action="store_true", help="print a table for a page")
    parser.add_argument("--results", type=Path, help="of `-o`, instead of measuring")
    parser.add_argument("-o", "--output", type=Path, help="a file for the results, as JSON")
    given = parser.parse_args()
    if given.results:
        results = json.loads(given.results.read_text())
    else:
        pythons = {"perdure": sys.executable} | dict(one.split("=", 1) for one in given.peer)
        if unknown := pythons.keys() - SCRIPTS:
            parser.error(f"there is no adapter for {', '.join(sorted(unknown))}")
        only = set(filter(None, given.only.split(",")))
        results = asyncio.run(measured(pythons, only, given.rounds, given.output, quick=given.quick))
    print((peers_report.markdown if given.markdown else peers_report.table)(results))


if __name__ == "__main__":
    main()
