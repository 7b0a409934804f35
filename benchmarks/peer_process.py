"""A peer as the runner sees it: an adapter's process, asked in lines of JSON, that can be killed with all below it.

`peers/peer.py` is the other side of the talk. What is asked, and what becomes of the answers, is the runner's.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
START_S = 120
STOP_S = 90
ANSWER_BYTES_MAX = 1 << 20


class PeerError(Exception):
    """The adapter did not start, or ended."""


@dataclass(frozen=True)
class Column:
    """A system on a storage, as one column of the comparison."""

    name: str
    script: str
    python: str
    on_postgresql: bool = False


class PeerProcess:
    """One start of a peer, with its data in `folder`. `database` is the URL of an empty PostgreSQL database, or empty
    where the peer keeps its data in its folder."""

    def __init__(self, column: Column, folder: Path, database: str = "") -> None:
        self._command = [column.python, str(HERE / "peers" / column.script), str(folder), "--database", database]
        self._folder = folder
        self._log = folder / "adapter.log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, *, again: bool = False) -> dict[str, Any]:
        """Returns what the adapter tells of its system once that is up. `again`: after a kill. Raises PeerError."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "RAY_"))}
        paths = os.pathsep.join([str(HERE / "peers"), str(HERE)])
        self._folder.mkdir(exist_ok=True)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *(["--again"] if again else []),
                env={**kept, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0"},
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                limit=ANSWER_BYTES_MAX,
            )
        try:
            async with asyncio.timeout(START_S):
                return await self._answer()
        except TimeoutError as error:
            raise PeerError(f"not up after {START_S} s") from error

    async def ask(self, do: str, **sizes: Any) -> dict[str, Any]:
        """What it answers. Raises PeerError if it ends instead. Canceled, kill it: the answer may come yet."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, "sizes": sizes}).encode() + b"\n")
            await self._process.stdin.drain()
        except ConnectionError as error:
            raise PeerError(self._last_words()) from error
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise PeerError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace").strip().rpartition("\n")[2] or "it ended and said nothing"

    async def close(self) -> None:
        """The adapter stops what it started, and ends; what is left after a while is killed."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        processes = self._tree()
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            pass
        await self._end(processes)

    async def kill(self) -> None:
        """SIGKILL to the adapter, which is its client, and to all servers and workers, each by its id."""
        await self._end(self._tree())

    def _tree(self) -> list[psutil.Process]:
        try:
            adapter = psutil.Process(self.pid)
            return [adapter, *adapter.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    async def _end(self, processes: list[psutil.Process]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        await self._process.wait()
        await asyncio.to_thread(psutil.wait_procs, [one for one in processes if one.pid != self.pid], STOP_S)
