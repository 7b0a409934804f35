"""What a call knows of its caller beside the request. Each transport tells it in its own way."""

from __future__ import annotations

from typing import Protocol


class Caller(Protocol):
    """Properties are read when they are needed: what is left of a deadline is less by then, and few calls need all."""

    @property
    def left_s(self) -> float | None:
        """Seconds until the caller gives up; None: the caller has no deadline."""
        ...

    @property
    def first_asked_ms_ago(self) -> int | None:
        """How long ago a call that is a repeat was made first, without an answer; None: it is no repeat."""
        ...
