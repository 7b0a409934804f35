"""Runs the agent of the local cluster in a separate process."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import suppress
from typing import Final

from perdure.service.common.settings import Settings

log = logging.getLogger(__name__)

AGAIN_S: Final = 1.0
AGAIN_MAX_S: Final = 30.0
"""The pause before a restart doubles from AGAIN_S to this, and is reset once an agent ran for this long."""


class AgentProcess:
    """Starts the agent, and restarts it when it ends by itself.

    The agent's process ends with this one. The agent and its Ray outlive a life of the engine: the agent dials the next
    life by itself.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._address = ""
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    async def serve(self, address: str) -> None:
        """Have an agent dial the engine at this address. Returns before Ray is up, which takes seconds."""
        if self._settings.executor != "ray":
            return
        if self._process is not None and self._process.returncode is None and address == self._address:
            return
        await self.end()
        command = [sys.executable, "-m", "perdure.worker.agent", "--address", address]
        command += ["--with-parent", str(os.getpid()), "--log-level", self._settings.log_level]
        command += ["--log-format", self._settings.log_format]
        command += ["--ray-address", self._settings.ray_address, "--ray-cpus", str(self._settings.ray_cpus)]
        command += ["--ray-namespace", self._settings.ray_namespace, "--import", self._settings.imports]
        self._address = address
        self._process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
        self._watch = asyncio.create_task(self._start_again(self._process, command))

    async def _start_again(self, process: asyncio.subprocess.Process, command: list[str]) -> None:
        """Replace the process whenever it ends: Ray ends the processes of its drivers on some failures."""
        loop = asyncio.get_running_loop()
        pause_s = AGAIN_S
        while True:
            began_s = loop.time()
            code = await process.wait()
            pause_s = AGAIN_S if loop.time() - began_s > AGAIN_MAX_S else min(pause_s * 2, AGAIN_MAX_S)
            log.error("the agent ended; another one is started", extra={"exit_code": code, "after_s": pause_s})
            await asyncio.sleep(pause_s)
            process = self._process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)

    async def end(self) -> None:
        """End the agent, if one was started."""
        if self._watch is not None:
            self._watch.cancel()
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):  # it may have ended by itself, unnoticed
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), self._settings.drain_s + 10)
                except TimeoutError:
                    process.kill()
            await process.wait()
