"""Events over HTTP, for clients without gRPC: webhooks, shells, scripts written for Ray's event provider.

    POST /event/send_event/{workflow_id}?namespace=...
        {"event_key": "approved", "event_payload": {"by": "ann"}}
        Idempotency-Key: ID                  the event's id; the same one again is not delivered again

This file translates requests to SendEvent and answers to JSON; `api.events` handles the events. The Content-Type of a
request must be JSON, because that forces a CORS preflight, so a foreign web page cannot send events.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aiohttp import web

from perdure.ids import time_ordered_id
from perdure.service.api import requests
from perdure.service.api.caller import Anybody
from perdure.service.api.events import EventCalls
from perdure.service.api.gate import Gate
from perdure.service.common import limits
from perdure.service.http import bodies, headers
from perdure.v1.payload_pb2 import Payload
from perdure.v1.workflow_service_pb2 import SendEventRequest

BODY_BYTES_MAX: Final = limits.INLINE_PAYLOAD_BYTES_MAX


class EventFace:
    """Its method is the handler of a path."""

    def __init__(self, events: EventCalls, gate: Gate) -> None:
        self._events = events
        self._gate = gate

    async def send_event(self, request: web.Request) -> web.Response:
        self._gate.check()
        key, payload = _event(await bodies.json_of(request, BODY_BYTES_MAX))
        event = SendEventRequest(
            namespace=requests.namespace(request.query.get("namespace", "")),
            workflow_id=requests.workflow_id(request.match_info["workflow_id"]),
            event_key=key,
            event_id=headers.idempotency_key(request) or time_ordered_id(),
            payload=payload,
        )
        sent = await self._events.send(event, Anybody())
        return web.json_response({"sequence": sent.sequence, "duplicate": sent.duplicate})


def _event(body: Any) -> tuple[str, Payload]:
    if not isinstance(body, dict) or "event_payload" not in body:
        raise requests.invalid("body", 'has the form {"event_key": "...", "event_payload": ...}')
    key = body.get("event_key")
    if not isinstance(key, str):
        raise requests.invalid("event_key", "is required, as a string")
    try:
        text = json.dumps(body["event_payload"], ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        data = text.encode()
    except (ValueError, RecursionError) as error:
        raise requests.invalid("event_payload", f"is not JSON: {error}") from error
    if len(data) > BODY_BYTES_MAX:  # numbers may be longer than they came
        raise bodies.too_large("event_payload", len(data), BODY_BYTES_MAX)
    return requests.text(key, "event_key"), Payload(encoding="json/plain", data=data)
