"""A caller by HTTP: its deadline, and whether it makes a call again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from perdure.service.api import requests
from perdure.service.api.caller import told_repeat
from perdure.service.common.repeat import Repeat
from perdure.service.http.connect.refusals import Refused

TIMEOUT: Final = "Connect-Timeout-Ms"
TIMEOUT_DIGITS_MAX: Final = 10


def has_hung_up(request: web.Request) -> bool:
    """Whether nobody reads the answer any more."""
    return request.transport is None or request.transport.is_closing()


class HttpCaller:
    """A `Caller` by the headers of its request, which has just come. A repeat is told as in gRPC's metadata. Raises
    InvalidFieldError if the time-out is no number."""

    __slots__ = ("_ends_s", "_headers")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._ends_s: float | None = None
        if (timeout := headers.get(TIMEOUT)) is not None:
            if not (timeout.isascii() and timeout.isdecimal() and len(timeout) <= TIMEOUT_DIGITS_MAX):
                raise requests.invalid(TIMEOUT, f"is a number of at most {TIMEOUT_DIGITS_MAX} digits")
            self._ends_s = asyncio.get_running_loop().time() + int(timeout) / 1000

    @property
    def left_s(self) -> float | None:
        return None if self._ends_s is None else max(self._ends_s - asyncio.get_running_loop().time(), 0)

    @property
    def repeat(self) -> Repeat | None:
        return told_repeat((name.lower(), value) for name, value in self._headers.items())

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Ends what is in the context when the deadline has passed, and raises Refused."""
        limit = asyncio.timeout_at(self._ends_s)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Refused("deadline_exceeded", f"the call took longer than {TIMEOUT} allows") from error
