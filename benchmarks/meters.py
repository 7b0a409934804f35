"""What is read while something is measured: time, memory, and how much the machine did besides."""

from __future__ import annotations

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
def noise() -> Iterator[Noise]:
    """Filled in when the context is left."""
    made = Noise()
    ours, busy, stolen, flushes = _ours(), _busy(), psutil.cpu_times().steal, _flushes()
    began = time.perf_counter()
    try:
        yield made
    finally:
        made.seconds = time.perf_counter() - began
        made.others = max(_busy() - busy - (_ours() - ours), 0.0) / made.seconds
        made.stolen = (psutil.cpu_times().steal - stolen) / made.seconds
        made.flushes = _flushes() - flushes


def _tree() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def _ours() -> float:
    """CPU seconds of this process and all below it, those that have ended included."""
    return _cpu_s(_tree())


def _cpu_s(processes: list[psutil.Process]) -> float:
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
    process = psutil.Process(pid)
    return _cpu_s([process, *process.children(recursive=True)])


def resident_bytes(*, of: int | None = None) -> int:
    """Memory in use: of one process, or of this one and all below it."""
    processes = _tree() if of is None else [psutil.Process(of)]
    size = 0
    for process in processes:
        try:
            size += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return size
