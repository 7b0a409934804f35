"""Migrations: numbered files of SQL, each applied once, in order, each in one transaction.

`sqlite_NNNN_name.sql` is applied when the file is opened. `postgres_NNNN_[pre|post_]name.sql` is applied by
`perdure migrate`, because several engines, perhaps of two versions, share a database. A step without a phase is a
pre step.

- *pre* steps come before the first engine of the new version starts. Engines of the previous version go on working
  beside them: new tables, new columns with defaults, new indexes.
- *post* steps come after the last engine of the previous version has ended. They remove parts that only it used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import Final, Literal, TypeAlias

Phase: TypeAlias = Literal["pre", "post"]

_NAME: Final = re.compile(r"(?P<backend>[a-z]+)_(?P<number>\d{4})_(?:(?P<phase>pre|post)_)?\w+\.sql")


@dataclass(frozen=True, slots=True, order=True)
class Migration:
    """One step."""

    number: int
    name: str
    phase: Phase
    sql: str


def migrations(backend: str) -> list[Migration]:
    """Every step for a kind of database, in order."""
    found = []
    for file in resources.files("perdure.storage.migrations").iterdir():
        match = _NAME.fullmatch(file.name)
        if match is not None and match["backend"] == backend:
            phase: Phase = "post" if match["phase"] == "post" else "pre"
            found.append(Migration(int(match["number"]), file.name, phase, file.read_text()))
    return sorted(found)
