"""The gate: calls are counted, and refused while the engine starts or drains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from perdure.service.api.gate import ALWAYS, Gate
from perdure.service.rpc.context import Context
from perdure.service.rpc.interceptors.chain import Handler, Part

WORKERS: Final = "/perdure.v1.WorkerService/"
ADMITTED: Final = (ALWAYS, "/grpc.health.v1.Health/")
STREAMS: Final = ("/perdure.v1.ActorService/CallActors", "/perdure.v1.WorkflowService/StreamRuns")
"""Streams of calls, which are counted instead of them."""


def admit_by(gate: Gate) -> Part:
    """The part that asks this gate."""

    def left(_context: Any) -> None:
        gate.left()

    def count(context: Any) -> None:
        gate.came()
        context.add_done_callback(left)

    def count_and_check(context: Any) -> None:
        count(context)
        gate.check()

    def check(_context: Any) -> None:
        gate.check()

    def count_worker(context: Any) -> None:
        peer: str = context.peer()
        gate.worker_came(peer)
        context.add_done_callback(lambda _context: gate.worker_left(peer))

    def part(handler: Handler) -> Handler:
        call, method = handler.call, handler.method
        admit: Callable[[Any], None]
        if method.startswith(WORKERS):
            admit = count_worker
        elif method.startswith(ADMITTED):
            admit = count
        elif method in STREAMS:
            admit = check
        else:
            admit = count_and_check

        def admitted(request: Any, context: Context) -> Any:
            admit(context)
            return call(request, context)

        return replace(handler, call=admitted)

    return part
