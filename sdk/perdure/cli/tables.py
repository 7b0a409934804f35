"""Tables: coloured and fitted to a terminal, plain and unbroken in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import click

COLORS: Final = {
    "SUCCESSFUL": "green",
    "FAILED": "red",
    "CANCELED": "yellow",
    "RUNNING": "blue",
    "BACKING_OFF": "yellow",
    "RESUMABLE": "magenta",
    "alive": "green",
    "dead": "red",
}


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their columns. Text that is a state has its colour in a terminal."""
    if sys.stdout.isatty():
        _show_in_terminal(columns, rows)
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _show_in_terminal(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=COLORS.get(cell, "")) for cell in row))
    Console().print(table)
