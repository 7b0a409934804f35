# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Perdure: `perdure serve` with a Ray of its own, and the asynchronous client. On SQLite, or on PostgreSQL with large
values in files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import steps
from peer import Peer, new_name, serve
from service import Service

import perdure

PATIENCE_S = 120
LOOK_S = 0.02


def graph(kind: str, **arguments: Any) -> Any:
    match kind:
        case "step":
            return steps.step.bind(0)
        case "chain":
            return steps.chain(arguments["length"], arguments["lines"] or "")
        case "fan":
            return steps.fan_out(arguments["width"])
        case "payload":
            return steps.payload(arguments["mib"])
        case "event":
            return perdure.event("event")
        case "sleep":
            return perdure.sleep(arguments["seconds"])
        case _:
            raise ValueError(kind)


class Perdure(Peer):
    packages = ("perdure", "ray", "grpcio")
    has_batches = True
    has_actors = True

    def __init__(self, folder: Path, database: str) -> None:
        super().__init__(folder, database)
        store = "PostgreSQL" if database else "SQLite in WAL mode, synchronous=FULL"
        self.durability = f"{store}: a commit for what comes together, flushed; at least one a step of a chain"

    async def up(self, *, again: bool) -> None:
        flags = ["--storage", self.database or str(self.folder / "storage"), "--with-parent", str(os.getpid())]
        if self.database:
            flags += ["--blobs", str(self.folder / "blobs")]
        self._service = Service(self.folder, *flags)
        self._service.start()  # on this thread: the service ends with the one that started it
        self._client = perdure.Client(self._service.address, patience=PATIENCE_S)
        while not (await self._client.info()).python_versions:  # of workers: there is an agent, and so a Ray
            await asyncio.sleep(LOOK_S)

    async def stop(self) -> None:
        await asyncio.to_thread(self._service.stop)

    async def run(self, kind: str, **arguments: Any) -> Any:
        return await self._client.run(graph(kind, **arguments), workflow_id=new_name())

    async def start(self, kind: str, name: str, **arguments: Any) -> Any:
        return await self._client.start(graph(kind, **arguments), workflow_id=name)

    async def output(self, handle: Any) -> Any:
        return await handle.output()

    async def start_many(self, kind: str, names: Sequence[str], **arguments: Any) -> Any:
        shared = graph(kind, **arguments)
        return await self._client.start_many([perdure.RunItem(shared, workflow_id=name) for name in names])

    async def outputs(self, handles: Any) -> list[Any]:
        return await self._client.outputs(handles)

    async def send(self, name: str, value: str) -> None:
        await self._client.send_event(name, "event", value)

    async def increase(self, actor: str) -> int:
        return await self._client.actor(steps.Counter, actor).incr()

    async def look(self, actor: str) -> int:
        return await self._client.actor(steps.Counter, actor).value()

    async def attach(self, name: str) -> Any:
        return self._client.handle(name)


if __name__ == "__main__":
    serve(Perdure)
