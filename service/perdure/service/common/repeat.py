"""Repeats: calls that their callers make again, because they got no answer."""

from __future__ import annotations

from perdure.model import frozen


@frozen
class Repeat:
    """The call may have been made before, and have had its effect. It was made first at most `since_ms` ago, and at
    least `surely_since_ms`: 0 if nobody knows."""

    since_ms: int
    surely_since_ms: int = 0
