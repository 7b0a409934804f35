"""Bytes on the port that are no request."""

from __future__ import annotations

import asyncio
import socket

import grpc
import grpc.aio
import pytest

from integration import wire_calls
from integration.wire_calls import Stubs, refused, stored
from perdure.service.app import RunningServer

Code = grpc.StatusCode
pytestmark = [pytest.mark.usefixtures("goes_on_serving"), pytest.mark.storages("sqlite")]
"""Requests that are refused before the storage is asked."""


async def test_bytes_that_are_no_message(stubs: Stubs) -> None:
    for method in ("Run", "GetStatus", "SendEvent"):
        call = stubs.raw.unary_unary(f"/perdure.v1.WorkflowService/{method}")
        refusal = await refused(call(b"\xff\xff\xff\xff"), Code.INVALID_ARGUMENT, "INVALID_FIELD")
        assert refusal.metadata == {"field": ""}
    watch = stubs.raw.unary_stream("/perdure.v1.WorkflowService/Watch")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in watch(b"\xff\xff\xff\xff"):
            pass
    assert wire_calls.refusal_of(caught.value).reason == "INVALID_FIELD"
    too_deep = b""
    for number in (*((1, 4) * 60), 2, 2, 1, 1, 4):  # from inside: lists of lists, args, task, nodes, spec, source
        too_deep = bytes([number << 3 | 2, *varint(len(too_deep))]) + too_deep
    call = stubs.raw.unary_unary("/perdure.v1.WorkflowService/Run")
    await refused(call(too_deep), Code.INVALID_ARGUMENT, "INVALID_FIELD")
    assert await stored(stubs) == []


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


async def test_a_method_that_is_not_there(stubs: Stubs) -> None:
    for method in ("/perdure.v1.WorkflowService/Fly", "/perdure.v2.WorkflowService/Run", "/nonsense"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.raw.unary_unary(method)(b"")
        assert caught.value.code() is Code.UNIMPLEMENTED


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the hello of TLS
        bytes(range(256)) * 256,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096,
        b"PRI * HTTP/2.0\r\n",
    ],
    ids=["http", "tls", "noise", "bad-frames", "half-a-hello"],
)
async def test_bytes_that_are_no_grpc(server: RunningServer, stubs: Stubs, data: bytes) -> None:
    host, _, port = server.address.rpartition(":")

    def throw() -> bool:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
            except OSError:  # it has hung up, as it should
                pass
        return True

    assert await asyncio.to_thread(throw)
    assert await stored(stubs) == []
