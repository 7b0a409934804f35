# pyright: reportMissingImports=false
"""DBOS Transact, which is a library: engine, worker and client are this process. On SQLite, or on PostgreSQL."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from dbos import DBOS, SetWorkflowID
from peer import Peer, append_line, serve

TOPIC = "event"
WAIT_S = 600
LOOK_S = 0.02


@DBOS.step()
async def step(number: int, lines: str | None = None) -> int:
    append_line(lines)
    return number


@DBOS.step()
async def array(mib: int) -> Any:
    return np.arange((mib << 20) // 8, dtype=np.int64)


@DBOS.step()
async def increased(values: Any) -> Any:
    return values + 1


@DBOS.step()
async def last(values: Any) -> int:
    return int(values[-1])


@DBOS.workflow()
async def one_step() -> int:
    return await step(1)


@DBOS.workflow()
async def chain(length: int, lines: str | None) -> int:
    for number in range(length):
        await step(number, lines)
    return length


@DBOS.workflow()
async def fan(width: int) -> int:
    return sum(await asyncio.gather(*(step(number) for number in range(width))))


@DBOS.workflow()
async def payload(mib: int) -> int:
    return await last(await increased(await array(mib)))


@DBOS.workflow()
async def event() -> Any:
    return await DBOS.recv_async(TOPIC, timeout_seconds=WAIT_S)


@DBOS.workflow()
async def sleep(seconds: float) -> None:
    await DBOS.sleep_async(seconds)


KINDS = {"step": one_step, "chain": chain, "fan": fan, "payload": payload, "event": event, "sleep": sleep}


class Dbos(Peer):
    packages = ("dbos",)

    def __init__(self, folder: Path, database: str) -> None:
        super().__init__(folder, database)
        store = "PostgreSQL" if database else "SQLite, rollback journal, synchronous=FULL"
        self.durability = f"{store}: a commit a step, flushed"

    async def up(self, *, again: bool) -> None:
        config = {
            "name": "bench",
            "system_database_url": self.database or f"sqlite:///{self.folder}/dbos.sqlite",
            "application_version": "1",  # workflows of another version would not be recovered
            "executor_id": "local",
            "log_level": "ERROR",
        }
        DBOS(config=config)
        await asyncio.to_thread(DBOS.launch)

    async def start(self, kind: str, name: str, **arguments: Any) -> Any:
        with SetWorkflowID(name):
            return await DBOS.start_workflow_async(KINDS[kind], **arguments)

    async def output(self, handle: Any) -> Any:
        return await handle.get_result(polling_interval_sec=LOOK_S)

    async def send(self, name: str, value: str) -> None:
        await DBOS.send_async(name, value, TOPIC)

    async def attach(self, name: str) -> Any:
        return await DBOS.retrieve_workflow_async(name)


if __name__ == "__main__":
    serve(Dbos)
