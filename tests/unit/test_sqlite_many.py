"""Many rows in one statement of SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from perdure.storage.sqlite.many import SIZES, inserting


@pytest.mark.parametrize("count", [0, *range(1, SIZES[0] + 2), 2 * SIZES[0] - 1, 10 * SIZES[0] + 3])
def test_all_rows_are_written_in_their_order(count: int) -> None:
    with closing(sqlite3.connect(":memory:")) as sql:
        sql.execute("CREATE TABLE numbers (place INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, square INTEGER)")
        rows = [(str(number), number * number) for number in range(count)]
        inserting("INSERT", "numbers", ("name", "square")).execute(sql, rows)
        assert sql.execute("SELECT name, square FROM numbers ORDER BY place").fetchall() == rows


def test_a_later_row_replaces_an_earlier_one() -> None:
    with closing(sqlite3.connect(":memory:")) as sql:
        sql.execute("CREATE TABLE numbers (name TEXT PRIMARY KEY, square INTEGER)")
        inserting("INSERT OR REPLACE", "numbers", ("name", "square")).execute(sql, [("a", 1), ("b", 2), ("a", 3)])
        assert sql.execute("SELECT name, square FROM numbers ORDER BY name").fetchall() == [("a", 3), ("b", 2)]
