"""Functions that workers have announced."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.storage.memory.database import Connected
from perdure.storage.rows import FunctionRow


class Functions(Connected):
    """Implements FunctionStore."""

    async def read_functions(self) -> list[FunctionRow]:
        return [row for _, row in sorted(self._all.functions.items())]

    async def write_functions(self, functions: Sequence[FunctionRow]) -> None:
        self._all.functions.update(((row.name, row.version), row) for row in functions)
