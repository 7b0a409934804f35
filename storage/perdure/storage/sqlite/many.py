"""Many rows in one statement.

Each statement releases the GIL and must get it back from a busy event loop, and so does each row of `executemany`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

SIZES: Final = (32, 16, 8, 4, 2, 1)
"""Rows per statement. There are few sizes, so that each statement is prepared once. The largest one has fewer than 999
values, which every SQLite takes."""


class ManyRows:
    """A statement with a list of rows: `head VALUES (?, ...), (?, ...) tail`."""

    def __init__(self, head: str, row: str, tail: str = "") -> None:
        """`row` is the text of one row, with its question marks."""
        self._texts = [(size, f"{head} VALUES {', '.join([row] * size)}{tail}") for size in SIZES]

    def execute(self, sql: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Run the statement for all rows, in their order."""
        begin = 0
        for size, text in self._texts:
            while len(rows) - begin >= size:
                sql.execute(text, list(chain.from_iterable(rows[begin : begin + size])))
                begin += size


def inserting(verb: str, table: str, columns: Sequence[str]) -> ManyRows:
    """Inserts rows with values for these columns."""
    return ManyRows(into(verb, table, columns), marks(len(columns)))


def into(verb: str, table: str, columns: Sequence[str]) -> str:
    """The head of an INSERT."""
    return f"{verb} INTO {table} ({', '.join(columns)})"


def marks(count: int) -> str:
    """A row of so many question marks."""
    return f"({', '.join('?' * count)})"
