"""The one interceptor: what a servicer raises becomes a precise status, and nothing else gets out.

Errors of ours keep their reason and fields; what the store raises is translated; anything unknown is
logged under an id, and only the id travels. While the engine starts or drains, calls are refused here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from perdure import errors
from perdure.model import InvalidSpec
from perdure.service.changes import Closed, Overflowed
from perdure.storage.ports import BlobNotFound, CorruptData, StorageDenied, StorageError, StorageFull

log = logging.getLogger(__name__)

OURS: Final = "/perdure.v1."
ALWAYS: Final = frozenset({"/perdure.v1.SystemService/GetSystemInfo"})
"""Answered also while the engine starts or drains."""
INTERNAL: Final = "/perdure.v1.WorkerService/"
"""Leases report until the end."""


class Gate:
    """Whether calls are let in."""

    def __init__(self) -> None:
        self.error: errors.PerdureError | None = errors.StartingError("the engine is starting")

    def open(self) -> None:
        self.error = None

    def drain(self) -> None:
        self.error = errors.DrainingError("the engine is shutting down; ask again, another one will answer")


def translate(error: Exception, method: str) -> errors.PerdureError:
    """What a caller may know of an error."""
    match error:
        case errors.PerdureError():
            return error
        case InvalidSpec():
            return errors.InvalidSpecError(str(error), node_id=error.node_id)
        case StorageFull():
            return errors.StorageFullError("the storage is full; nothing was changed")
        case CorruptData():
            return errors.CorruptDataError(f"what is stored is damaged: {error}", subject=error.subject)
        case BlobNotFound():
            return errors.BlobNotFoundError(str(error), sha256=error.sha256)
        case StorageDenied():
            log.error("the storage refuses us", extra={"method": method, "error": str(error)})
            return errors.DatabaseUnavailableError("the storage refuses this service; its log says why")
        case StorageError():
            return errors.DatabaseUnavailableError("the database does not answer; the ids make it safe to ask again")
        case Closed():
            return errors.DrainingError("the engine is shutting down; reconnect with the last resume token")
        case Overflowed():
            return errors.SlowConsumerError("the reader fell too far behind; reconnect with the last resume token")
        case _:
            error_id = secrets.token_hex(8)
            log.error("unexpected error", exc_info=error, extra={"method": method, "error_id": error_id})
            return errors.InternalError(f"internal error {error_id}", error_id=error_id)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: errors.PerdureError) -> NoReturn:
    details = (errors.DETAILS_KEY, errors.to_status(error).SerializeToString())
    await context.abort(error.status, errors.cut(error.message, errors.MESSAGE_BYTES_MAX), (details,))
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
        if handler is None or not method.startswith(OURS):
            return handler  # not there: gRPC answers UNIMPLEMENTED; health and reflection: their own business
        is_internal = method.startswith(INTERNAL)
        if not is_internal:
            handler = handler._replace(request_deserializer=_reader(handler.request_deserializer))
        is_gated = method not in ALWAYS and not is_internal
        wrapped = self._wrap(handler, method, self._gate if is_gated else None)
        self._wrapped[method] = wrapped
        return wrapped

    def _wrap(self, handler: Any, method: str, gate: Gate | None) -> Any:
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            guarded = _guard(handler.unary_unary, method, gate)
            return grpc.unary_unary_rpc_method_handler(guarded, **codecs)
        if handler.stream_unary:
            guarded = _guard(handler.stream_unary, method, gate, is_stream=True)
            return grpc.stream_unary_rpc_method_handler(guarded, **codecs)
        if handler.unary_stream:
            guarded_stream = _guard_stream(handler.unary_stream, method, gate)
            return grpc.unary_stream_rpc_method_handler(guarded_stream, **codecs)
        return grpc.stream_stream_rpc_method_handler(_guard_stream(handler.stream_stream, method, gate), **codecs)


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
    call: Callable[..., Awaitable[Any]], method: str, gate: Gate | None, *, is_stream: bool = False
) -> Callable[..., Awaitable[Any]]:
    check: Callable[[Any], Any] = _CheckedStream if is_stream else _checked

    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            if gate is not None and gate.error is not None:
                raise gate.error
            return await call(check(request), context)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            await _abort(context, translate(error, method))

    return guarded


def _guard_stream(
    call: Callable[..., AsyncIterator[Any]], method: str, gate: Gate | None
) -> Callable[..., AsyncIterator[Any]]:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            if gate is not None and gate.error is not None:
                raise gate.error
            async for answer in call(_checked(request), context):
                yield answer
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            await _abort(context, translate(error, method))

    return guarded
