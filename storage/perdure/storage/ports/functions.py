"""Functions that workers have announced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from perdure.storage.rows import FunctionRow


class FunctionStore(Protocol):
    """Announced functions by name and version, for all engines of the database. No commit depends on them, so any
    engine may write them, and a write that is repeated changes nothing."""

    async def read_functions(self) -> list[FunctionRow]:
        """All of them, by name and version. Damaged ones are left out: workers announce them again."""
        ...

    async def write_functions(self, functions: Sequence[FunctionRow]) -> None:
        """Store functions. One with the name and version of another replaces it. Durable when this returns."""
        ...
