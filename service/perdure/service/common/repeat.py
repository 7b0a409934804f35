"""Repeats: calls that their callers make again, because they got no answer."""

from __future__ import annotations

from perdure.model import frozen


@frozen
class Repeat:
    """A call that may have taken effect before. Its first try was between `surely_since_ms` (0: unknown) and `since_ms`
    ago."""

    since_ms: int
    surely_since_ms: int = 0


def aged(repeat: Repeat | None, ms: int) -> Repeat:
    """The `Repeat` of a call that came `ms` ago. The call may have taken effect meanwhile: the journal repeats a commit
    whose answer was lost."""
    since_ms, surely_since_ms = (repeat.since_ms, repeat.surely_since_ms) if repeat is not None else (0, 0)
    return Repeat(since_ms + ms, surely_since_ms + ms)
