"""The API over HTTP as an OpenAPI document: the calls with one request and one answer, by POST.

It is made of the descriptors when it is first asked for. They have no comments, so the document has none either. What
runs of registered functions take is added each time, since workers may announce others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from perdure.connection import AGE_KEY, REPEAT_KEY
from perdure.service.api.calls import Calls
from perdure.service.http import functions
from perdure.service.http.connect.caller import TIMEOUT, TIMEOUT_DIGITS_MAX
from perdure.service.http.connect.methods import Method
from perdure.service.http.connect.refusals import STATUS
from perdure.service.http.schemas import Schema, json_content, reference, schemas
from perdure.v1.function_service_pb2 import ListFunctionsRequest

VERSION: Final = "3.1.0"
ERROR: Final = "connect.Error"
FUNCTIONS_MAX: Final = 1_000
"""The document has at most so many functions."""
_HEADERS: Final = {
    "timeout": (TIMEOUT, "Milliseconds until the call is given up.", rf"^\d{{1,{TIMEOUT_DIGITS_MAX}}}$"),
    "previousAttempts": (REPEAT_KEY, "Of a call that is made again: how often it was made before.", r"^\d+$"),
    "askedMsAgo": (AGE_KEY, "Of a call that is made again: milliseconds since it was first made.", r"^\d+$"),
}


class OpenApi:
    """Its method is the handler of the document's path."""

    def __init__(self, methods: Mapping[str, Method], calls: Calls) -> None:
        self._methods = methods
        self._calls = calls
        self._document: dict[str, Any] = {}

    async def answer(self, _request: web.Request) -> web.Response:
        if not self._document:
            self._document = document(self._methods, self._calls.system.info().server_version)
        known = await self._calls.functions.list(ListFunctionsRequest(page_size=FUNCTIONS_MAX))
        told = {**self._document, "paths": self._document["paths"] | functions.paths(known.functions)}
        return web.Response(body=json.dumps(told).encode(), content_type="application/json")


def document(methods: Mapping[str, Method], version: str) -> dict[str, Any]:
    """The document. `version` is that of the server."""
    unary = [method for method in methods.values() if not method.is_streaming]
    kinds = [kind for method in unary for kind in (method.descriptor.input_type, method.descriptor.output_type)]
    headers = {
        name: {"name": header, "in": "header", "description": text, "schema": {"type": "string", "pattern": pattern}}
        for name, (header, text, pattern) in _HEADERS.items()
    }
    return {
        "openapi": VERSION,
        "info": {"title": "Perdure", "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "paths": {method.path: {"post": _operation(method)} for method in unary},
        "components": {"parameters": headers, "schemas": schemas(kinds) | functions.components() | {ERROR: _error()}},
    }


def _operation(method: Method) -> dict[str, Any]:
    service = method.descriptor.containing_service.name
    return {
        "operationId": f"{service}_{method.descriptor.name}",
        "summary": method.descriptor.name,
        "tags": [service],
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in _HEADERS],
        "requestBody": {"required": True, "content": json_content(reference(method.descriptor.input_type))},
        "responses": {
            "200": {"description": "The answer.", "content": json_content(reference(method.descriptor.output_type))},
            "default": {
                "description": "The call failed.",
                "content": json_content({"$ref": f"#/components/schemas/{ERROR}"}),
            },
        },
    }


def _error() -> Schema:
    """Errors of Connect. The detail google.rpc.ErrorInfo has the reason."""
    detail = {
        "type": "object",
        "required": ["type", "value"],
        "properties": {
            "type": {"type": "string"},
            "value": {"type": "string", "contentEncoding": "base64"},
            "debug": {"type": "object"},
        },
    }
    return {
        "type": "object",
        "required": ["code"],
        "properties": {
            "code": {"type": "string", "enum": list(STATUS)},
            "message": {"type": "string"},
            "details": {"type": "array", "items": detail},
        },
    }
