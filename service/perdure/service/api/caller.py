"""Facts about the caller that are not in the request. Each transport implements them."""

from __future__ import annotations

from typing import Protocol


class Caller(Protocol):
    """The caller of a call. Properties are computed when read: the remaining time shrinks, and few calls need all."""

    @property
    def left_s(self) -> float | None:
        """Seconds until the caller gives up; None: the caller has no deadline."""
        ...

    @property
    def first_asked_ms_ago(self) -> int | None:
        """How long ago a repeated call was first made, at most; None: the call is not a repeat."""
        ...

    @property
    def asked_ms_ago(self) -> int:
        """How long ago a repeated call was first made, at least; 0: nobody knows, or the call is not a repeat."""
        ...


class Anybody:
    """A caller of whom nothing is known."""

    left_s: float | None = None
    first_asked_ms_ago: int | None = None
    asked_ms_ago: int = 0
