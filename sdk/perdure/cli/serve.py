"""`perdure serve` and `perdure agent`: the processes of the service. Options follow from the settings."""

from __future__ import annotations

import os
from typing import Any

import click


class SettingsCommand(click.Command):
    """Makes its options from the settings when they are first read, so that clients need no server parts."""

    _has_knobs = False

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self._has_knobs:
            self.params += _knobs()
            self._has_knobs = True
        return super().get_params(ctx)


def _knobs() -> list[click.Parameter]:
    from dataclasses import fields

    from perdure.service.common.settings import Settings

    made: list[click.Parameter] = []
    for knob in fields(Settings):
        choices = knob.metadata["choices"]
        kind: Any = click.Choice(choices) if choices else type(knob.default)
        text = f"{knob.metadata['help']} (PERDURE_{knob.name.upper()}; default: {knob.default})"
        flag = knob.metadata["flag"] or knob.name.replace("_", "-")
        given = {"is_flag": True, "flag_value": True} if kind is bool else {"type": kind}
        made.append(click.Option([f"--{flag}", knob.name], default=None, help=text, **given))
    return made


@click.command(cls=SettingsCommand)
def serve(**flags: Any) -> None:
    """Run the service: an engine, and with it an agent for a local Ray."""
    try:
        from perdure.service.process import serve as run
    except ImportError as error:
        raise click.ClickException(
            f"the service needs more packages: pip install 'perdure[server]' ({error})"
        ) from error
    from perdure.logs import configure
    from perdure.service.common.settings import Settings, SettingsError
    from perdure.storage.ports import StorageError

    try:
        settings = Settings.load(os.environ, flags)
        configure(settings.log_level, settings.log_format)
        run(settings, announce=lambda line: click.echo(line))
    except (SettingsError, StorageError, ValueError) as error:
        raise click.ClickException(str(error)) from error


@click.command()
@click.option("--address", "engine", envvar="PERDURE_ADDRESS", required=True, help="host:port of the engine")
@click.option("--ray-address", default="auto", show_default=True, help="local, auto or host:port of a Ray cluster")
@click.option("--ray-cpus", default=0, help="CPUs of a local Ray; 0: those of the machine")
@click.option("--ray-namespace", default="", help="Ray's namespace of the tasks; default: one of its own")
@click.option("--import", "imports", default="", help="modules that workers import, with commas between them")
def agent(engine: str, ray_address: str, ray_cpus: int, ray_namespace: str, imports: str) -> None:
    """Give an engine the use of a Ray cluster; runs inside the cluster, for ever."""
    try:
        from perdure.announcing import listed
        from perdure.worker.agent import AgentSettings, run_agent

        run_agent(AgentSettings(engine, ray_address, ray_cpus, ray_namespace, imports=listed(imports)))
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise click.ClickException(f"an agent needs Ray: pip install 'perdure[ray]' ({error})") from error
