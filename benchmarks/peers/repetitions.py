"""One repetition of each workload, the same for every system; figures in seconds, or per second.

Time only: memory and what else the machine did are measured by the runner, from outside.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peer import Peer

Figures = dict[str, float]

SLEEP_S = 6 * 3600
ASK_S = 2


class Refused(Exception):
    """The system does not do this."""


async def abreast(count: int, in_flight: int, within_s: float, work: Callable[[], Awaitable[Any]]) -> tuple[int, float]:
    """Do it so many times, or as often as it can be begun in the time; gives how often, and the seconds."""
    left = iter(range(count))
    done = 0
    began = time.perf_counter()

    async def lane() -> None:
        nonlocal done
        for _ in left:
            if time.perf_counter() - began > within_s:
                return
            await work()
            done += 1

    await asyncio.gather(*(lane() for _ in range(in_flight)))
    return done, time.perf_counter() - began


async def warm_up(peer: Peer) -> None:
    """Workers are there, and have loaded what they need."""
    for _ in range(5):
        await peer.run("step")
    await peer.run("fan", width=20)


def latencies(times: list[float]) -> Figures:
    ordered = sorted(times)
    return {"median_s": statistics.median(ordered), "p99_s": ordered[-(-len(ordered) * 99 // 100) - 1]}


async def _times(count: int, within_s: float, work: Callable[[], Awaitable[Any]]) -> list[float]:
    """Do it so many times, or as often as there is time for, one after the other; gives the seconds of each."""
    times: list[float] = []
    until = time.perf_counter() + within_s
    while len(times) < count and time.perf_counter() < until:
        began = time.perf_counter()
        await work()
        times.append(time.perf_counter() - began)
    return times


async def one_step(peer: Peer, *, count: int, within_s: float) -> Figures:
    """W1: from the start of a workflow of one step to its output, one at a time."""
    return latencies(await _times(count, within_s, lambda: peer.run("step")))


async def many_runs(peer: Peer, *, count: int, in_flight: int, within_s: float) -> Figures:
    """W2: workflows of one step, many in flight."""
    done, seconds = await abreast(count, in_flight, within_s, lambda: peer.run("step"))
    return {"runs_per_s": done / seconds}


async def many_runs_batched(peer: Peer, *, count: int) -> Figures:
    """W2, started in batches: from the first start to the last output."""
    names = [uuid.uuid4().hex for _ in range(count)]
    began = time.perf_counter()
    assert await peer.outputs(await peer.start_many("step", names)) == [1] * count
    return {"runs_per_s": count / (time.perf_counter() - began)}


async def chain(peer: Peer, *, length: int) -> Figures:
    """W3: steps in a row."""
    began = time.perf_counter()
    assert await peer.run("chain", length=length, lines=None) == length
    return {"steps_per_s": length / (time.perf_counter() - began)}


async def fan_out(peer: Peer, *, width: int) -> Figures:
    """W4: steps side by side, and their sum."""
    began = time.perf_counter()
    assert await peer.run("fan", width=width) == width * (width - 1) // 2
    return {"steps_per_s": width / (time.perf_counter() - began)}


async def payload(peer: Peer, *, mib: int) -> Figures:
    """W5: a large value through three steps. A system may refuse it at once, or try in vain until it is asked why."""
    name = uuid.uuid4().hex
    began = time.perf_counter()
    try:
        running = asyncio.ensure_future(_output(peer, name, mib))
        while not running.done():
            await asyncio.wait([running], timeout=ASK_S)
            if not running.done() and (why := await peer.trouble(name)):
                running.cancel()
                raise Refused(why)
        last = running.result()
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"{type(error).__name__}: {error.__cause__ or error}") from error
    assert last == (mib << 20) // 8
    return {"s": time.perf_counter() - began}


async def _output(peer: Peer, name: str, mib: int) -> Any:
    return await peer.output(await peer.start("payload", name, mib=mib))


async def event(peer: Peer, *, count: int) -> Figures:
    """W6: from the sending of an event to the output of the workflow that waited for it."""
    times = []
    for _ in range(count):
        name = uuid.uuid4().hex
        handle = await peer.start("event", name)
        await asyncio.sleep(peer.settle_s)
        began = time.perf_counter()
        await peer.send(name, "went")
        assert await peer.output(handle) == "went"
        times.append(time.perf_counter() - began)
    return {"median_s": statistics.median(times), "max_s": max(times)}


async def sleepers(peer: Peer, *, count: int, in_flight: int, within_s: float) -> Figures:
    """W7: workflows that fall asleep for hours."""
    done, seconds = await abreast(
        count, in_flight, within_s, lambda: peer.start("sleep", uuid.uuid4().hex, seconds=SLEEP_S)
    )
    return {"starts_per_s": done / seconds, "started": done}


async def sleepers_batched(peer: Peer, *, count: int) -> Figures:
    """W7, started in batches."""
    began = time.perf_counter()
    await peer.start_many("sleep", [uuid.uuid4().hex for _ in range(count)], seconds=SLEEP_S)
    return {"starts_per_s": count / (time.perf_counter() - began), "started": count}


async def one_actor(peer: Peer, *, count: int, within_s: float) -> Figures:
    """W9: calls that change one actor, one at a time, and then calls that read it."""
    actor = uuid.uuid4().hex
    await peer.increase(actor)
    calls = await _times(count, within_s, lambda: peer.increase(actor))
    reads = await _times(count, within_s, lambda: peer.look(actor))
    assert await peer.look(actor) == len(calls) + 1
    figures = latencies(calls)
    return {
        "call_median_s": figures["median_s"],
        "call_p99_s": figures["p99_s"],
        "read_median_s": statistics.median(reads),
    }


async def many_actors(peer: Peer, *, actors: int, count: int, in_flight: int, within_s: float) -> Figures:
    """W9: calls that change actors, many in flight, each of another actor than those beside it. All actors were made,
    and called once, before."""
    mark = uuid.uuid4().hex
    names = itertools.cycle([f"{mark}-{number}" for number in range(actors)])
    await abreast(actors, in_flight, math.inf, lambda: peer.increase(next(names)))
    done, seconds = await abreast(count, in_flight, within_s, lambda: peer.increase(next(names)))
    return {"calls_per_s": done / seconds}


async def begin(peer: Peer, *, names: list[str], length: int, lines: str) -> Figures:
    """W8, until all is killed: chains whose executions can be counted."""
    await asyncio.gather(*(peer.start("chain", name, length=length, lines=lines) for name in names))
    return {}


async def finish(peer: Peer, *, names: list[str], length: int) -> Figures:
    """W8, after all was started again."""

    async def output(name: str) -> Any:
        return await peer.output(await peer.attach(name))

    assert await asyncio.gather(*map(output, names)) == [length] * len(names)
    return {}


REPETITIONS: dict[str, Callable[..., Awaitable[Figures]]] = {
    work.__name__: work
    for work in (
        one_step,
        many_runs,
        many_runs_batched,
        chain,
        fan_out,
        payload,
        event,
        sleepers,
        sleepers_batched,
        one_actor,
        many_actors,
        begin,
        finish,
    )
}
