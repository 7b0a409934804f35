"""Events over HTTP, for those who speak no gRPC: webhooks, shells, scripts written for Ray's event provider.

    POST /event/send_event/{workflow_id}?namespace=...
        {"event_key": "approved", "event_payload": {"by": "ann"}}
        Idempotency-Key: ID                  the event's id; the same one again is not delivered again
    GET /healthz, GET /readyz

It decides what requests and answers look like; what becomes of an event is up to the commands. Bodies
have to say that they are JSON: browsers let no foreign page send that without asking.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from aiohttp import web

from perdure import errors
from perdure.model import Payload
from perdure.service import limits
from perdure.service.commands import Commands
from perdure.service.rpc import requests
from perdure.service.rpc.interceptor import Gate, translate
from perdure.service.settings import SettingsError

BODY_BYTES_MAX: Final = limits.INLINE_PAYLOAD_BYTES_MAX
KEY_HEADER: Final = "Idempotency-Key"
STATUS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving_http(listen: str, commands: Commands, gate: Gate, *, grace_s: float) -> AsyncIterator[str]:
    """Serve until the context is left; gives host:port. Raises SettingsError if the address is taken."""
    host, _, port = listen.rpartition(":")
    application = web.Application(middlewares=[_answer_errors], client_max_size=BODY_BYTES_MAX)
    service = _Service(commands, gate)
    application.router.add_post("/event/send_event/{workflow_id}", service.send_event)
    application.router.add_get("/healthz", service.healthz)
    application.router.add_get("/readyz", service.readyz)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=grace_s)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            raise SettingsError(f"cannot listen on {listen}: {error.strerror}") from error
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class _Service:
    def __init__(self, commands: Commands, gate: Gate) -> None:
        self._commands = commands
        self._gate = gate

    async def send_event(self, request: web.Request) -> web.Response:
        if self._gate.error is not None:
            raise self._gate.error
        key, payload = _event(await _json(request))
        event_id = request.headers.get(KEY_HEADER, "")
        sent = await self._commands.send_event(
            requests.namespace(request.query.get("namespace", "")),
            requests.workflow_id(request.match_info["workflow_id"]),
            key=key,
            event_id=requests.text(event_id, KEY_HEADER, limit=limits.REQUEST_ID_CHARS_MAX, required=False)
            or uuid.uuid4().hex,
            payload=payload,
        )
        return web.json_response({"sequence": sent.sequence, "duplicate": sent.is_duplicate})

    async def healthz(self, _request: web.Request) -> web.Response:
        """The process is alive."""
        return web.json_response({"status": "alive"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """The engine takes calls."""
        if self._gate.error is not None:
            raise self._gate.error
        return web.json_response({"status": "ready"})


async def _json(request: web.Request) -> Any:
    if request.content_type != "application/json":
        raise requests.invalid("Content-Type", "must be application/json")
    try:
        return json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise requests.invalid("body", f"is not JSON: {error}") from error


def _event(body: Any) -> tuple[str, Payload]:
    if not isinstance(body, dict) or "event_payload" not in body:
        raise requests.invalid("body", 'has the form {"event_key": "...", "event_payload": ...}')
    key = body.get("event_key")
    if not isinstance(key, str):
        raise requests.invalid("event_key", "is required, as a string")
    try:
        text = json.dumps(body["event_payload"], ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return requests.text(key, "event_key"), Payload("json/plain", text.encode())
    except (ValueError, RecursionError) as error:
        if isinstance(error, errors.PerdureError):
            raise
        raise requests.invalid("event_payload", f"is not JSON: {error}") from error


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        error: errors.PerdureError = errors.PayloadTooLargeError(
            f"the body has more than {BODY_BYTES_MAX} bytes", field="body", limit=str(BODY_BYTES_MAX)
        )
    except web.HTTPException as wrong:  # no such path, or another method
        return web.json_response({"error": {"message": wrong.reason}}, status=wrong.status, headers=_allowed(wrong))
    except Exception as raised:
        error = translate(raised, request.path)
    status = 413 if isinstance(error, errors.PayloadTooLargeError) else STATUS.get(error.status, 500)
    headers = {} if error.retry_after_s is None else {"Retry-After": str(max(round(error.retry_after_s), 1))}
    about = {"reason": error.reason, "message": error.message, "fields": error.fields}
    return web.json_response({"error": about}, status=status, headers=headers)


def _allowed(wrong: web.HTTPException) -> dict[str, str]:
    return {"Allow": wrong.headers["Allow"]} if "Allow" in wrong.headers else {}
