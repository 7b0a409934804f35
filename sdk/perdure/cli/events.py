"""`perdure event`: sends events to runs."""

from __future__ import annotations

import click

from perdure.cli.session import SessionCommand
from perdure.cli.values import parse_json


@click.group()
def event() -> None:
    """Events for workflows."""


@event.command("send", cls=SessionCommand)
@click.argument("workflow_id")
@click.argument("key")
@click.argument("payload", default="null")
@click.option("--event-id", help="a second event with the same id is ignored")
@click.pass_obj
def send(session, workflow_id: str, key: str, payload: str, event_id: str | None) -> None:  # type: ignore[no-untyped-def]
    """Send the event KEY with a JSON PAYLOAD; done once it is durable."""
    value = parse_json(payload, "PAYLOAD")
    is_new = session.call(lambda client: client.send_event(workflow_id, key, value, event_id=event_id))
    session.show({"new": is_new}, lambda: click.echo("sent" if is_new else "was sent before"))
