"""How long tests wait for what must happen. Long, for the machine may be busy."""

from __future__ import annotations

from typing import Final

PATIENCE_S: Final = 180
"""Below the time that pyproject.toml gives a whole test."""
