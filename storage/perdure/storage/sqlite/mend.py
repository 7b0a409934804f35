"""Checks an embedded database before an engine uses it, and rebuilds damaged indexes.

An index that differs from its table hides rows: a run seems to be unknown, or a task seems not to have run. SQLite
also refuses to change such rows. Rows have seals, so a good row proves that the index is wrong. If pages are damaged,
the engine does not start, because writes to such a file may damage more of it.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Final

from perdure.storage.ports import CorruptData
from perdure.storage.sqlite.check import damaged_pages, damaged_tables

log = logging.getLogger(__name__)

CHECKED_BYTES_MAX: Final = 32 * 1024 * 1024
"""Larger databases are not checked as a whole at the start, which would take seconds. `perdure doctor` checks them."""
TOLD_MAX: Final = 5
_INDEXES: Final = "SELECT name, tbl_name, sql IS NULL FROM sqlite_master WHERE type = 'index'"
FOUND_BY: Final = ("runs_current", "runs_request", "events_id")
"""Indexes by which rows are found, besides primary keys. They may still hold the right key of a damaged row, and no
update of a run or a task changes them. In a table with damaged rows, they stay as they are."""
OF_ROWS: Final = ("missing from index", "wrong # of entries in index", "non-unique entry in index", " value in ")
"""Parts of SQLite's messages about rows and index entries. All other messages are about pages."""


def mend_indexes(connection: sqlite3.Connection, path: Path) -> None:
    """Rebuild damaged indexes. Raises CorruptData if pages are damaged, and sqlite3.Error if nothing can be read."""
    if path.stat().st_size > CHECKED_BYTES_MAX:
        return
    damages = damaged_pages(connection, TOLD_MAX)
    if not damages:
        return
    told = "; ".join(damages)
    if any(not any(text in damage for text in OF_ROWS) for damage in damages):
        raise CorruptData(
            f"{path} is damaged: {told}; restore a backup, or save what can be read with "
            f"`sqlite3 {path.name} .recover`; `perdure doctor` says more",
            subject=path.name,
        )
    log.error("the database is damaged", extra={"database": str(path), "damage": told})
    try:
        damaged = damaged_tables(connection)
        for name, table, is_constraint in connection.execute(_INDEXES).fetchall():
            if table not in damaged or not (is_constraint or name in FOUND_BY):
                connection.execute(f"REINDEX {name}")
    except sqlite3.Error as error:
        log.error("the indexes cannot be made anew", extra={"database": str(path), "error": str(error)})
        return
    if not damaged_pages(connection, TOLD_MAX):
        log.error("the damage was in indexes, which were made anew from the rows", extra={"database": str(path)})
