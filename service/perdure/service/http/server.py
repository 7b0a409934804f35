"""The HTTP port: what it serves under which path, and its own answers.

POST /perdure.v1.SERVICE/METHOD          the API, by the Connect protocol (connect/)
POST /v1/runs, GET /v1/runs/WORKFLOW_ID  a registered function with plain JSON, and its output (runs)
POST /event/send_event/WORKFLOW_ID       an event (events)
GET /openapi.json                        the API as an OpenAPI document (openapi)
GET /healthz, GET /readyz                whether the process is alive, whether the engine takes calls
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import http_exceptions, web

from perdure import errors
from perdure.service.api.calls import Calls
from perdure.service.api.errors import translate
from perdure.service.api.gate import Gate
from perdure.service.common.settings import SettingsError
from perdure.service.http import headers
from perdure.service.http.connect.calls import ConnectFace
from perdure.service.http.connect.methods import methods
from perdure.service.http.events import EventFace
from perdure.service.http.openapi import OpenApi
from perdure.service.http.runs import RunFace

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
async def serving_http(listen: str, calls: Calls, gate: Gate, *, grace_s: float) -> AsyncIterator[str]:
    """Serve until the context is left; yields host:port. Raises SettingsError if the address is taken.

    A request whose client hangs up is cancelled, as a call of gRPC is.
    """
    host, _, port = listen.rpartition(":")
    application = web.Application(middlewares=[_close_after_unread_bodies, _answer_errors])
    served = methods(calls)
    application.router.add_route("*", r"/{service:perdure\.v1\.\w+}/{method}", ConnectFace(served, gate).answer)
    runs = RunFace(calls, gate)
    application.router.add_post("/v1/runs", runs.start)
    application.router.add_get("/v1/runs/{workflow_id}", runs.look)
    application.router.add_post("/event/send_event/{workflow_id}", EventFace(calls.events, gate).send_event)
    application.router.add_get("/openapi.json", OpenApi(served, calls).answer)
    health = _Health(gate)
    application.router.add_get("/healthz", health.healthz)
    application.router.add_get("/readyz", health.readyz)
    runner = web.AppRunner(
        application,
        access_log=None,
        shutdown_timeout=grace_s,
        auto_decompress=False,
        handler_cancellation=True,
        logger=server_log,
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


class _Health:
    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def healthz(self, _request: web.Request) -> web.Response:
        """The process is alive."""
        return web.json_response({"status": "alive"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """The engine takes calls."""
        self._gate.check()
        return web.json_response({"status": "ready"})


@web.middleware
async def _close_after_unread_bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    answer = await handler(request)
    headers.close_if_unread(request, answer)
    return answer


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers of all paths but those of the API, whose errors are Connect's."""
    try:
        return await handler(request)
    except web.HTTPException as wrong:  # no such path, or another method
        return web.json_response({"error": {"message": wrong.reason}}, status=wrong.status, headers=_allowed(wrong))
    except ConnectionError:  # the client is gone, but aiohttp needs an answer
        return web.Response(status=400)
    except Exception as raised:
        error = translate(raised, request.path)
    status = 413 if isinstance(error, errors.PayloadTooLargeError) else STATUS.get(error.status.name, 500)
    about = {"reason": error.reason, "message": error.message, "fields": error.fields}
    return web.json_response({"error": about}, status=status, headers=headers.retry_after(error))


def _allowed(wrong: web.HTTPException) -> dict[str, str]:
    return {"Allow": wrong.headers["Allow"]} if "Allow" in wrong.headers else {}
