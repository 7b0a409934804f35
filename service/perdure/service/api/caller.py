"""Facts about the caller that are not in the request. Each transport implements them."""

from __future__ import annotations

from typing import Protocol

from perdure.service.common.repeat import Repeat


class Caller(Protocol):
    """The caller of a call. Properties are computed when read: the remaining time shrinks, and few calls need all."""

    @property
    def left_s(self) -> float | None:
        """Seconds until the caller gives up; None: the caller has no deadline."""
        ...

    @property
    def repeat(self) -> Repeat | None:
        """The age of the first try, if this call is a repeat."""
        ...


class Anybody:
    """A caller of whom nothing is known."""

    left_s: float | None = None
    repeat: Repeat | None = None
