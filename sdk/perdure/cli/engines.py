"""`perdure engines`: who works on the service's database."""

from __future__ import annotations

import dataclasses

import click

from perdure.cli.values import moment


@click.command()
@click.pass_obj
def engines(session) -> None:  # type: ignore[no-untyped-def]
    """List the engines that work on the service's database, those that died lately included."""
    found = session.call(lambda client: client.engines())

    def text() -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for column in ("engine", "machine", "address", "version", "started", "lease ends", "state"):
            table.add_column(column, overflow="fold")
        for engine in found:
            state = "[red]dead[/]" if engine.is_dead else "[green]alive[/]"
            times = (moment(engine.started), moment(engine.expires))
            table.add_row(engine.engine_id, engine.name, engine.address, engine.version, *times, state)
        Console().print(table)

    session.show([dataclasses.asdict(engine) for engine in found], text)
