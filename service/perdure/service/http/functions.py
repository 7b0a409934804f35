"""Registered functions in the OpenAPI document: what `POST /v1/runs` takes and gives.

The schemas come from workers. Each is a resource of its own (`$id`), so that its references stay inside of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from perdure.service.http.schemas import Schema, json_content
from perdure.v1 import function_service_pb2 as pb

ERROR: Final = "perdure.Error"
RUN: Final = "perdure.Run"
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The request id. The same one again is answered as the first one was.",
    "schema": {"type": "string"},
}
_WAIT: Final = {"type": "string", "pattern": r"^\d+(\.\d{1,9})?s$"}


def paths(functions: Iterable[pb.FunctionInfo]) -> dict[str, Any]:
    """The paths of runs."""
    calls = [_call(info) for info in functions if info.kind == pb.FUNCTION_KIND_TASK]
    answers = {
        "200": {"description": "The run, which has ended.", "content": json_content(_reference(RUN))},
        "202": {"description": "The run, which goes on.", "content": json_content(_reference(RUN))},
        "default": {"description": "The request was refused.", "content": json_content(_reference(ERROR))},
    }
    start = {
        "operationId": "run",
        "summary": "Run a registered function",
        "tags": ["Runs"],
        "parameters": [_KEY],
        "requestBody": {"required": True, "content": json_content({"oneOf": calls} if calls else {"type": "object"})},
        "responses": answers,
    }
    place = {"name": "workflow_id", "in": "path", "required": True, "schema": {"type": "string"}}
    look = {
        "operationId": "look",
        "summary": "Read a run, and wait for its end",
        "tags": ["Runs"],
        "parameters": [
            place,
            {"name": "namespace", "in": "query", "schema": {"type": "string"}},
            {"name": "wait", "in": "query", "schema": _WAIT},
        ],
        "responses": answers,
    }
    return {"/v1/runs": {"post": start}, "/v1/runs/{workflow_id}": {"get": look}}


def components() -> dict[str, Schema]:
    """The schemas that the paths name."""
    text = {"type": "string"}
    failure = {"type": "object", "properties": {"type": text, "message": text, "task_id": text}}
    return {
        RUN: {
            "type": "object",
            "required": ["workflow_id", "run_id", "status"],
            "properties": {
                "workflow_id": text,
                "run_id": text,
                "status": text,
                "output": {},
                "output_blob": {"type": "object"},
                "output_payload": {"type": "object"},
                "failure": failure,
            },
        },
        ERROR: {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "properties": {"reason": text, "message": text, "fields": {"type": "object"}},
                }
            },
        },
    }


def _call(info: pb.FunctionInfo) -> Schema:
    """The body that runs this function, at this version or, without one, at the one that a run gets."""
    arguments = json.loads(info.arguments_schema) if info.arguments_schema else {"type": "object"}
    arguments["$id"] = f"urn:perdure:function:{info.name.encode().hex()}:{info.version.encode().hex()}"
    required = ["name", "arguments"] if arguments.get("required") else ["name"]
    return {
        "type": "object",
        "title": info.name,
        "description": info.description,
        "required": required,
        "additionalProperties": False,
        "properties": {
            "name": {"const": info.name},
            "version": {"const": info.version},
            "arguments": arguments,
            "workflow_id": {"type": "string"},
            "namespace": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "wait": _WAIT,
        },
    }


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
