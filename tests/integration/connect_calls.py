"""Calls by the Connect protocol as any client makes them, and what comes back of them."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc.aio
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from integration.engine_settings import settings_on
from integration.wire_calls import DETAILS, Stubs
from perdure.service.app import RunningServer, running_server

RUNS = "WorkflowService"
PLAIN = {"Accept-Encoding": "identity"}
END = 2
"""The flag of the last envelope of a stream."""


@dataclass
class Answer:
    """Of one request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def refusal(self) -> tuple[int, str, str, dict[str, str]]:
        """The status, the code, the reason and the fields of an error."""
        info = self.json["details"][0]["debug"]
        assert info["domain"] == "perdure.v1"
        return self.status, self.json["code"], info["reason"], info.get("metadata", {})

    @property
    def wrong_field(self) -> str:
        """The field that makes the request invalid."""
        status, code, reason, fields = self.refusal
        assert (status, code, reason) == (400, "invalid_argument", "INVALID_FIELD"), self.body
        return fields["field"]


@dataclass
class Web:
    """A server with HTTP, and clients of it. Nothing that comes is decompressed."""

    server: RunningServer
    stubs: Stubs
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **given: Any) -> Answer:
        async with self.session.request(method, path, **given) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def post(
        self, method: str, body: object, kind: str = "application/json", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Bytes are sent as they are, anything else as JSON. `method` is "Service/Method"."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {"Content-Type": kind, **(headers or {})}
        return await self.ask("POST", f"/perdure.v1.{method}", data=io.BytesIO(data), headers=told)

    async def stream(
        self, method: str, body: object, form: str = "json", headers: Mapping[str, str] | None = None
    ) -> Streamed:
        """All of a stream that ends."""
        answer = await self.post(method, envelope(body), f"application/connect+{form}", headers)
        assert (answer.status, answer.headers["Content-Type"]) == (200, f"application/connect+{form}"), answer
        return Streamed(*envelopes(answer.body))


@dataclass
class Streamed:
    """The messages of a stream, and how it ended."""

    messages: list[bytes]
    end: dict[str, Any] = field(default_factory=dict)

    @property
    def refusal(self) -> tuple[str, str]:
        """The code and the reason of the error at the end."""
        return self.end["error"]["code"], self.end["error"]["details"][0]["debug"]["reason"]


def envelope(body: object, flags: int = 0) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return struct.pack(">BI", flags, len(data)) + data


def envelopes(body: bytes) -> tuple[list[bytes], dict[str, Any]]:
    """The messages in a body, and the end of the stream."""
    messages = []
    while body:
        flags, size = struct.unpack_from(">BI", body)
        data, body = body[5 : 5 + size], body[5 + size :]
        if flags == END:
            assert body == b"", "something comes after the end"
            return messages, json.loads(data)
        assert flags == 0
        messages.append(data)
    raise AssertionError("the stream has no end")


def details_of(error: Any) -> list[tuple[str, bytes]]:
    """The details of an error of Connect: type and bytes."""
    return [
        (detail["type"], base64.b64decode(detail["value"] + "=" * (-len(detail["value"]) % 4)))
        for detail in error["details"]
    ]


def details_over_grpc(error: grpc.aio.AioRpcError) -> list[tuple[str, bytes]]:
    """The same of an error of gRPC."""
    trailers: Any = error.trailing_metadata() or ()
    (data,) = [value for key, value in trailers if key == DETAILS]
    return [(detail.TypeName(), detail.value) for detail in Status.FromString(data).details]


def path_of(method: Any) -> str:
    """Of a descriptor, as `Web.post` takes it."""
    return f"{method.containing_service.name}/{method.name}"


def recorded(calls: list[Any], answer: Message) -> Callable[..., Awaitable[Message]]:
    """A call of `api` that only records its caller."""

    async def call(_self: Any, _request: Any, caller: Any) -> Message:
        calls.append((caller.left_s, caller.repeat))
        return answer

    return call


@asynccontextmanager
async def serving(http_listen: str = "127.0.0.1:0") -> AsyncIterator[Web]:
    async with (
        running_server(settings_on("memory:", http_listen=http_listen)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
        aiohttp.ClientSession(f"http://{server.http_address}", headers=PLAIN, auto_decompress=False) as session,
    ):
        yield Web(server, Stubs.on(channel), session)
