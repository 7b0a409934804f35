"""Events over HTTP, for clients without gRPC: webhooks, shells, scripts written for Ray's event provider.

    POST /event/send_event/{workflow_id}?namespace=...
        {"event_key": "approved", "event_payload": {"by": "ann"}}
        Idempotency-Key: ID                  the event's id; the same one again is not delivered again
    GET /healthz, GET /readyz

This file translates requests to SendEvent and answers to JSON; `api.events` handles the events. The Content-Type of a
request must be JSON, because that forces a CORS preflight, so a foreign web page cannot send events.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import http_exceptions, web

from perdure import errors
from perdure.ids import time_ordered_id
from perdure.service.api import requests
from perdure.service.api.caller import Anybody
from perdure.service.api.errors import translate
from perdure.service.api.events import EventCalls
from perdure.service.api.gate import Gate
from perdure.service.common import limits
from perdure.service.common.settings import SettingsError
from perdure.v1.payload_pb2 import Payload
from perdure.v1.workflow_service_pb2 import SendEventRequest

BODY_BYTES_MAX: Final = limits.INLINE_PAYLOAD_BYTES_MAX
ZLIB_METHOD: Final = 8
"""The low bits of a zlib stream's first byte (RFC 1950)."""
AUTOMATIC: Final = 32
"""Makes zlib detect whether a stream is gzip or zlib."""
KEY_HEADER: Final = "Idempotency-Key"
STATUS: Final = {
    # of HTTP, by the name of the status that `errors` gives
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}


class _OwnFaults(logging.Filter):
    """Drops log records about faults of clients: requests that are not HTTP, connections that break."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, (http_exceptions.HttpProcessingError, ConnectionError))


server_log = logging.getLogger(f"{__name__}.server")
"""For aiohttp, which would log a traceback of each such request."""
server_log.addFilter(_OwnFaults())

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving_http(listen: str, events: EventCalls, gate: Gate, *, grace_s: float) -> AsyncIterator[str]:
    """Serve until the context is left; yields host:port. Raises SettingsError if the address is taken."""
    host, _, port = listen.rpartition(":")
    middlewares = [_close_after_unread_bodies, _answer_errors]
    application = web.Application(middlewares=middlewares, client_max_size=BODY_BYTES_MAX)
    service = _Service(events, gate)
    application.router.add_post("/event/send_event/{workflow_id}", service.send_event)
    application.router.add_get("/healthz", service.healthz)
    application.router.add_get("/readyz", service.readyz)
    runner = web.AppRunner(
        application, access_log=None, shutdown_timeout=grace_s, auto_decompress=False, logger=server_log
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            advice = "end what uses it, or give another address with --http-listen"
            raise SettingsError(f"cannot listen on {listen}: {error.strerror}; {advice}") from error
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class _Service:
    def __init__(self, events: EventCalls, gate: Gate) -> None:
        self._events = events
        self._gate = gate

    async def send_event(self, request: web.Request) -> web.Response:
        self._gate.check()
        key, payload = _event(await _json(request))
        event_id = request.headers.get(KEY_HEADER)
        if event_id is None:
            event_id = time_ordered_id()
        event = SendEventRequest(
            namespace=requests.namespace(request.query.get("namespace", "")),
            workflow_id=requests.workflow_id(request.match_info["workflow_id"]),
            event_key=key,
            event_id=requests.text(event_id, KEY_HEADER, limit=limits.REQUEST_ID_CHARS_MAX),
            payload=payload,
        )
        sent = await self._events.send(event, Anybody())
        return web.json_response({"sequence": sent.sequence, "duplicate": sent.duplicate})

    async def healthz(self, _request: web.Request) -> web.Response:
        """The process is alive."""
        return web.json_response({"status": "alive"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """The engine takes calls."""
        self._gate.check()
        return web.json_response({"status": "ready"})


async def _json(request: web.Request) -> Any:
    if request.content_type != "application/json":
        raise requests.invalid("Content-Type", "must be application/json")
    try:
        body = await request.read()
    except (web.RequestPayloadError, http_exceptions.HttpProcessingError) as error:
        raise requests.invalid("body", f"does not follow its Transfer-Encoding: {error}") from error
    plain = _decompressed(body, request.headers.get("Content-Encoding", "identity").strip().lower())
    try:
        return json.loads(plain)
    except (ValueError, RecursionError) as error:
        raise requests.invalid("body", f"is not JSON: {error}") from error


def _decompressed(body: bytes, encoding: str) -> bytes:
    """The decompressed body. Decompression stops at the largest size of a body."""
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise requests.invalid("Content-Encoding", "must be gzip, deflate or identity")
    is_raw = encoding == "deflate" and body[:1] and body[0] & 0xF != ZLIB_METHOD  # some leave out the header
    inflater = zlib.decompressobj(-zlib.MAX_WBITS if is_raw else zlib.MAX_WBITS | AUTOMATIC)
    try:
        plain = inflater.decompress(body, BODY_BYTES_MAX + 1)
    except zlib.error as error:
        raise requests.invalid("body", f"does not follow its Content-Encoding: {error}") from error
    if len(plain) > BODY_BYTES_MAX:
        raise _too_large("body", len(plain))
    if not inflater.eof or inflater.unused_data:
        raise requests.invalid("body", "does not follow its Content-Encoding: it ends too early or too late")
    return plain


def _too_large(field: str, size: int) -> errors.PayloadTooLargeError:
    return errors.PayloadTooLargeError(
        f"the {field} has more than {BODY_BYTES_MAX} bytes", field=field, size=str(size), limit=str(BODY_BYTES_MAX)
    )


def _event(body: Any) -> tuple[str, Payload]:
    if not isinstance(body, dict) or "event_payload" not in body:
        raise requests.invalid("body", 'has the form {"event_key": "...", "event_payload": ...}')
    key = body.get("event_key")
    if not isinstance(key, str):
        raise requests.invalid("event_key", "is required, as a string")
    try:
        text = json.dumps(body["event_payload"], ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        data = text.encode()
    except (ValueError, RecursionError) as error:
        raise requests.invalid("event_payload", f"is not JSON: {error}") from error
    if len(data) > BODY_BYTES_MAX:  # numbers may be longer than they came
        raise _too_large("event_payload", len(data))
    return requests.text(key, "event_key"), Payload(encoding="json/plain", data=data)


@web.middleware
async def _close_after_unread_bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell the client that it cannot use the connection again if it has not sent all of a body that is refused: some
    clients would leave the rest out (RFC 9112, section 9.6)."""
    answer = await handler(request)
    if not request.content.is_eof():
        answer.force_close()
    return answer


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        error: errors.PerdureError = _too_large("body", request.content_length or BODY_BYTES_MAX + 1)
    except web.HTTPException as wrong:  # no such path, or another method
        return web.json_response({"error": {"message": wrong.reason}}, status=wrong.status, headers=_allowed(wrong))
    except ConnectionError:  # the client is gone, but aiohttp needs an answer
        return web.Response(status=400)
    except Exception as raised:
        error = translate(raised, request.path)
    status = 413 if isinstance(error, errors.PayloadTooLargeError) else STATUS.get(error.status.name, 500)
    headers = {} if error.retry_after_s is None else {"Retry-After": str(max(round(error.retry_after_s), 1))}
    about = {"reason": error.reason, "message": error.message, "fields": error.fields}
    return web.json_response({"error": about}, status=status, headers=headers)


def _allowed(wrong: web.HTTPException) -> dict[str, str]:
    return {"Allow": wrong.headers["Allow"]} if "Allow" in wrong.headers else {}
