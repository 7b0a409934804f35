"""Malformed requests: bytes that are no message of the method's type are refused with INVALID_FIELD.

gRPC would answer UNKNOWN with the text of the exception. It decodes a request before there is a context in which the
call could be refused, so a placeholder stands for the request until the call begins.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, Final

from google.protobuf.message import DecodeError

from perdure.service.api import requests
from perdure.service.rpc.context import Context
from perdure.service.rpc.interceptors.chain import Handler
from perdure.service.rpc.interceptors.gate import WORKERS


class _Malformed:
    """Stands for a request that could not be decoded."""


_MALFORMED: Final = _Malformed()


def refuse_malformed(handler: Handler) -> Handler:
    """The part for all methods but those of workers, which have this version and send well-formed messages."""
    if handler.method.startswith(WORKERS):
        return handler
    call = handler.call
    check: Callable[[Any], Any] = _CheckedStream if handler.takes_stream else _checked

    def checked(request: Any, context: Context) -> Any:
        return call(check(request), context)

    return replace(handler, call=checked, read=_reader(handler.read))


def _reader(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _MALFORMED

    return read


def _checked(request: Any) -> Any:
    if request is _MALFORMED:
        raise requests.malformed()
    return request


class _CheckedStream:
    """The requests of a stream. Raises InvalidFieldError at a malformed one."""

    def __init__(self, stream: AsyncIterator[Any]) -> None:
        self._stream = stream

    def __aiter__(self) -> _CheckedStream:
        return self

    async def __anext__(self) -> Any:
        return _checked(await anext(self._stream))
