"""`perdure migrate`: brings the database up to date with this version."""

from __future__ import annotations

import asyncio

import click


@click.command()
@click.option("--storage", envvar="PERDURE_STORAGE", required=True, help="where runs are kept, as for `perdure serve`")
@click.option(
    "--phase",
    type=click.Choice(["pre", "post"]),
    default=None,
    help="pre: only what engines of the version before can go on beside; post: what may come once none of them runs; "
    "default: all",
)
def migrate(storage: str, phase: str | None) -> None:
    """Bring the database of a PostgreSQL storage up to date; a SQLite one is when it is opened.

    To go from one version to the next without a pause: migrate with --phase pre, replace the engines one
    by one, then migrate with --phase post. Running it twice, or two at once, does no harm.
    """
    try:
        from perdure.storage.addresses import shown
        from perdure.storage.migrate import migrate as run
        from perdure.storage.ports import StorageError
    except ImportError as error:
        raise click.ClickException(
            f"the storage needs more packages: pip install 'perdure[server]' ({error})"
        ) from error

    try:
        applied = asyncio.run(run(storage, "pre" if phase == "pre" else "post" if phase == "post" else None))
    except (StorageError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    for name in applied:
        click.echo(f"applied {name}")
    click.echo(f"{shown(storage)} is up to date" + (f" as to its {phase} steps" if phase else ""))
