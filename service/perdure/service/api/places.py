"""Places among the commits: the position of a watch, as encoded in its resume token.

A place has one of three forms:

- `number`: everything up to this commit was sent.
- `[number, run id]`: a commit that is too large for one message was sent up to this run, in the order of run ids.
- `[number, since, run id, position]`: a snapshot as of the commit `number` (with `since`, only changes after that
  commit) was sent up to this run and the first `position` of its tasks.
"""

from __future__ import annotations

from typing import Any, Final

from perdure.model import frozen
from perdure.service.api import requests

QUESTION: Final = ("watch",)
WHOLE: Final = "\U0010ffff"
"""A run id after all others."""
NEVER: Final = -1
"""Encodes `since` of a full snapshot."""


@frozen
class Place:
    """`run_id` WHOLE: the whole commit. `position` None: not inside a snapshot. `since` None: a full snapshot."""

    change: int
    run_id: str = WHOLE
    since: int | None = None
    position: int | None = None

    @property
    def is_in_snapshot(self) -> bool:
        return self.position is not None

    @property
    def whole(self) -> int:
        """The last commit that was sent completely, provided that the rest of a snapshot is sent too."""
        return self.change if self.is_in_snapshot or self.run_id == WHOLE else self.change - 1

    def token(self) -> str:
        place: Any = self.change
        if self.is_in_snapshot:
            place = [self.change, NEVER if self.since is None else self.since, self.run_id, self.position]
        elif self.run_id != WHOLE:
            place = [self.change, self.run_id]
        return requests.make_token(QUESTION, place)


def read(token: str) -> Place | None:
    """The place in a token; None for an empty one. Raises InvalidPageTokenError for an invalid one."""
    match requests.read_token(token, QUESTION, _is_place):
        case None:
            return None
        case [change, run_id]:
            return Place(change, run_id)
        case [change, since, run_id, position]:
            return Place(change, run_id, None if since == NEVER else since, position)
        case change:
            return Place(change)


def _is_place(place: Any) -> bool:
    match place:
        case [change, str()]:
            return requests.is_number(change)
        case [change, since, str(), position]:
            return all(map(requests.is_number, (change, since + 1 if type(since) is int else since, position)))
        case _:
            return requests.is_number(place)
