"""The chain: finds the methods of a server, and puts its parts around each of them once.

The server has no other handler, and no interceptor of gRPC's, each of which takes some 27 us of every call. Parts of a
chain cost a function call each, because they are composed when a method is first looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import grpc
import grpc.aio

from perdure.service.rpc.context import Context

OURS: Final = ("/perdure.v1.", "/grpc.health.v1.Health/")
"""Methods that the parts wrap. Reflection is left alone."""


@dataclass(frozen=True)
class Handler:
    """The handler of one method.

    `call` takes the request (an iterator of requests if `takes_stream`) and the context. It returns an awaitable of the
    answer, or an asynchronous iterator of answers if `gives_stream`.
    """

    method: str
    call: Callable[[Any, Context], Any]
    read: Callable[[bytes], Any]
    takes_stream: bool
    gives_stream: bool


Part: TypeAlias = Callable[[Handler], Handler]
"""Wraps a handler. A part refuses a call by raising before it calls the inner handler."""


class Chain(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """`parts` are ordered from the outermost to the innermost."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)
        self._services: list[grpc.GenericRpcHandler[Any, Any]] = []
        self._composed: dict[str, Any] = {}

    @property
    def services(self) -> grpc.aio.Server:
        """The chain, as generated code takes it to add a service."""
        return cast(grpc.aio.Server, self)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler[Any, Any]]) -> None:
        """Add services whose methods the chain finds."""
        self._services += handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Add nothing: `add_generic_rpc_handlers` has added them. For every call, grpc.aio waits anew for the next call
        of each registered method. With 40 of them that takes as long as all of the chain."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a method. None, for which gRPC answers UNIMPLEMENTED, if no service has it."""
        method: str = handler_call_details.method
        if (known := self._composed.get(method)) is not None:
            return known
        found = next(filter(None, (service.service(handler_call_details) for service in self._services)), None)
        if found is None or not method.startswith(OURS):
            return found
        composed = self._composed[method] = self._compose(method, found)
        return composed

    def _compose(self, method: str, found: Any) -> Any:
        kind = f"{_word(found.request_streaming)}_{_word(found.response_streaming)}"
        call, read = getattr(found, kind), found.request_deserializer
        handler = Handler(method, call, read, found.request_streaming, found.response_streaming)
        for part in reversed(self._parts):
            handler = part(handler)
        return found._replace(**{kind: handler.call}, request_deserializer=handler.read)


def _word(is_stream: bool) -> str:
    return "stream" if is_stream else "unary"
