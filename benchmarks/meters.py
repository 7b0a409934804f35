"""What is read while something is measured: time, memory, and how much the machine did besides."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

MIB = 1 << 20


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank) - 1, 0)]


@dataclass
class Noise:
    """Cores that others used meanwhile, cores that the host did not give, and flushes that reached a disk."""

    seconds: float = 0.0
    others: float = 0.0
    stolen: float = 0.0
    flushes: int = 0


@contextmanager
def noise(*of: int) -> Iterator[Noise]:
    """Filled in when the context is left. Others are all but these processes and those below them; without any: all
    but this one and those below."""
    made = Noise()
    ours, busy, stolen, flushes = _cpu_s(_trees(of)), _busy(), psutil.cpu_times().steal, _flushes()
    began = time.perf_counter()
    try:
        yield made
    finally:
        made.seconds = time.perf_counter() - began
        made.others = max(_busy() - busy - (_cpu_s(_trees(of)) - ours), 0.0) / made.seconds
        made.stolen = (psutil.cpu_times().steal - stolen) / made.seconds
        made.flushes = _flushes() - flushes


def _trees(of: Sequence[int] = ()) -> list[psutil.Process]:
    found = []
    for pid in of or [os.getpid()]:
        try:
            root = psutil.Process(pid)
            found += [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def _cpu_s(processes: list[psutil.Process]) -> float:
    """Of all that they ever used; those below them that have ended included."""
    seconds = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def _busy() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _flushes() -> int:
    """Cache flushes that reached a disk since the start of the machine; 0 where nobody counts them."""
    count = 0
    try:
        with open("/proc/diskstats") as lines:
            for line in lines:
                words = line.split()
                if len(words) >= 20 and Path("/sys/block", words[2]).exists():  # not a part of one
                    count += int(words[18])
    except OSError:
        return 0
    return count


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, all its threads together."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and all below it, those that have ended included."""
    return _cpu_s(_trees([pid]))


def resident_bytes(*, of: int | None = None) -> int:
    """Memory in use: of one process, or of this one and all below it."""
    processes = _trees() if of is None else [psutil.Process(of)]
    size = 0
    for process in processes:
        try:
            size += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return size


def proportional_bytes(*of: int) -> dict[int, int]:
    """Memory in use, by process, of these and all below them; what several share is divided among them."""
    sizes = {}
    for process in _trees(of):
        try:
            sizes[process.pid] = process.memory_full_info().pss
        except psutil.Error:
            continue
    return sizes
