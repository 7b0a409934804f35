"""What a system has to offer to be measured beside others, and its talk with the runner.

An adapter is a script that the Python of its peer runs: `peer_x.py FOLDER [--database URL] [--again]`. It starts its
system, with its data in FOLDER, and says in a line of JSON that it is up; from then on each line of its input is a
request, and each line of its output the answer. When the input ends it stops what it started and ends, too. With
`--again` the data are those of an adapter that was killed. Knows no system, and not how figures are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import repetitions
from servers import Server

REQUEST_BYTES_MAX = 1 << 20
TEXT_MAX = 400


class Peer(ABC):
    """A system of workflows. Its client is this process; its servers and workers may be processes below it.

    Workflows are of these kinds, with such arguments:
    step                    one step that does nothing; gives 1
    chain    length, lines  so many steps in a row; gives their number. Each appends a line to the file, if one is named
    fan      width          steps 0 to width-1 side by side, each giving its number; gives the sum
    payload  mib            a step makes an array of so many MiB, one gives each element plus 1, one gives the last
    event                   waits for one event and gives its value
    sleep    seconds        sleeps, durably
    """

    packages: tuple[str, ...]
    """Whose versions are told."""
    durability: str
    """What is on the disk once a step has ended."""
    has_batches = False
    """Whether it can start many workflows in one call."""
    has_actors = False
    """Whether it has durable objects, whose calls change their state one at a time."""
    settle_s = 0.1
    """From the start of a workflow that waits for an event until it surely waits."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        self.database = database
        """URL of an empty PostgreSQL database (after a kill: of the one from before); empty: the default storage."""
        self._servers: list[Server] = []

    @abstractmethod
    async def up(self, *, again: bool) -> None:
        """Returns once workflows can be started and there is somebody to do their steps. Those from before a kill go on
        from here at the latest."""

    @abstractmethod
    async def start(self, kind: str, name: str, **arguments: Any) -> Any:
        """A handle, once the start is durable."""

    @abstractmethod
    async def output(self, handle: Any) -> Any: ...

    @abstractmethod
    async def send(self, name: str, value: str) -> None:
        """The event that a workflow of this name waits for."""

    @abstractmethod
    async def attach(self, name: str) -> Any:
        """The handle of a workflow that was started before a kill."""

    async def trouble(self, name: str) -> str:
        """What the system says of why this workflow does not get on, if it tries a step in vain and knows why."""
        return ""

    async def run(self, kind: str, **arguments: Any) -> Any:
        """Start it and wait for its output, the fastest way there is."""
        return await self.output(await self.start(kind, new_name(), **arguments))

    async def start_many(self, kind: str, names: Sequence[str], **arguments: Any) -> Any:
        """In as few calls as can be; handles for `outputs`. Only with batches."""
        raise NotImplementedError

    async def outputs(self, handles: Any) -> list[Any]:
        raise NotImplementedError

    async def increase(self, actor: str) -> int:
        """Call a method of the counter of this name, which adds one to its state and gives the sum. Returns once the
        new state is durable. The first call makes the counter. Only with actors."""
        raise NotImplementedError

    async def look(self, actor: str) -> int:
        """Call a method that reads the sum and changes nothing, beside all other calls. Only with actors."""
        raise NotImplementedError

    def launch(self, command: Sequence[str], name: str, **how: Any) -> Server:
        """A process that is stopped with this one, with a log of that name; the last one is stopped first."""
        self._servers.append(Server(command, self.folder / f"{name}.log", **how))
        return self._servers[-1]

    async def stop(self) -> None:
        """Ends all that would outlive this process, also after an `up` that failed half way."""
        for server in reversed(self._servers):
            await server.stop()

    def versions(self) -> dict[str, str]:
        return {package: importlib.metadata.version(package) for package in self.packages}


def new_name() -> str:
    return uuid.uuid4().hex


def append_line(lines: str | None) -> None:
    """What a step of a chain does, so that executions can be counted. One write, so that lines do not mix."""
    if lines:
        file = os.open(lines, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
        try:
            os.write(file, b"step\n")
        finally:
            os.close(file)


def serve(kind: type[Peer]) -> None:
    """The main function of an adapter."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--database", default="")
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    asyncio.run(_serve(kind(given.folder, given.database), answers, again=given.again))


async def _serve(peer: Peer, answers: TextIO, *, again: bool) -> None:
    code = 1
    try:
        await peer.up(again=again)
        if not again:
            await repetitions.warm_up(peer)
        about = {
            "versions": peer.versions(),
            "durability": peer.durability,
            "has_batches": peer.has_batches,
            "has_actors": peer.has_actors,
        }
        print(json.dumps(about), file=answers, flush=True)
        async for request in _requests():
            print(json.dumps(await _answer(peer, request)), file=answers, flush=True)
        code = 0
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        try:
            await peer.stop()
        finally:
            os._exit(code)  # threads of sleeping workflows would be waited for


async def _requests() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader(limit=REQUEST_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


async def _answer(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"figures": await repetitions.REPETITIONS[request["do"]](peer, **request["sizes"])}
    except repetitions.Refused as refused:
        return {"refused": str(refused)[:TEXT_MAX]}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:TEXT_MAX]}
