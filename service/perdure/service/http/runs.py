"""Runs of registered functions over HTTP, with plain JSON: the shortest way for a shell or a script.

    POST /v1/runs                            {"name": "order", "arguments": {...}, "wait": "10s"}
        Idempotency-Key: ID                  the request id; the same one again is answered as the first one was
    GET /v1/runs/{workflow_id}?wait=10s&namespace=...

Both answer with the run, and with its output or failure if it has ended. The Content-Type of a POST must be JSON,
because that forces a CORS preflight, so a foreign web page cannot run functions.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web
from google.protobuf.duration_pb2 import Duration

from perdure.ids import time_ordered_id
from perdure.service.api import requests
from perdure.service.api.calls import Calls
from perdure.service.api.gate import Gate
from perdure.service.common import limits
from perdure.service.http import bodies, headers
from perdure.service.http.connect.caller import HttpCaller
from perdure.v1.blob_service_pb2 import DownloadBlobRequest
from perdure.v1.payload_pb2 import Payload
from perdure.v1.spec_pb2 import Entrypoint, WorkflowSource
from perdure.v1.workflow_pb2 import Outcome, WorkflowStatus
from perdure.v1.workflow_service_pb2 import GetOutputRequest, RunRequest

BODY_BYTES_MAX: Final = limits.INLINE_PAYLOAD_BYTES_MAX
OUTPUT_BYTES_MAX: Final = 8 * 1024 * 1024
"""A larger output is named by its blob."""
_FIELDS: Final = {"name", "version", "arguments", "workflow_id", "namespace", "labels", "wait"}


class RunFace:
    """Its methods are the handlers of two paths."""

    def __init__(self, calls: Calls, gate: Gate) -> None:
        self._calls = calls
        self._gate = gate

    async def start(self, request: web.Request) -> web.Response:
        """Run a function. Answers 200 if the run has ended, else 202."""
        self._gate.check()
        caller = HttpCaller(request.headers)
        body = await bodies.json_of(request, BODY_BYTES_MAX)
        call = _run_request(body, request)
        answer = await self._calls.runs.run(call, caller)
        run = answer.workflow
        return await self._answer(run.workflow_id, run.run_id, run.status, answer.outcome, call.namespace)

    async def look(self, request: web.Request) -> web.Response:
        """A run, after its end or the time of `wait`."""
        self._gate.check()
        caller = HttpCaller(request.headers)
        namespace = request.query.get("namespace", "")
        asked = GetOutputRequest(namespace=namespace, workflow_id=request.match_info["workflow_id"])
        if (wait := request.query.get("wait")) is not None:
            asked.wait.CopyFrom(_duration(wait))
        found = await self._calls.runs.output(asked, caller)
        return await self._answer(asked.workflow_id, found.run_id, found.status, found.outcome, namespace)

    async def _answer(
        self, workflow_id: str, run_id: str, status: WorkflowStatus, outcome: Outcome, namespace: str
    ) -> web.Response:
        name = WorkflowStatus.Name(status).removeprefix("WORKFLOW_STATUS_")
        told: dict[str, Any] = {"workflow_id": workflow_id, "run_id": run_id, "status": name}
        match outcome.WhichOneof("kind"):
            case "output":
                return _response(told, *await self._output(outcome.output, namespace))
            case "failure":
                failure = outcome.failure
                told["failure"] = {"type": failure.type, "message": failure.message, "task_id": failure.task_id}
            case _:
                return web.json_response(told, status=202)
        return web.json_response(told)

    async def _output(self, output: Payload, namespace: str) -> tuple[str, str]:
        """The field of the answer, and its JSON: the value, or, if it is no JSON or large, where it is."""
        if output.encoding == "binary/null":
            return "output", "null"
        data = output.data
        if output.HasField("blob"):
            blob = output.blob
            if blob.size_bytes > OUTPUT_BYTES_MAX:
                named = {"encoding": output.encoding, "sha256": blob.sha256, "size_bytes": blob.size_bytes}
                return "output_blob", json.dumps(named)
            asked = DownloadBlobRequest(namespace=namespace, sha256=blob.sha256)
            data = b"".join([part.chunk.data async for part in self._calls.blobs.download(asked)])
        if output.encoding == "json/plain" and not output.codecs and bodies.is_json(data):
            return "output", data.decode()
        encoded = base64.b64encode(data).decode()
        named = {"encoding": output.encoding, "codecs": list(output.codecs), "data": encoded}
        return "output_payload", json.dumps(named)


def _response(told: Mapping[str, Any], field: str, text: str) -> web.Response:
    """The answer with one more field, which is JSON already and stays as it is: numbers may be of any size."""
    return web.Response(text=f'{json.dumps(told)[:-1]}, "{field}": {text}}}', content_type="application/json")


def _run_request(body: Any, request: web.Request) -> RunRequest:
    if not isinstance(body, dict):
        raise requests.invalid("body", 'has the form {"name": "...", "arguments": {...}}')
    if unknown := sorted(body.keys() - _FIELDS):
        raise requests.invalid(unknown[0], f"is no field of a run; there are {', '.join(sorted(_FIELDS))}")
    request_id = headers.idempotency_key(request) or ("" if body.get("workflow_id") else time_ordered_id())
    arguments = body.get("arguments", {})
    if not isinstance(arguments, dict):
        raise requests.invalid("arguments", "is an object by parameter name")
    entrypoint = Entrypoint(
        name=_text(body, "name"), version=_text(body, "version"), arguments=bodies.json_text(arguments, "arguments")
    )
    call = RunRequest(
        namespace=_text(body, "namespace"),
        workflow_id=_text(body, "workflow_id"),
        request_id=request_id,
        source=WorkflowSource(entrypoint=entrypoint),
        labels=_labels(body.get("labels", {})),
    )
    if "wait" in body:
        call.wait.CopyFrom(_duration(body["wait"]))
    return call


def _text(body: Mapping[str, Any], field: str) -> str:
    value = body.get(field, "")
    if not isinstance(value, str):
        raise requests.invalid(field, "is a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise requests.invalid(field, "is no Unicode text") from error
    return value


def _labels(given: Any) -> dict[str, str]:
    if not isinstance(given, dict):
        raise requests.invalid("labels", "is an object of strings")
    return {_text({"labels": key}, "labels"): _text({"labels": value}, "labels") for key, value in given.items()}


def _duration(text: Any) -> Duration:
    """Such as "10s"; a number is one of seconds."""
    duration = Duration()
    try:
        if isinstance(text, (int, float)) and not isinstance(text, bool):
            text = f"{text:f}s"
        duration.FromJsonString(text if isinstance(text, str) else "")
    except (ValueError, OverflowError) as error:
        raise requests.invalid("wait", 'is a number of seconds, as in "10s"') from error
    return duration
