"""The gate: calls are counted, and refused while the engine starts or drains."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from perdure.service.api.gate import Gate
from perdure.service.rpc.context import Context
from perdure.service.rpc.interceptors.chain import Handler, Part

WORKERS: Final = "/perdure.v1.WorkerService/"
ALWAYS: Final = ("/perdure.v1.SystemService/GetSystemInfo", "/grpc.health.v1.Health/")
"""Answered also while the engine starts or drains."""


def admit_by(gate: Gate) -> Part:
    """The part that asks this gate."""

    def part(handler: Handler) -> Handler:
        call, method = handler.call, handler.method
        is_worker = method.startswith(WORKERS)
        admit = gate.count_worker if is_worker else gate.count if method.startswith(ALWAYS) else gate.admit

        def admitted(request: Any, context: Context) -> Any:
            admit(context)
            return call(request, context)

        return replace(handler, call=admitted)

    return part
