"""Places among the commits: how far the reader of a watch has come, as its resume token says.

A place is the number of a commit, of which everything was told. It may also lie inside: of a commit that fits into no
single message ([number, run id]: told in the order of run ids, up to that run), or of a snapshot
([number, since, run id, position]: the runs as they were at that commit, or what of them had changed since another,
up to that run and so many of its tasks).
"""

from __future__ import annotations

from typing import Any, Final

from perdure.model import frozen
from perdure.service.api import requests

QUESTION: Final = ("watch",)
WHOLE: Final = "\U0010ffff"
"""A run id after all others."""
NEVER: Final = -1
"""Stands for the beginning of a snapshot that tells everything."""


@frozen
class Place:
    """Without a run id: all of the commit. `position` None: no snapshot; `since` None: of everything."""

    change: int
    run_id: str = WHOLE
    since: int | None = None
    position: int | None = None

    @property
    def is_in_snapshot(self) -> bool:
        return self.position is not None

    @property
    def whole(self) -> int:
        """The last commit of which everything was told, once the rest of a snapshot was."""
        return self.change if self.is_in_snapshot or self.run_id == WHOLE else self.change - 1

    def token(self) -> str:
        place: Any = self.change
        if self.is_in_snapshot:
            place = [self.change, NEVER if self.since is None else self.since, self.run_id, self.position]
        elif self.run_id != WHOLE:
            place = [self.change, self.run_id]
        return requests.make_token(QUESTION, place)


def read(token: str) -> Place | None:
    """None for no token. Raises InvalidPageTokenError for what is none."""
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
