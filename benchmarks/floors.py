"""What the parts that Perdure stands on do by themselves, on the same machine in the same minutes.

`python floors.py echo|ray` are the other processes of two of the measurements.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.aio
import meters

Figures = dict[str, float]

UNARY = "/Floor/Unary"
STREAM = "/Floor/Stream"
MESSAGE = b"x" * 200
IN_FLIGHT = 128
ROUND_S = 1.0
MIB = 1 << 20


# ------------------------------------------------------------------------------ gRPC


async def _serve() -> None:
    async def unary(request: bytes, _context: Any) -> bytes:
        return request

    async def stream(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Floor", handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


@contextmanager
def _child(role: str) -> Iterator[str]:
    """The other process; gives its first line."""
    environment = os.environ | {"RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled")}
    command = [sys.executable, __file__, role]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().decode()
        finally:
            process.terminate()


async def unary_rpc() -> Figures:
    """A call and its answer over gRPC to another process: one at a time, and 128 in flight."""
    with _child("echo") as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{int(port)}") as channel:
            call: Any = channel.unary_unary(UNARY)  # type: ignore[call-arg]  # bytes as they are
            await _calls(call, 1, 0.2)
            alone = await _calls(call, 1, ROUND_S)
            many = await _calls(call, IN_FLIGHT, ROUND_S)
    return {"median_s": meters.median(alone), "per_s": len(many) / ROUND_S}


async def _calls(call: Callable[[bytes], Awaitable[bytes]], width: int, seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def lane() -> None:
        while (began := time.perf_counter()) < end:
            await call(MESSAGE)
            times.append(time.perf_counter() - began)

    await asyncio.gather(*(lane() for _ in range(width)))
    return times


async def stream_items() -> Figures:
    """Messages to another process and back on one stream, 128 on their way."""
    with _child("echo") as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{int(port)}") as channel:
            open_stream: Any = channel.stream_stream(STREAM)  # type: ignore[call-arg]
            stream = open_stream()
            for _ in range(IN_FLIGHT):
                await stream.write(MESSAGE)
            count, began = 0, time.perf_counter()
            while time.perf_counter() - began < ROUND_S:
                await stream.read()
                await stream.write(MESSAGE)
                count += 1
            seconds = time.perf_counter() - began
            stream.cancel()
    return {"per_s": count / seconds}


# ------------------------------------------------------------------------------ disk


async def commit() -> Figures:
    """A SQLite transaction of one row, synchronous=FULL: one flush each."""
    times: list[float] = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        sql = sqlite3.connect(Path(folder) / "floor.db", isolation_level=None)
        sql.execute("PRAGMA journal_mode=WAL")
        sql.execute("PRAGMA synchronous=FULL")
        sql.execute("CREATE TABLE steps (id INTEGER PRIMARY KEY, run TEXT, number INTEGER, output BLOB)")
        end = time.perf_counter() + ROUND_S
        while (began := time.perf_counter()) < end:
            sql.execute("BEGIN IMMEDIATE")
            sql.execute("INSERT INTO steps (run, number, output) VALUES (?, ?, ?)", ("run", len(times), MESSAGE))
            sql.execute("COMMIT")
            times.append(time.perf_counter() - began)
        sql.close()
    return {"median_s": meters.median(times), "per_s": len(times) / sum(times)}


async def postgres_commit(url: str) -> Figures:
    """A PostgreSQL transaction of one row, a prepared statement: one round trip and one flush each."""
    import asyncpg

    times: list[float] = []
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS floor (id serial PRIMARY KEY, number int, output bytea)")
        insert = await connection.prepare("INSERT INTO floor (number, output) VALUES ($1, $2)")
        end = time.perf_counter() + ROUND_S
        while (began := time.perf_counter()) < end:
            await insert.fetch(len(times), MESSAGE)
            times.append(time.perf_counter() - began)
        await connection.execute("DROP TABLE floor")
    finally:
        await connection.close()
    return {"median_s": meters.median(times), "per_s": len(times) / sum(times)}


async def file_write() -> Figures:
    """64 MiB written and flushed."""
    data = os.urandom(MIB) * 64
    with tempfile.NamedTemporaryFile(dir=Path.cwd()) as file:
        began = time.perf_counter()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return {"s": time.perf_counter() - began}


# ------------------------------------------------------------------------------ Ray


async def ray_task() -> Figures:
    """A Ray task that does nothing: one at a time, and 1,000 at once."""
    with _child("ray") as line:
        figures: Figures = json.loads(line)
        return figures


def _ray() -> None:
    import ray

    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

    @ray.remote
    def nothing() -> None:
        return None

    ray.get([nothing.remote() for _ in range(500)])
    times: list[float] = []
    for _ in range(300):
        began = time.perf_counter()
        ray.get(nothing.remote())
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    ray.get([nothing.remote() for _ in range(1_000)])
    seconds = time.perf_counter() - began
    print(json.dumps({"median_s": meters.median(times), "per_s": 1_000 / seconds}), flush=True)
    ray.shutdown()


Floors = dict[str, tuple[Callable[[], Awaitable[Figures]], int]]
COMMITS = {"sqlite": "SQLite commit", "postgresql": "Postgres commit"}
"""The floor of a commit, by storage."""


def floors(database: str = "") -> Floors:
    """Each with its rounds. One of Ray takes 300 round trips, and its start the longest. `database` is the URL of a
    PostgreSQL whose commits are measured in the place of SQLite's."""
    found: Floors = {"unary RPC": (unary_rpc, 5), "stream item": (stream_items, 5)}
    if database:
        found[COMMITS["postgresql"]] = (partial(postgres_commit, database), 5)
    else:
        found[COMMITS["sqlite"]] = (commit, 5)
    return found | {"64 MiB write": (file_write, 5), "Ray task": (ray_task, 1)}


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        try:
            import uvloop
        except ImportError:
            asyncio.run(_serve())
        else:
            uvloop.run(_serve())
    else:
        _ray()
