"""Exit codes that are none of a command's own."""

from __future__ import annotations

from typing import Final

INTERRUPTED: Final = 130
"""That of shells for a program that Ctrl-C has ended."""
