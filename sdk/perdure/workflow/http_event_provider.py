"""Events over HTTP.

The engine itself takes them, at `POST /event/send_event/{workflow_id}` of its HTTP port, with the body
`{"event_key": ..., "event_payload": ...}`. An event for which no task waits yet is kept.
"""

from __future__ import annotations

from typing import Any, NoReturn

from perdure.workflow.connection import connect
from perdure.workflow.event_listener import EventListener
from perdure.workflow.exceptions import WorkflowError


class WorkflowEventHandleError(WorkflowError):
    """Kept for `except` clauses. Nothing raises it, because events are not handled by a task any more."""


class HTTPListener(EventListener):
    """Waits for the event of a key; the event is `(event_key, event_payload)`.

    workflow.wait_for_event(HTTPListener, event_key="approved")
    """

    async def poll_for_event(self, event_key: str) -> tuple[str, Any]:
        raise NotImplementedError(
            "the engine waits for these events, so no listener can call this; bind a task to the event instead: "
            "handle.bind(workflow.wait_for_event(HTTPListener, event_key=...))"
        )


class HTTPEventProvider:
    """The endpoint for events. Ray Workflows needed a deployment of Ray Serve; here the engine itself listens."""

    @staticmethod
    def url() -> str:
        """The address of the engine's endpoint, to which a workflow's id is appended:
        `requests.post(url() + "my-workflow", json={"event_key": ..., "event_payload": ...})`.
        RuntimeError if the engine has no HTTP port."""
        connection = connect()
        address = connection.ask(connection.client.info()).http_address
        if not address:
            raise RuntimeError("this engine takes no events by HTTP; start it with --http-listen")
        return f"http://{address}/event/send_event/"

    @classmethod
    def deploy(cls) -> str:
        """Nothing to do. Returns `url()`."""
        return cls.url()

    @classmethod
    def bind(cls) -> NoReturn:
        """There is no deployment to bind: TypeError with what to do instead."""
        raise TypeError(
            "the engine takes events by HTTP itself, so there is nothing to deploy with Ray Serve: leave serve.run "
            "out, and send events to HTTPEventProvider.url()"
        )
