"""Streams of answers by Connect: one message comes, and envelopes go.

The status of HTTP is always 200. The last envelope says how the stream ended. A client that hangs up cancels the
handler, which closes the iterator of the call.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from aiohttp import web
from google.protobuf.message import Message

from perdure.service.api.gate import Gate
from perdure.service.common import limits
from perdure.service.http import bodies, headers
from perdure.service.http.connect import envelopes, refusals
from perdure.service.http.connect.caller import HttpCaller, has_hung_up
from perdure.service.http.connect.codecs import CODECS, Codec
from perdure.service.http.connect.methods import Method
from perdure.service.http.connect.refusals import Refused

ENCODING: Final = "Connect-Content-Encoding"
TYPES: Final = {f"application/connect+{name}": codec for name, codec in CODECS.items()}


async def answer(method: Method, request: web.Request, gate: Gate) -> web.StreamResponse:
    """All of the answer. The content type of the request is one of `TYPES`."""
    response = web.StreamResponse(headers={"Content-Type": request.content_type, "Cache-Control": "no-store"})
    codec = TYPES[request.content_type]
    end: dict[str, Any] = {}
    try:
        caller = HttpCaller(request.headers)
        async with caller.deadline(), aclosing(_answers(method, request, codec, caller, gate)) as answers:
            async for message in answers:
                await _send(response, request, envelopes.enveloped(await codec.write(message)))
    except Exception as error:
        if isinstance(error, ConnectionError) and has_hung_up(request):
            return response
        end["error"] = refusals.told(error, method.path)
    await _send(response, request, envelopes.enveloped(json.dumps(end).encode(), envelopes.END))
    await response.write_eof()
    return response


def needs_grpc(method: Method, *, status: int | None = None) -> Refused:
    """The error of a method that takes a stream."""
    return Refused("unimplemented", f"{method.path} takes a stream of messages: call it over gRPC", status=status)


async def _answers(
    method: Method, request: web.Request, codec: Codec, caller: HttpCaller, gate: Gate
) -> AsyncGenerator[Message, None]:
    gate.check()
    if method.call is None:
        raise needs_grpc(method)
    body = await bodies.read(request, limits.MESSAGE_BYTES_MAX + envelopes.HEAD.size)
    encoding = envelopes.known_encoding(bodies.encoding_of(request, ENCODING))
    data = envelopes.only_message(body, encoding, limits.MESSAGE_BYTES_MAX)
    async with aclosing(method.call(await codec.read(data, method.request), caller)) as answers:
        async for message in answers:
            yield message


async def _send(response: web.StreamResponse, request: web.Request, data: bytes) -> None:
    if not response.prepared:
        headers.close_if_unread(request, response)
        await response.prepare(request)
    await response.write(data)
