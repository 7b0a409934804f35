"""Calls by Connect: one request, one answer, by POST or, of methods without side effects, by GET.

Whatever is wrong with a request is answered in Connect's form of errors, so every client can tell what it was.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from aiohttp import web

from perdure.service.api import requests
from perdure.service.api.gate import ALWAYS, Gate
from perdure.service.common import limits
from perdure.service.http import bodies, headers
from perdure.service.http.connect import envelopes, refusals, streams
from perdure.service.http.connect.caller import HttpCaller, has_hung_up
from perdure.service.http.connect.codecs import CODECS, at_once_or_aside
from perdure.service.http.connect.methods import Method
from perdure.service.http.connect.refusals import Refused

VERSION: Final = "Connect-Protocol-Version"
TYPES: Final = {f"application/{name}": name for name in CODECS}
PACKED_BYTES_MIN: Final = 1024
"""Smaller answers are not compressed: that would gain nothing."""
PACK_LEVEL: Final = 1


class ConnectFace:
    """Its method is the handler of all paths of the API."""

    def __init__(self, methods: Mapping[str, Method], gate: Gate) -> None:
        self._methods = methods
        self._gate = gate

    async def answer(self, request: web.Request) -> web.StreamResponse:
        try:
            method = self._method(request)
            if method.is_streaming:
                return await streams.answer(method, request, self._gate)
            caller = HttpCaller(request.headers)
            async with caller.deadline():
                return await self._call(method, request, caller)
        except Exception as error:
            if isinstance(error, ConnectionError) and has_hung_up(request):
                raise
            return refusals.answer(error, request.path)

    def _method(self, request: web.Request) -> Method:
        """The method, if it can be called with such a request."""
        method = self._methods.get(request.path)
        if method is None:
            raise Refused("unimplemented", f"there is no method {request.path}", status=404)
        if request.method not in method.verbs:
            text = f"{method.path} is called by {' or '.join(method.verbs)}"
            raise Refused("unimplemented", text, status=405, headers={"Allow": ", ".join(method.verbs)})
        types = streams.TYPES if method.is_streaming else TYPES
        is_known = request.method == "GET" or (request.content_type in types and _is_utf8(request))
        if method.call is None and (method.gives_stream or not is_known):
            raise streams.needs_grpc(method, status=505 if method.gives_stream else 415)
        if not is_known:
            known = ", ".join(types)
            text = f"the Content-Type of {method.path} is one of {known}"
            raise Refused("unknown", text, status=415, headers={"Accept-Post": known})
        if request.headers.get(VERSION, "1") != "1":
            raise requests.invalid(VERSION, "must be 1")
        return method

    async def _call(self, method: Method, request: web.Request, caller: HttpCaller) -> web.Response:
        assert method.call is not None
        if method.path != ALWAYS:
            self._gate.check()
        form, data = _queried(request) if request.method == "GET" else await _posted(request)
        codec = CODECS[form]
        answer = await method.call(await codec.read(data, method.request), caller)
        return await _response(request, form, await codec.write(answer))


def _is_utf8(request: web.Request) -> bool:
    return (request.charset or "utf-8").lower() in ("utf-8", "utf8")


async def _posted(request: web.Request) -> tuple[str, bytes]:
    """The form of the message in the body, and the message."""
    encoding = envelopes.known_encoding(bodies.encoding_of(request))
    body = await bodies.read(request, limits.MESSAGE_BYTES_MAX)
    return TYPES[request.content_type], bodies.decompressed(body, encoding, limits.MESSAGE_BYTES_MAX)


def _queried(request: web.Request) -> tuple[str, bytes]:
    """The same of a query."""
    query = _query(request)
    form = query.get("encoding", b"").decode("latin-1")
    if form not in CODECS:
        raise requests.invalid("encoding", "is json or proto")
    if "message" not in query:
        raise requests.invalid("message", "is required")
    if query.get("connect", b"v1") != b"v1":
        raise requests.invalid("connect", "must be v1")
    message = query["message"]
    if query.get("base64") == b"1":
        message = _from_base64(message)
    encoding = envelopes.known_encoding(query.get("compression", b"identity").decode("latin-1"))
    return form, bodies.decompressed(message, encoding, limits.MESSAGE_BYTES_MAX)


def _query(request: web.Request) -> dict[str, bytes]:
    """The parameters as they were sent: a message may be any bytes."""
    raw = request.rel_url.raw_query_string.encode("utf-8", "surrogateescape")
    pairs = (part.partition(b"=") for part in raw.split(b"&"))
    return {name.decode("latin-1"): unquote_to_bytes(value.replace(b"+", b" ")) for name, _, value in pairs}


def _from_base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text.rstrip(b"=") + b"=" * (-len(text.rstrip(b"=")) % 4), b"-_", validate=True)
    except ValueError as error:
        raise requests.invalid("message", "is not base64") from error


async def _response(request: web.Request, form: str, body: bytes) -> web.Response:
    about = {"Content-Type": f"application/{form}", "Cache-Control": "no-store"}
    if len(body) >= PACKED_BYTES_MIN and headers.accepts_gzip(request):
        about["Content-Encoding"] = "gzip"
        body = await at_once_or_aside(len(body), lambda: gzip.compress(body, PACK_LEVEL, mtime=0))
    return web.Response(body=body, headers=about)
