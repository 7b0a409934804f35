"""Commands for operators: `perdure doctor` and `perdure gc`."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from typing import Any

import click

from perdure.cli.serve import SettingsCommand
from perdure.cli.session import SessionCommand, style_option
from perdure.client import Client

MARKS = {"ok": ("ok", "green"), "warning": ("WARNING", "yellow"), "failed": ("FAILED", "red")}


@click.command(cls=SessionCommand)
@click.pass_obj
def gc(session: Any) -> None:
    """Look for large values that no workflow uses; the engine removes them after its grace period."""

    async def collect(client: Client) -> tuple[int, int]:
        return await client.collect_blobs()

    blobs, marked = session.call(collect)
    text = f"{blobs} blobs; {marked} of them are of no use to any workflow and will be removed"
    session.show({"blobs": blobs, "marked": marked}, lambda: click.echo(text))


@click.command(cls=SettingsCommand, params=[style_option()])
@click.pass_context
def doctor(context: click.Context, /, **flags: Any) -> None:
    """Check what an engine depends on: storage, blobs, clock, ports, Ray. Takes what `serve` takes."""
    try:
        from perdure.service.common.settings import Settings, SettingsError
        from perdure.service.doctor import Finding, examine
    except ImportError as error:
        raise click.ClickException(f"this needs more packages: pip install 'perdure[server]' ({error})") from error
    try:
        settings = Settings.load(os.environ, flags)
    except (SettingsError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    findings = asyncio.run(examine(settings))
    is_well = all(finding.status != "failed" for finding in findings)

    def show() -> None:
        for finding in findings:
            _show(finding)

    def _show(finding: Finding) -> None:
        mark, color = MARKS[finding.status]
        click.echo(f"{click.style(f'{mark:<8}', fg=color)}{finding.check:<11}{finding.text}")
        if finding.advice:
            click.echo(f"{'':<19}-> {finding.advice}")

    context.obj.show({"ok": is_well, "findings": [asdict(finding) for finding in findings]}, show)
    context.exit(0 if is_well else 1)
