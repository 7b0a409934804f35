"""Injects random faults into the parts, one at a time, and records what happened."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import psutil

from chaos.world import LEASE_S, World
from patience import PATIENCE_S

LOOK_S: Final = 0.05
LONG_S: Final = 2 * LEASE_S
"""Longer than the lease of an engine."""


@dataclass
class Fault:
    """A fault that was injected. `began_ms` and `ended_ms` are by the clock of this machine; `in_flight` are the
    runs that were acknowledged and had not ended when it began."""

    name: str
    began_ms: int
    ended_ms: int = 0
    in_flight: frozenset[str] = field(default_factory=frozenset)


Inject = Callable[[World, random.Random], Awaitable[None]]


async def kill_engine(world: World, dice: random.Random) -> None:
    engine = dice.choice(world.engines)
    engine.kill()
    await asyncio.sleep(dice.choice((0.0, LEASE_S + 1)))
    engine.start()


async def stop_engine(world: World, dice: random.Random) -> None:
    engine = dice.choice(world.engines)
    engine.pause()
    try:
        await asyncio.sleep(dice.choice((0.5, LEASE_S, LONG_S)))
    finally:
        engine.go_on()


async def end_engine(world: World, dice: random.Random) -> None:
    engine = dice.choice(world.engines)
    await asyncio.to_thread(engine.stop)
    engine.start()


async def kill_lease(world: World, dice: random.Random) -> None:
    leases = world.cluster.leases()
    if leases:
        dice.choice(leases).kill()


async def stop_lease(world: World, dice: random.Random) -> None:
    leases = world.cluster.leases()
    if not leases:
        return
    lease = dice.choice(leases)
    try:
        lease.suspend()
        await asyncio.sleep(dice.choice((0.5, LONG_S)))
        lease.resume()
    except psutil.NoSuchProcess:
        return


async def kill_agent(world: World, dice: random.Random) -> None:
    agent = dice.choice(world.agents)
    agent.kill()
    await asyncio.sleep(dice.choice((0.0, 2.0)))
    agent.start()


async def stop_agent(world: World, dice: random.Random) -> None:
    agent = dice.choice(world.agents)
    agent.pause()
    try:
        await asyncio.sleep(dice.choice((1.0, LONG_S)))
    finally:
        agent.go_on()


async def kill_node(world: World, dice: random.Random) -> None:
    since = world.cluster.said()
    psutil.Process(world.cluster.pid).send_signal(signal.SIGUSR1)
    await asyncio.to_thread(world.cluster.wait_for, "another node", since=since)


async def engines_opened(world: World) -> None:
    """Until engines that were just started have opened the database. One that cannot tells of a wrong URL, and ends."""
    async with asyncio.timeout(PATIENCE_S):
        for engine in world.engines:
            host, _, port = engine.address.rpartition(":")
            while True:
                try:
                    _, writer = await asyncio.open_connection(host, int(port))
                    writer.close()
                    break
                except OSError:
                    await asyncio.sleep(LOOK_S)


async def kill_postgres(world: World, dice: random.Random) -> None:
    await engines_opened(world)
    world.server.kill()
    await asyncio.sleep(dice.choice((0.0, LONG_S)))
    world.server.start()  # in this thread: it ends with the one that started it


async def restart_postgres(world: World, dice: random.Random) -> None:
    await engines_opened(world)
    world.server.stop(signal.SIGQUIT)
    await asyncio.sleep(dice.choice((0.0, LONG_S)))
    world.server.start()


async def stop_postgres(world: World, dice: random.Random) -> None:
    with world.server.paused():
        await asyncio.sleep(dice.choice((1.0, LONG_S)))


async def stop_s3(world: World, dice: random.Random) -> None:
    world.s3.pause()
    try:
        await asyncio.sleep(dice.choice((1.0, LONG_S)))
    finally:
        world.s3.go_on()


async def refuse_s3(world: World, dice: random.Random) -> None:
    world.proxy.fail(dice.choice(("503 SlowDown", "500 InternalError")))
    await asyncio.sleep(dice.choice((1.0, LONG_S)))
    world.proxy.heal()


async def drop_s3(world: World, dice: random.Random) -> None:
    world.proxy.fail(dice.choice(("drop", "cut")))
    await asyncio.sleep(dice.choice((1.0, LONG_S)))
    world.proxy.heal()


FAULTS: Final[dict[str, Inject]] = {
    "engine: SIGKILL, started again": kill_engine,
    "engine: SIGSTOP, SIGCONT": stop_engine,
    "engine: SIGTERM, started again": end_engine,
    "lease (worker process): SIGKILL": kill_lease,
    "lease (worker process): SIGSTOP, SIGCONT": stop_lease,
    "agent: SIGKILL, started again": kill_agent,
    "agent: SIGSTOP, SIGCONT": stop_agent,
    "Ray node: killed, another one added": kill_node,
    "PostgreSQL: SIGKILL, started again": kill_postgres,
    "PostgreSQL: immediate restart": restart_postgres,
    "PostgreSQL: SIGSTOP, SIGCONT": stop_postgres,
    "S3: SIGSTOP, SIGCONT": stop_s3,
    "S3: answers 500 or 503": refuse_s3,
    "S3: drops connections": drop_s3,
}


def deck(dice: random.Random) -> list[str]:
    """All of them in some order, so that a short time sees each before any comes twice."""
    names = list(FAULTS)
    dice.shuffle(names)
    return names
