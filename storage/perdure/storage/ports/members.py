"""Engines that share a store: membership, inheritance, and mail between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from perdure.storage.rows import EngineRow, MailRow, RunRow


class MemberStore(Protocol):
    """Which engines there are, and which runs this one owns."""

    async def join(self, engine: EngineRow, lease_ms: int) -> None:
        """Become a member for so long, by the clock of the store. From then on every commit is fenced, and
        reads that speak of this member's runs mean those with its id as `owner`. A member that has not
        joined owns all and is never fenced: so do tools look at a store. Joining again is renewing."""
        ...

    async def renew(self, lease_ms: int) -> None:
        """Be a member for so long from now on. Raises Fenced. Does not wait for a commit under way."""
        ...

    async def leave(self) -> None:
        """Cease to be a member: what it owned is ownerless at once. Leaving twice is no error."""
        ...

    async def engines(self) -> list[EngineRow]:
        """The members, those that died lately included, by `started_ms` and then id; [] if it is embedded."""
        ...

    async def bury(self) -> list[str]:
        """Declare members dead whose lease has ended; gives their ids. Whatever they had under way has
        happened or never will when this returns."""
        ...

    async def take_over(self, limit: int) -> list[RunRow]:
        """Make this member the owner of RUNNING and PENDING runs, dormant ones too, whose owner is dead or
        gone: at most so many, by run id, and those that are at work before all others. [] if there are no more.
        Members that do it at the same time never get the same run, nor wait for each other. Neither `change` nor
        `update_ms` changes. Raises Fenced. What a call took that raised StorageUnavailable, the next one gives.
        Before joining there is nothing to take over."""
        ...

    async def listen(self, heard: Callable[[], None]) -> None:
        """Have `heard` called on the event loop soon after commits of other members that changed runs or
        left mail, and after one leaves, until the store is closed; several may be one call. It is a hint:
        some get lost, some come twice. It is called, too, when the connection was lost and is back."""
        ...


class MailStore(Protocol):
    """Letters for the owners of runs. Writing and removing them are writes of commits."""

    async def read_mail(self, *, limit: int) -> list[MailRow]:
        """Mail for this member's runs, by number: what it took over with a run included."""
        ...
