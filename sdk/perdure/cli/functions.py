"""`perdure function`: what clients may call by name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from perdure.cli.session import SessionCommand, first
from perdure.cli.tables import show_table
from perdure.client import Client
from perdure.infos import FunctionInfo

Session = Any


@click.group()
def function() -> None:
    """Functions that clients may call by name."""


@function.command("list", cls=SessionCommand)
@click.argument("prefix", default="")
@click.option("--all-versions", is_flag=True, help="list those too that a run without a version does not get")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="list at most so many")
@click.pass_obj
def list_(session: Session, prefix: str, all_versions: bool, limit: int) -> None:
    """List functions whose names begin with PREFIX."""

    async def read(client: Client) -> list[FunctionInfo]:
        return await first(client.functions(prefix, all_versions=all_versions), limit)

    found = session.call(read)

    def text() -> None:
        rows = [
            (info.name, info.version, info.kind, "yes" if info.is_served else "no", _first_line(info.description))
            for info in found
        ]
        show_table(("function", "version", "kind", "served", "description"), rows)

    session.show([_fields(info) for info in found], text)


@function.command("get", cls=SessionCommand)
@click.argument("name")
@click.option("--version", default="", help="default: the one that a run gets")
@click.pass_obj
def get(session: Session, name: str, version: str) -> None:
    """Show what a function takes and gives."""
    info = session.call(lambda client: client.function(name, version))

    def text() -> None:
        version = f" {info.version}" if info.version else ""
        click.echo(f"{info.name}{version}  {info.kind}  {'served' if info.is_served else 'not served'}  {info.module}")
        if info.description:
            click.echo(info.description)
        _show_schema("arguments", info.arguments_schema)
        _show_schema("result", info.result_schema)
        for method in info.methods:
            click.echo(f"{method.name}{' (readonly)' if method.readonly else ''}  {_first_line(method.description)}")
            _show_schema("arguments", method.arguments_schema)
            _show_schema("result", method.result_schema)

    session.show(_fields(info), text)


def _show_schema(title: str, schema: str) -> None:
    if schema:
        click.echo(f"{title}: {json.dumps(json.loads(schema), indent=2)}")


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _fields(info: FunctionInfo) -> dict[str, Any]:
    """As JSON, with the schemas as objects."""
    fields = dataclasses.asdict(info)
    for described in (fields, *fields["methods"]):
        for name in ("arguments_schema", "result_schema"):
            described[name] = json.loads(described[name]) if described[name] else None
    return fields
