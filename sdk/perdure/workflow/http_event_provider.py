"""Events that arrive by HTTP.

The engine itself takes them, at `POST /event/send_event/{workflow_id}` of its HTTP port, with the body
`{"event_key": ..., "event_payload": ...}`; an event that arrives before anybody waits for it is kept.
"""

from __future__ import annotations

from typing import Any

from perdure.workflow.event_listener import EventListener


class HTTPListener(EventListener):
    """Waits for the event of a key; the event is `(event_key, event_payload)`.

    workflow.wait_for_event(HTTPListener, event_key="approved")
    """

    async def poll_for_event(self, event_key: str) -> tuple[str, Any]:
        raise NotImplementedError("the engine waits for these events; use workflow.wait_for_event(HTTPListener, ...)")
