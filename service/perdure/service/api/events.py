"""Calls that send one event."""

from __future__ import annotations

from perdure import errors, wire
from perdure.service.api import requests
from perdure.service.api.caller import Caller
from perdure.service.api.sources import Sources
from perdure.service.operations.events import Events
from perdure.v1 import workflow_service_pb2 as pb


class EventCalls:
    """Sends events to runs."""

    def __init__(self, events: Events, sources: Sources) -> None:
        self._events = events
        self._sources = sources

    async def send(self, request: pb.SendEventRequest, caller: Caller) -> pb.SendEventResponse:
        """Answers once the event is durable. A repeated event id is answered as a duplicate and changes nothing."""
        if request.ack not in (pb.EVENT_ACK_UNSPECIFIED, pb.EVENT_ACK_STORED):
            raise errors.CapabilityMissingError(
                "this server acknowledges stored events only", capability="ack-consumed"
            )
        event = requests.event(request)
        await self._sources.check_blobs(event.payload.blobs())
        sent = await self._events.send(
            requests.namespace(request.namespace),
            event.workflow_id,
            key=event.key,
            event_id=event.event_id,
            payload=event.payload,
            repeat=caller.repeat,
        )
        return pb.SendEventResponse(
            sequence=sent.sequence,
            duplicate=sent.is_duplicate,
            commit_time=wire.to_timestamp(sent.committed_ms),
        )
