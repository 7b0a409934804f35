"""Streams of calls that a test opens itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio

from patience import PATIENCE_S
from perdure.service.app import RunningServer


class Opened:
    """A stream. `message` is the class of the messages with calls."""

    def __init__(self, rpc: Any, message: Callable[..., Any]) -> None:
        self.rpc = rpc
        self._message = message

    async def send(self, *calls: Any, abandoned: tuple[int, ...] = ()) -> None:
        await self.rpc.write(self._message(calls=calls, abandoned=abandoned))

    async def answers(self, count: int) -> dict[int, Any]:
        """So many answers, by token."""
        found: dict[int, Any] = {}
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < count:
                message = await self.rpc.read()
                assert message is not grpc.aio.EOF, "the stream has ended"
                found |= {answer.token: answer for answer in message.answers}
        assert len(found) == count
        return found


async def are_waiting(server: RunningServer, count: int) -> None:
    """Return once so many calls of clients wait for runs to end or for results of actors."""
    async with asyncio.timeout(PATIENCE_S):
        while server.kernel.changes.count_waits() != count:
            await asyncio.sleep(0.01)
