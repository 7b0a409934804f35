"""Everything that runs in the chaos, as processes of its own: engines, PostgreSQL, S3, agents, a Ray cluster."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import psutil

from faults.s3_proxy import Proxy, proxied
from fleet import Engine
from postgres import PostgresServer, running_postgres
from s3 import S3Server, running_s3
from services import Process, running

ENGINES: Final = 3
LEASE_S: Final = 3.0
FLAGS: Final = (
    *("--executor", "agents", "--lease-idle-s", "1", "--engine-lease-s", str(LEASE_S), "--drain-s", "5"),
    *("--blob-grace-s", "15", "--collect-s", "3"),
)
"""The engine looks for unused blobs all the time, and removes them as early as possible."""


class Agent(Process):
    """The agent of one engine."""

    def __init__(self, folder: Path, engine: Engine, ray_address: str) -> None:
        arguments = ("--address", engine.address, "--ray-address", ray_address)
        super().__init__("-m", "perdure.worker.agent", *arguments, log=folder / f"agent.{engine.name}.log")

    def up(self) -> None:
        since = self.said()
        self.start()
        self.wait_for("agent serves", since=since)


class RayCluster(Process):
    """Two nodes."""

    def __init__(self, folder: Path) -> None:
        self._output = folder / "cluster.log"
        super().__init__(str(Path(__file__).with_name("cluster.py")), log=self._output)

    def address(self) -> str:
        """Waits for it."""
        self.wait_for("cluster at ")
        found = re.search(r"cluster at (\S+)", self._output.read_text())
        assert found is not None
        return found[1]

    def leases(self) -> list[psutil.Process]:
        """Worker processes that serve as leases now."""
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            try:
                if "perdure.lease" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found


class World:
    """The parts and their places. Tasks write their lines to `traces`."""

    def __init__(self, folder: Path, server: PostgresServer, database: str, proxy: Proxy, s3: S3Server) -> None:
        self.folder = folder
        self.traces = folder / "traces"
        self.traces.mkdir()
        self.server = server
        self.database = database
        self.proxy = proxy
        self.s3 = s3
        self.engines: list[Engine] = []
        self.agents: list[Agent] = []
        self.cluster = RayCluster(folder)

    @property
    def address(self) -> str:
        """All engines, for clients that do not mind which."""
        return "ipv4:" + ",".join(engine.address for engine in self.engines)

    def logs(self) -> str:
        """The output of the engines."""
        return "".join(engine.log for engine in self.engines)


@asynccontextmanager
async def running_world(folder: Path) -> AsyncIterator[World]:
    """All of it serves when this is entered, and nothing is left when it is left."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(running_postgres())
        s3 = stack.enter_context(running_s3(folder))
        proxy = await stack.enter_async_context(proxied(s3.url))
        database = await stack.enter_async_context(server.database())
        world = World(folder, server, database, proxy, s3)
        stack.enter_context(running(world.cluster))
        world.cluster.start()
        ray_address = await asyncio.to_thread(world.cluster.address)
        blobs = s3.blobs_url().replace(s3.url, proxy.url)
        for number in range(ENGINES):
            engine = Engine(folder, f"engine-{number}", database, blobs, *FLAGS)
            world.engines.append(engine)
            stack.enter_context(running(engine))
            engine.start()
        for engine in world.engines:
            await asyncio.to_thread(engine.wait_for, " serves on ")
            agent = Agent(folder, engine, ray_address)
            world.agents.append(agent)
            stack.enter_context(running(agent))
            agent.start()
        for agent in world.agents:
            await asyncio.to_thread(agent.wait_for, "agent serves")
        yield world
