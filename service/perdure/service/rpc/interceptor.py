"""The one interceptor: what a servicer raises becomes a precise status, and nothing else gets out.

Errors of ours keep their reason and fields; what the store raises is translated; anything unknown is
logged under an id, and only the id travels. While the engine starts or drains, calls are refused here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from perdure import errors
from perdure.service.api.errors import translate
from perdure.service.api.gate import Gate

log = logging.getLogger(__name__)

OURS: Final = "/perdure.v1."
HEALTH: Final = "/grpc.health.v1.Health/"
ALWAYS: Final = ("/perdure.v1.SystemService/GetSystemInfo", HEALTH)
"""Answered also while the engine starts or drains."""
INTERNAL: Final = "/perdure.v1.WorkerService/"

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


async def _abort(context: Context, error: errors.PerdureError) -> NoReturn:
    details = (errors.DETAILS_KEY, errors.to_status(error).SerializeToString())
    await context.abort(error.status, errors.cut(error.message, errors.STATUS_TEXT_BYTES_MAX), (details,))
    raise AssertionError("abort raises")


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Wraps every handler once, when its method is first looked up."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method: str = handler_call_details.method
        if (known := self._wrapped.get(method)) is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith((OURS, HEALTH)):
            return handler  # not there: gRPC answers UNIMPLEMENTED; reflection: its own business
        is_internal = method.startswith(INTERNAL)
        if not is_internal:
            handler = handler._replace(request_deserializer=_reader(handler.request_deserializer))
        gate = self._gate
        admit = gate.count_worker if is_internal else gate.count if method.startswith(ALWAYS) else gate.admit
        wrapped = self._wrap(handler, method, admit)
        self._wrapped[method] = wrapped
        return wrapped

    def _wrap(self, handler: Any, method: str, admit: Callable[[Context], None]) -> Any:
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            guarded = _guard(handler.unary_unary, method, admit)
            return grpc.unary_unary_rpc_method_handler(guarded, **codecs)
        if handler.stream_unary:
            guarded = _guard(handler.stream_unary, method, admit, is_stream=True)
            return grpc.stream_unary_rpc_method_handler(guarded, **codecs)
        if handler.unary_stream:
            guarded_stream = _guard_stream(handler.unary_stream, method, admit)
            return grpc.unary_stream_rpc_method_handler(guarded_stream, **codecs)
        return grpc.stream_stream_rpc_method_handler(_guard_stream(handler.stream_stream, method, admit), **codecs)


class _Malformed:
    """Stands for a request that is no message of its type, until there is a context to refuse it in."""


_MALFORMED: Final = _Malformed()


def _reader(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """gRPC would tell the caller UNKNOWN and the text of the exception."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _MALFORMED

    return read


def _checked(request: Any) -> Any:
    if request is _MALFORMED:
        raise errors.InvalidFieldError("the request is no message of its type, or one nested too deep", field="")
    return request


class _CheckedStream:
    """The requests of a stream; a malformed one raises."""

    def __init__(self, stream: AsyncIterator[Any]) -> None:
        self._stream = stream

    def __aiter__(self) -> _CheckedStream:
        return self

    async def __anext__(self) -> Any:
        return _checked(await anext(self._stream))


def _guard(
    call: Callable[..., Awaitable[Any]], method: str, admit: Callable[[Context], None], *, is_stream: bool = False
) -> Callable[..., Awaitable[Any]]:
    check: Callable[[Any], Any] = _CheckedStream if is_stream else _checked

    async def guarded(request: Any, context: Context) -> Any:
        try:
            admit(context)
            return await call(check(request), context)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            await _abort(context, translate(error, method))

    return guarded


def _guard_stream(
    call: Callable[..., AsyncIterator[Any]], method: str, admit: Callable[[Context], None]
) -> Callable[..., AsyncIterator[Any]]:
    async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            admit(context)
            async for answer in call(_checked(request), context):
                yield answer
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            await _abort(context, translate(error, method))

    return guarded
