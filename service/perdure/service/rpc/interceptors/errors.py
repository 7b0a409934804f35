"""Turns every exception of a servicer into a gRPC status with a reason.

`api.errors.translate` decides what the caller may know. An unexpected error is logged under an id, and the caller gets
the id only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, NoReturn

import grpc.aio

from perdure import errors
from perdure.service.api.errors import translate
from perdure.service.rpc.context import Context
from perdure.service.rpc.interceptors.chain import Handler


def answer_errors(handler: Handler) -> Handler:
    """The outermost part: it also translates the errors of the other parts."""
    call, method = handler.call, handler.method

    async def answered(request: Any, context: Context) -> Any:
        try:
            return await call(request, context)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            await _abort(context, translate(error, method))

    async def streamed(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for answer in call(request, context):
                yield answer
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            await _abort(context, translate(error, method))

    return replace(handler, call=streamed if handler.gives_stream else answered)


async def _abort(context: Context, error: errors.PerdureError) -> NoReturn:
    details = (errors.DETAILS_KEY, errors.to_status(error).SerializeToString())
    await context.abort(error.status, errors.cut(error.message, errors.STATUS_TEXT_BYTES_MAX), (details,))
    raise AssertionError("abort raises")
