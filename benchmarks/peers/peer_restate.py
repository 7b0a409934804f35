# pyright: reportMissingImports=false
"""Restate: a single server, a service endpoint under hypercorn (`app`), and HTTP calls to the server's ingress.

The server is the program RESTATE_SERVER, one on the path, or that of an npm package in the folder of this Python.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import restate
from peer import Peer, append_line, new_name, serve
from restate.serde import BytesSerde
from servers import kept_ports, listens

FROM_NPM = "node_modules/@restatedev/restate-server-*/bin/restate-server"

bench = restate.Workflow("Bench")
RAW = restate.RunOptions(serde=BytesSerde())


def step(number: int, lines: str | None = None) -> int:
    append_line(lines)
    return number


def array(mib: int) -> bytes:
    return np.arange((mib << 20) // 8, dtype=np.int64).tobytes()


def increased(values: bytes) -> bytes:
    return (np.frombuffer(values, dtype=np.int64) + 1).tobytes()


def last(values: bytes) -> int:
    return int(np.frombuffer(values, dtype=np.int64)[-1])


async def one_step(context: restate.WorkflowContext) -> Any:
    return await context.run_typed("step", step, number=1)


async def chain(context: restate.WorkflowContext, length: int, lines: str | None) -> int:
    for number in range(length):
        await context.run_typed("step", step, number=number, lines=lines)
    return length


async def fan(context: restate.WorkflowContext, width: int) -> int:
    numbers = [context.run_typed("step", step, number=number) for number in range(width)]
    await restate.gather(*numbers)
    return sum([await number for number in numbers])


async def payload(context: restate.WorkflowContext, mib: int) -> Any:
    made = await context.run_typed("array", array, RAW, mib=mib)
    more = await context.run_typed("increased", increased, RAW, values=made)
    return await context.run_typed("last", last, values=more)


async def event(context: restate.WorkflowContext) -> Any:
    return await context.promise("event").value()


async def sleep(context: restate.WorkflowContext, seconds: float) -> None:
    await context.sleep(timedelta(seconds=seconds))


KINDS: dict[str, Callable[..., Awaitable[Any]]] = {
    "step": one_step,
    "chain": chain,
    "fan": fan,
    "payload": payload,
    "event": event,
    "sleep": sleep,
}


@bench.main()
async def run(context: restate.WorkflowContext, request: dict) -> Any:  # type: ignore[type-arg]
    return await KINDS[request["kind"]](context, **request["arguments"])


@bench.handler()
async def send_event(context: restate.WorkflowSharedContext, value: str) -> None:
    await context.promise("event").resolve(value)


counter = restate.VirtualObject("Counter")


@counter.handler()
async def increase(context: restate.ObjectContext) -> int:
    count = (await context.get("count", type_hint=int) or 0) + 1
    context.set("count", count)
    return count


@counter.handler(kind="shared")
async def look(context: restate.ObjectSharedContext) -> int:
    return await context.get("count", type_hint=int) or 0


app = restate.app([bench, counter])


def program() -> str:
    named = os.environ.get("RESTATE_SERVER") or shutil.which("restate-server")
    found = named or next(map(str, Path(sys.prefix).glob(FROM_NPM)), None)
    if found is None:
        raise RuntimeError("there is no restate-server: set RESTATE_SERVER")
    return found


class Restate(Peer):
    packages = ("restate-sdk", "Hypercorn")
    has_actors = True
    durability = "one server, RocksDB: its log is flushed, once for what comes together; some two flushes a step"

    async def up(self, *, again: bool) -> None:
        ingress, admin, node, endpoint = kept_ports(self.folder, 4)
        self._ingress, self._admin = f"http://127.0.0.1:{ingress}", f"http://127.0.0.1:{admin}"
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
        addresses = {
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
            "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{node}",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RUST_LOG": "warn",
        }
        command = [program(), "--base-dir", str(self.folder / "data"), "--node-name", "bench", "--no-logo"]
        server = self.launch(command, "server", environment={**os.environ, **addresses})
        command = [sys.executable, "-m", "hypercorn", "--bind", f"127.0.0.1:{endpoint}", "--workers", "1"]
        worker = self.launch([*command, "peer_restate:app"], "worker", cwd=Path(__file__).parent)
        await worker.ready(lambda: listens(endpoint))
        await server.ready(self._is_healthy)
        if not again:
            uri = {"uri": f"http://127.0.0.1:{endpoint}"}
            async with self._http.post(f"{self._admin}/deployments", json=uri) as answer:
                answer.raise_for_status()

    async def _is_healthy(self) -> bool:
        for address in (f"{self._ingress}/restate/health", f"{self._admin}/health"):
            async with self._http.get(address) as answer:
                answer.raise_for_status()
        return True

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        untyped = ["Content-Type"] if body is None else []  # Restate refuses a type without a body
        url = f"{self._ingress}/{path}"
        async with self._http.request(method, url, json=body, skip_auto_headers=untyped) as answer:
            if not answer.ok:
                raise RuntimeError(f"{answer.status}: {await answer.text()}")
            return await answer.json(content_type=None)

    async def run(self, kind: str, **arguments: Any) -> Any:
        return await self._call("POST", f"Bench/{new_name()}/run", {"kind": kind, "arguments": arguments})

    async def start(self, kind: str, name: str, **arguments: Any) -> Any:
        await self._call("POST", f"Bench/{name}/run/send", {"kind": kind, "arguments": arguments})
        return name

    async def output(self, handle: Any) -> Any:
        return await self._call("GET", f"restate/workflow/Bench/{handle}/attach")

    async def send(self, name: str, value: str) -> None:
        await self._call("POST", f"Bench/{name}/send_event", value)

    async def attach(self, name: str) -> Any:
        return name

    async def increase(self, actor: str) -> int:
        return int(await self._call("POST", f"Counter/{actor}/increase"))

    async def look(self, actor: str) -> int:
        return int(await self._call("POST", f"Counter/{actor}/look"))

    async def trouble(self, name: str) -> str:
        query = f"SELECT last_failure FROM sys_invocation WHERE target_service_key = '{name}'"
        headers = {"accept": "application/json"}
        async with self._http.post(f"{self._admin}/query", json={"query": query}, headers=headers) as answer:
            answer.raise_for_status()
            return "; ".join(row["last_failure"] for row in (await answer.json())["rows"] if row.get("last_failure"))


if __name__ == "__main__":
    serve(Restate)
