"""Repeats: calls that their callers make again, because they got no answer."""

from __future__ import annotations

from perdure.model import frozen


@frozen
class Repeat:
    """The call may have been made before, and have had its effect. It was made first at most `since_ms` ago, and at
    least `surely_since_ms`: 0 if nobody knows."""

    since_ms: int
    surely_since_ms: int = 0


def aged(repeat: Repeat | None, ms: int) -> Repeat:
    """What is known of a call that came so long ago. It may have had its effect meanwhile: the journal repeats a commit
    whose answer was lost."""
    since_ms, surely_since_ms = (repeat.since_ms, repeat.surely_since_ms) if repeat is not None else (0, 0)
    return Repeat(since_ms + ms, surely_since_ms + ms)
