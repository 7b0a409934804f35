"""Errors as Connect tells them: a code, a text, and the details that an answer of gRPC has.

`api.errors.translate` decides what the caller may know. `Refused` is for what gRPC refuses by itself: requests that are
no calls, and deadlines.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web
from google.protobuf import json_format, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pool import Default

from perdure import errors
from perdure.service.api.errors import translate
from perdure.service.http import headers

STATUS: Final = {
    # of HTTP, by code
    "canceled": 499,
    "unknown": 500,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 400,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "data_loss": 500,
    "unauthenticated": 401,
}


class Refused(Exception):
    """A request that is no call of the API, or whose deadline has passed. `status` of HTTP: if not that of the code."""

    def __init__(
        self, code: str, message: str, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = STATUS[code] if status is None else status
        self.headers = dict(headers or {})


def told(error: Exception, method: str) -> dict[str, Any]:
    """The error as JSON. An unexpected one is logged under an id, and the caller gets the id only."""
    if isinstance(error, Refused):
        return {"code": error.code, "message": error.message}
    known = translate(error, method)
    status = errors.to_status(known)
    return {
        "code": known.status.name.lower().replace("cancelled", "canceled"),
        "message": status.message,
        "details": [_detail(detail) for detail in status.details],
    }


def answer(error: Exception, method: str) -> web.Response:
    """The answer to a call that failed."""
    if isinstance(error, Refused):
        return web.json_response(told(error, method), status=error.status, headers=error.headers)
    known = translate(error, method)
    about = told(known, method)
    return web.json_response(about, status=STATUS[about["code"]], headers=headers.retry_after(known))


def _detail(detail: AnyMessage) -> dict[str, Any]:
    name = detail.TypeName()
    message = message_factory.GetMessageClass(Default().FindMessageTypeByName(name))()
    detail.Unpack(message)
    return {
        "type": name,
        "value": base64.b64encode(detail.value).decode().rstrip("="),
        "debug": json_format.MessageToDict(message),
    }
