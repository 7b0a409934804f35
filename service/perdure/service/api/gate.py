"""Admission of calls: none before the engine has recovered, and no new ones while it drains."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from perdure import errors

ALWAYS: Final = "/perdure.v1.SystemService/GetSystemInfo"
"""Answered also while the engine starts or drains."""


class Gate:
    """Admits calls, and counts gRPC calls from their arrival until their answer is sent, refused ones included.

    The gRPC server is stopped once no call is under way (`rpc.hangup`). The HTTP server waits for its own calls.
    """

    def __init__(self) -> None:
        self.error: errors.PerdureError | None = errors.StartingError("the engine is starting")
        self.calls = 0
        self.moved_s = 0.0
        """The time of the last arrival or end of a call, by the loop's clock."""
        self.workers: Counter[str] = Counter()
        """Calls of WorkerService that are under way, by peer. They are not in `calls`."""

    def check(self) -> None:
        """Raises if no calls are admitted."""
        if self.error is not None:
            raise self.error

    def came(self) -> None:
        """A call has arrived."""
        self.calls += 1
        self.moved_s = asyncio.get_running_loop().time()

    def left(self) -> None:
        """The answer of a call is sent, or its caller is gone."""
        self.calls -= 1
        self.moved_s = asyncio.get_running_loop().time()

    def worker_came(self, peer: str) -> None:
        """A call of a worker has arrived. These calls are always admitted, since leases report until the end."""
        self.workers[peer] += 1

    def worker_left(self, peer: str) -> None:
        """A call of a worker has ended."""
        self.workers[peer] -= 1
        if not self.workers[peer]:
            del self.workers[peer]

    def open(self) -> None:
        self.error = None

    def drain(self) -> None:
        self.error = errors.DrainingError("the engine is shutting down; ask again, another one will answer")
