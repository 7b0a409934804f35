"""`perdure engines`: the engines of the service's database."""

from __future__ import annotations

import dataclasses

import click

from perdure.cli.session import SessionCommand
from perdure.cli.tables import show_table
from perdure.cli.values import moment


@click.command(cls=SessionCommand)
@click.pass_obj
def engines(session) -> None:  # type: ignore[no-untyped-def]
    """List the engines that work on the service's database, those that died lately included."""
    found = session.call(lambda client: client.engines())

    def text() -> None:
        rows = [
            (
                engine.engine_id,
                engine.name,
                engine.address,
                engine.version,
                moment(engine.started),
                moment(engine.expires),
                "dead" if engine.is_dead else "alive",
            )
            for engine in found
        ]
        show_table(("engine", "machine", "address", "version", "started", "lease ends", "state"), rows)

    session.show([dataclasses.asdict(engine) for engine in found], text)
