"""Bodies of requests: read and decompressed, both within a limit."""

from __future__ import annotations

import json
import zlib
from typing import Any, Final

from aiohttp import http_exceptions, web

from perdure import errors
from perdure.service.api import requests

ENCODINGS: Final = ("identity", "gzip", "x-gzip", "deflate")
"""The values of Content-Encoding that are read."""
ZLIB_METHOD: Final = 8
"""The low bits of a zlib stream's first byte (RFC 1950)."""
AUTOMATIC: Final = 32
"""Makes zlib detect whether a stream is gzip or zlib."""


async def read(request: web.Request, limit: int) -> bytes:
    """The body as it was sent. Raises PayloadTooLargeError before it reads more than the limit."""
    if (request.content_length or 0) > limit:
        raise too_large("body", request.content_length or 0, limit)
    body = bytearray()
    try:
        async for part in request.content.iter_any():
            body += part
            if len(body) > limit:
                raise too_large("body", len(body), limit)
    except (web.RequestPayloadError, http_exceptions.HttpProcessingError) as error:
        raise requests.invalid("body", f"does not follow its Transfer-Encoding: {error}") from error
    return bytes(body)


async def json_of(request: web.Request, limit: int) -> Any:
    """The value of a body of JSON. Its Content-Type must be JSON: that forces a CORS preflight, so a foreign web page
    cannot send it."""
    if request.content_type != "application/json":
        raise requests.invalid("Content-Type", "must be application/json")
    body = await read(request, limit)
    plain = decompressed(body, encoding_of(request), limit)
    try:
        return json.loads(plain)
    except (ValueError, RecursionError) as error:
        raise requests.invalid("body", f"is not JSON: {error}") from error


def is_json(data: bytes) -> bool:
    """Whether this is a value of JSON, with numbers of any size."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(data, parse_constant=refuse, parse_int=len, parse_float=len)
        data.decode()
    except (ValueError, RecursionError):
        return False
    return True


def json_text(value: Any, field: str) -> str:
    """A part of a body as JSON again, without numbers that JSON does not have."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        text.encode()
        return text
    except (ValueError, RecursionError) as error:
        raise requests.invalid(field, f"is not JSON: {error}") from error


def encoding_of(request: web.Request, header: str = "Content-Encoding") -> str:
    """How the body is compressed, in lower case."""
    return request.headers.get(header, "identity").strip().lower()


def decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """The decompressed body. Decompression stops at the limit."""
    if encoding == "identity":
        return body
    if encoding not in ENCODINGS:
        raise requests.invalid("Content-Encoding", "must be gzip, deflate or identity")
    is_raw = encoding == "deflate" and body[:1] and body[0] & 0xF != ZLIB_METHOD  # some leave out the header
    inflater = zlib.decompressobj(-zlib.MAX_WBITS if is_raw else zlib.MAX_WBITS | AUTOMATIC)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise requests.invalid("body", f"does not follow its Content-Encoding: {error}") from error
    if len(plain) > limit:
        raise too_large("body", len(plain), limit)
    if not inflater.eof or inflater.unused_data:
        raise requests.invalid("body", "does not follow its Content-Encoding: it ends too early or too late")
    return plain


def too_large(field: str, size: int, limit: int) -> errors.PayloadTooLargeError:
    """For a part of a request, or all of it."""
    return errors.PayloadTooLargeError(
        f"the {field} has more than {limit} bytes", field=field, size=str(size), limit=str(limit)
    )
