"""`perdure actor`: virtual actors by their ids."""

from __future__ import annotations

from typing import Any, Final

import click

from perdure.cli.session import SessionCommand, first
from perdure.cli.tables import show_table
from perdure.cli.values import as_json, duration, look_here, moment, parse_json, run_fields
from perdure.client import Client
from perdure.infos import ActorCallInfo, ActorInfo

Session = Any

_ADVICE: Final = """; a text has quotes, which the shell must leave: '"text"'"""


@click.group()
def actor() -> None:
    """Virtual actors."""


@actor.command("list", cls=SessionCommand)
@click.option("--filter", "filter_", default="", help='such as: class_name = "shop.Cart" AND labels.team = "pay"')
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="list at most so many")
@click.pass_obj
def list_(session: Session, filter_: str, limit: int) -> None:
    """List actors, the newest first."""

    async def read(client: Client) -> list[ActorInfo]:
        return await first(client.actors.list(filter_, page_size=min(limit, 1000)), limit)

    found = session.call(read)

    def text() -> None:
        rows = [(info.actor_id, info.status, info.class_name, moment(info.created)) for info in found]
        show_table(("actor", "status", "class", "created"), rows)

    session.show([run_fields(info) for info in found], text)


@actor.command("get", cls=SessionCommand)
@click.argument("actor_id")
@click.pass_obj
def get(session: Session, actor_id: str) -> None:
    """Show an actor's state."""
    info = session.call(lambda client: client.actors.info(actor_id))

    def text() -> None:
        click.echo(f"{info.actor_id}  {info.status}  {info.class_name}")
        click.echo(f"revision {info.revision}  pending calls {info.pending_calls}  created {moment(info.created)}")
        if info.ttl is not None:
            click.echo(f"deleted when nobody calls it for {info.ttl:g} seconds")
        if info.call_retention is not None:
            click.echo(f"results of calls are kept for {info.call_retention:g} seconds")
        if info.readonly_methods:
            click.echo(f"readonly: {', '.join(info.readonly_methods)}")
        for key, value in info.labels.items():
            click.echo(f"label {key}: {value}")
        if info.error:
            click.echo(f"reason: {info.error}")
        if info.waiting:
            click.echo(f"waiting: {info.waiting}")

    session.show(run_fields(info), text)


@actor.command("call", cls=SessionCommand)
@click.argument("actor_id")
@click.argument("method")
@click.argument("args", nargs=-1)
@click.option("--input", "text", default="{}", help="JSON object: keyword arguments, such as '{\"by\": 10}'")
@click.option("--request-id", help="a second call with the same id gets the result of the first; default: random")
@click.option("--expected-revision", type=int, help="fail unless the actor is at this revision when the call runs")
@click.option("--wait/--no-wait", default=True, help="wait for the result and print it")
@click.option("--timeout", type=click.FloatRange(min=0), help="seconds to wait; default: as long as it takes")
@click.pass_obj
def call(
    session: Session,
    actor_id: str,
    method: str,
    args: tuple[str, ...],
    text: str,
    request_id: str | None,
    expected_revision: int | None,
    wait: bool,
    timeout: float | None,
) -> None:
    """Call a METHOD of an existing actor; recorded. Each of ARGS is a JSON value.

    An argument that begins with a minus stands after --. Classes of the result are looked for in this folder, too.
    """
    given, named = _arguments(args, text)
    options: dict[str, Any] = {"request_id": request_id, "expected_revision": expected_revision}
    if not wait:
        call_id = session.call(lambda client: client.actors.start(actor_id, method, given, named, **options))
        session.show({"call_id": call_id}, lambda: click.echo(call_id))
        return
    value = session.call(lambda client: client.actors.call(actor_id, method, given, named, timeout=timeout, **options))
    session.show({"output": as_json(value)}, lambda: click.echo(value))


@actor.command("query", cls=SessionCommand)
@click.argument("actor_id")
@click.argument("method")
@click.argument("args", nargs=-1)
@click.option("--input", "text", default="{}", help='JSON object: keyword arguments, such as \'{"day": "Monday"}\'')
@click.option("--min-revision", type=click.IntRange(min=0), default=0, help="wait until the actor is at this revision")
@click.option("--timeout", type=click.FloatRange(min=0), help="seconds to wait; default: as long as it takes")
@click.pass_obj
def query(
    session: Session,
    actor_id: str,
    method: str,
    args: tuple[str, ...],
    text: str,
    min_revision: int,
    timeout: float | None,
) -> None:
    """Call a readonly METHOD on the last committed state; not recorded. Each of ARGS is a JSON value."""
    given, named = _arguments(args, text)
    value = session.call(
        lambda client: client.actors.query(actor_id, method, given, named, min_revision=min_revision, timeout=timeout)
    )
    session.show({"output": as_json(value)}, lambda: click.echo(value))


@actor.command("calls", cls=SessionCommand)
@click.argument("actor_id")
@click.option("--pending", is_flag=True, help="only calls that run or wait")
@click.pass_obj
def calls(session: Session, actor_id: str, pending: bool) -> None:
    """List the recorded calls of an actor: those that ended, then those that run or wait, in their order."""

    async def read(client: Client) -> list[ActorCallInfo]:
        return [found async for found in client.actors.calls(actor_id, only_pending=pending)]

    found = session.call(read)

    def text() -> None:
        rows = [
            (
                one.status,
                one.call_id,
                one.method,
                str(one.attempts),
                moment(one.started),
                duration(one),
                one.waiting or one.error,
            )
            for one in found
        ]
        show_table(("status", "call", "method", "attempts", "started", "took", "why"), rows)

    session.show([run_fields(one) for one in found], text)


@actor.command("drop", cls=SessionCommand)
@click.argument("actor_id")
@click.argument("call_id")
@click.pass_obj
def drop(session: Session, actor_id: str, call_id: str) -> None:
    """End a call that runs or waits: it fails, and the next call has its turn."""
    dropped = session.call(lambda client: client.actors.drop(actor_id, call_id))
    text = f"dropped {call_id}" if dropped else "nothing to drop: the call has ended, or there is none of this id"
    session.show({"dropped": dropped}, lambda: click.echo(text))


@actor.command("delete", cls=SessionCommand)
@click.argument("actor_id")
@click.pass_obj
def delete(session: Session, actor_id: str) -> None:
    """Remove an actor with its state and its calls. Calls that run or wait fail."""
    session.call(lambda client: client.actors.delete(actor_id))
    session.show({"deleted": actor_id}, lambda: click.echo(f"deleted {actor_id}"))


def _arguments(args: tuple[str, ...], text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a method. Classes of its result are found from now on."""
    named = parse_json(text, "--input")
    if not isinstance(named, dict):
        raise click.ClickException(f"--input is a JSON object: keyword arguments by name, and not {text}")
    given = tuple(parse_json(arg, f"argument {number}", advice=_ADVICE) for number, arg in enumerate(args, 1))
    look_here()
    return given, named
