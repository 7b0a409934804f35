"""Servers and workers of a peer: processes below the adapter, on 127.0.0.1, with their logs in its folder."""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

START_S = 60
STOP_S = 15
LOOK_S = 0.02
PR_SET_PDEATHSIG = 1


def kept_ports(folder: Path, count: int) -> list[int]:
    """Free ports; the same ones after a kill, since what is stored may name them."""
    file = folder / "ports.json"
    if not file.exists():
        with ExitStack() as probes:
            sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
            for probe in sockets:
                probe.bind(("127.0.0.1", 0))
            file.write_text(json.dumps([probe.getsockname()[1] for probe in sockets]))
    ports: list[int] = json.loads(file.read_text())
    return ports


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Server:
    """A process that is ready some time after its start, and does not outlive the adapter, however that ends."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._log = log
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                preexec_fn=_end_with_parent,
            )

    async def ready(self, is_ready: Callable[[], Awaitable[bool]]) -> None:
        """Asks until it is, and takes any error for a no. Raises RuntimeError if the process ends or takes too long."""
        why: object = "it ended"
        try:
            async with asyncio.timeout(START_S):
                while self._process.poll() is None:
                    try:
                        if await is_ready():
                            return
                    except Exception as error:
                        why = error
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            pass
        said = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise RuntimeError(f"the server did not start ({why!r}): {said}")

    async def says(self, text: str) -> bool:
        return text in self._log.read_text(errors="replace")

    async def stop(self) -> None:
        """SIGTERM; SIGKILL if that takes too long."""
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


async def listens(port: int) -> bool:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()
    return True
