"""Whether calls are let in: not before the engine has recovered, and no new ones while it drains."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc.aio

from perdure import errors

Context = grpc.aio.ServicerContext[Any, Any]


class Gate:
    """Whether calls are let in, and how many are under way: from their arrival until their answer is sent."""

    def __init__(self) -> None:
        self.error: errors.PerdureError | None = errors.StartingError("the engine is starting")
        self.calls = 0
        self.moved_s = 0.0
        """When a call came or ended last, by the loop's clock."""
        self.workers: Counter[str] = Counter()
        """Calls of WorkerService that are under way, by peer. They are not in `calls`."""

    def admit(self, context: Context) -> None:
        """A call has come; raises if it is not let in."""
        self.count(context)
        if self.error is not None:
            raise self.error

    def count(self, context: Context) -> None:
        """A call has come that is let in always."""
        self.calls += 1
        self.moved_s = asyncio.get_running_loop().time()
        _when_done(context, self._left)

    def _left(self) -> None:
        self.calls -= 1
        self.moved_s = asyncio.get_running_loop().time()

    def count_worker(self, context: Context) -> None:
        """A call of a worker has come. Leases report until the end, so it is let in always."""
        peer = context.peer()
        self.workers[peer] += 1
        _when_done(context, lambda: self._worker_left(peer))

    def _worker_left(self, peer: str) -> None:
        self.workers[peer] -= 1
        if not self.workers[peer]:
            del self.workers[peer]

    def open(self) -> None:
        self.error = None

    def drain(self) -> None:
        self.error = errors.DrainingError("the engine is shutting down; ask again, another one will answer")


def _when_done(context: Any, callback: Callable[[], None]) -> None:
    """Once the answer is sent, or the caller is gone."""
    context.add_done_callback(lambda _context: callback())
