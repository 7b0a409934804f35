"""The one interceptor: what a servicer raises becomes a precise status, and nothing else gets out.

Errors of ours keep their reason and fields; what the store raises is translated; anything unknown is
logged under an id, and only the id travels. While the engine starts or drains, calls are refused here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from perdure import errors
from perdure.model import InvalidSpec
from perdure.service.changes import Closed, Overflowed
from perdure.service.trouble import refusal
from perdure.storage.ports import StorageError

log = logging.getLogger(__name__)

OURS: Final = "/perdure.v1."
HEALTH: Final = "/grpc.health.v1.Health/"
ALWAYS: Final = ("/perdure.v1.SystemService/GetSystemInfo", HEALTH)
"""Answered also while the engine starts or drains."""
INTERNAL: Final = "/perdure.v1.WorkerService/"

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


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


def translate(error: Exception, method: str) -> errors.PerdureError:
    """What a caller may know of an error."""
    match error:
        case errors.PerdureError():
            return error
        case InvalidSpec():
            return errors.InvalidSpecError(str(error), node_id=error.node_id)
        case StorageError():
            known = refusal(error)
            assert isinstance(known, errors.PerdureError)
            return known
        case Closed():
            return errors.DrainingError("the engine is shutting down; reconnect with the last resume token")
        case Overflowed():
            return errors.SlowConsumerError("the reader fell too far behind; reconnect with the last resume token")
        case _:
            error_id = secrets.token_hex(8)
            log.error("unexpected error", exc_info=error, extra={"method": method, "error_id": error_id})
            return errors.InternalError(f"internal error {error_id}", error_id=error_id)


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
