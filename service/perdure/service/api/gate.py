"""Whether calls are let in: not before the engine has recovered, and no new ones while it drains."""

from __future__ import annotations

import asyncio
from collections import Counter

from perdure import errors


class Gate:
    """Whether calls are let in, and how many of gRPC are under way: from their arrival until their answer is sent.

    Refused calls are counted as well, for they are answered too. gRPC's server is stopped once none is under way
    (`rpc.hangup`); the HTTP server waits for its own calls.
    """

    def __init__(self) -> None:
        self.error: errors.PerdureError | None = errors.StartingError("the engine is starting")
        self.calls = 0
        self.moved_s = 0.0
        """When a call came or ended last, by the loop's clock."""
        self.workers: Counter[str] = Counter()
        """Calls of WorkerService that are under way, by peer. They are not in `calls`."""

    def check(self) -> None:
        """Raises if no calls are let in."""
        if self.error is not None:
            raise self.error

    def came(self) -> None:
        """A call has come."""
        self.calls += 1
        self.moved_s = asyncio.get_running_loop().time()

    def left(self) -> None:
        """The answer of a call is sent, or its caller is gone."""
        self.calls -= 1
        self.moved_s = asyncio.get_running_loop().time()

    def worker_came(self, peer: str) -> None:
        """A call of a worker has come. Leases report until the end, so such calls are let in always."""
        self.workers[peer] += 1

    def worker_left(self, peer: str) -> None:
        """As `left`."""
        self.workers[peer] -= 1
        if not self.workers[peer]:
            del self.workers[peer]

    def open(self) -> None:
        self.error = None

    def drain(self) -> None:
        self.error = errors.DrainingError("the engine is shutting down; ask again, another one will answer")
