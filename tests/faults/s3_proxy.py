"""A proxy between a store and an S3 service that does to requests what networks and services do."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from yarl import URL

SLOW_S = 3.0
HOPS = {"connection", "transfer-encoding", "keep-alive", "date", "server"}


@dataclass
class Fault:
    """What happens to requests of a method (""; any) whose path has a text in it, so many `times`.

    `kind`: a status such as "503 SlowDown" is answered; "drop" closes the connection; "cut" closes it in
    the middle of the body of the answer; "flip" changes one byte of that; "hang" answers never, and closes when
    the proxy heals; "slow" answers after a while.
    """

    kind: str
    method: str = ""
    text: str = ""
    times: float = float("inf")
    hits: int = 0

    def takes(self, request: web.Request) -> bool:
        fits = self.method in ("", request.method) and self.text in request.raw_path
        if not fits or self.hits >= self.times:
            return False
        self.hits += 1
        return True


@dataclass
class Proxy:
    """`url` stands in for the endpoint behind it. `seen` has the method and path of each request."""

    upstream: str
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def fail(self, kind: str, *, method: str = "", text: str = "", times: float = float("inf")) -> Fault:
        fault = Fault(kind, method, text, times)
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        self.faults.clear()
        self.released.set()
        self.released = asyncio.Event()

    async def answer(self, request: web.Request, session: aiohttp.ClientSession) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path))
        sent = await request.read()
        kind = next((fault.kind for fault in self.faults if fault.takes(request)), "")
        if kind[:1].isdigit():
            status, _, code = kind.partition(" ")
            text = f"<Error><Code>{code}</Code><Message>so says the test</Message></Error>"
            return web.Response(status=int(status), text=text, content_type="application/xml")
        if kind == "slow":
            with suppress(TimeoutError):
                await asyncio.wait_for(self.released.wait(), SLOW_S)
        if kind == "hang":
            await self.released.wait()
        if kind in ("drop", "hang"):
            return self._close(request)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "expect")}
        url = URL(self.upstream + request.raw_path, encoded=True)
        async with session.request(
            request.method, url, headers=headers, data=io.BytesIO(sent) if sent else None
        ) as answer:
            body = bytearray(await answer.read())
            given = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOPS]
            response = web.StreamResponse(status=answer.status, headers=given)
        if request.method == "HEAD":
            return response
        response.content_length = len(body)
        if kind == "flip" and body:
            body[len(body) // 2] ^= 1
        await response.prepare(request)
        if kind == "cut":
            await response.write(bytes(body[: len(body) // 2]))
            return self._close(request)
        await response.write(bytes(body))
        return response

    def _close(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


@asynccontextmanager
async def proxied(upstream: str) -> AsyncIterator[Proxy]:
    """A proxy on a free port of this machine."""
    proxy = Proxy(upstream)
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            assert isinstance(request, web.Request)
            with suppress(ConnectionError):
                return await proxy.answer(request, session)
            return web.Response()

        application = web.Application(client_max_size=2**30)
        application.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        proxy.url = f"http://{host}:{port}"
        try:
            yield proxy
        finally:
            proxy.released.set()
            await runner.cleanup()
