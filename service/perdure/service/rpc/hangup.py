"""Closes a server's connections so that callers get UNAVAILABLE and not CANCELLED.

gRPC answers CANCELLED to calls that reach a stopped server. On a busy machine many do, because their client has not
yet read that the connection ends. So the server goes on refusing calls with DRAINING until the calls under way have
ended and no new ones come, for at most LINGER_S. Then it closes its side of each connection (TCP FIN) before gRPC is
stopped. Calls that are on their way at that moment are UNAVAILABLE to their clients.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import unquote

import grpc.aio

from perdure.service.api.gate import Gate

QUIET_S: Final = 0.02
"""After this time without a call, clients are taken to have gone elsewhere."""
LINGER_S: Final = 1.0
"""Clients that keep calling are refused for at most this long, once no call is under way."""
STEP_S: Final = 0.005
DESCRIPTORS: Final = "/dev/fd"


async def hang_up(server: grpc.aio.Server, gate: Gate, port: int, *, grace_s: float) -> None:
    """Stop a server whose gate refuses calls. Calls under way and streams of workers have `grace_s` to end."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    while loop.time() < began_s + grace_s:
        is_quiet = loop.time() - gate.moved_s >= QUIET_S or loop.time() >= began_s + LINGER_S
        if not gate.calls and is_quiet:
            break
        await asyncio.sleep(STEP_S)
    _close_sides(port, gate.workers)
    stopping = asyncio.ensure_future(server.stop(max(began_s + grace_s - loop.time(), 0)))
    try:
        await asyncio.sleep(0)  # nothing listens from here on
        _close_sides(port, gate.workers)  # connections that came in between
    finally:
        await stopping


def _close_sides(port: int, kept: Collection[str]) -> None:
    """Close this process's side of all connections to its port, except those of the peers in `kept`."""
    peers = {_endpoint(peer) for peer in kept}
    for connection in _connections(port):
        with connection, suppress(OSError):
            host, number = connection.getpeername()[:2]
            if (host, number) not in peers:
                connection.shutdown(socket.SHUT_WR)


def _connections(port: int) -> Iterator[socket.socket]:
    """Duplicates of this process's sockets that are connected through the port. gRPC does not expose its sockets."""
    for name in os.listdir(DESCRIPTORS):
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            connection = socket.socket(fileno=os.dup(int(name)))
            is_ours = False
            try:
                is_inet = connection.family in (socket.AF_INET, socket.AF_INET6)
                is_ours = is_inet and connection.getsockname()[1] == port
            finally:
                if not is_ours:
                    connection.close()
            if is_ours:
                yield connection


def _endpoint(peer: str) -> tuple[str, int]:
    """Host and port of a peer as gRPC names it: ipv4:127.0.0.1:5000, ipv6:%5B::1%5D:5000."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return host.strip("[]"), int(port) if port.isdecimal() else 0
