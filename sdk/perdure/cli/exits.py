"""How commands end with an error: exit codes that are none of a command's own, and errors in a command's words."""

from __future__ import annotations

from typing import Final

from perdure import errors

INTERRUPTED: Final = 130
"""The exit code that shells use for a program ended by Ctrl-C."""


def in_own_words(error: errors.PerdureError) -> str:
    """The message, with the option names of Python in its advice replaced by those of this command line."""
    if not isinstance(error, errors.WorkflowAlreadyExistsError):
        return error.message
    told, mark, advice = error.message.rpartition("; ")
    for option in ("reuse", "conflict"):
        advice = advice.replace(f"id_{option} ", f"--id-{option} ")
    return told + mark + advice.replace("'", "")
