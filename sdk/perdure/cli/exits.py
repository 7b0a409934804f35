"""Exit codes that are none of a command's own."""

from __future__ import annotations

from typing import Final

INTERRUPTED: Final = 130
"""The exit code that shells use for a program ended by Ctrl-C."""
