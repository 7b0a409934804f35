"""The ports for engines that share a store: membership, takeover, and mail between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from perdure.storage.rows import EngineRow, MailRow, RunRow


class MemberStore(Protocol):
    """The engines that share the store, and the runs that this one owns."""

    async def join(self, engine: EngineRow, lease_ms: int) -> None:
        """Become a member for `lease_ms`, by the clock of the store. From then on every commit is fenced, and "this
        member's runs" are those with its id as `owner`. Before joining, all runs are its own and no commit is fenced;
        tools use a store like that. Joining again renews the lease."""
        ...

    async def renew(self, lease_ms: int) -> None:
        """Extend the membership to `lease_ms` from now. Raises Fenced. Does not wait for a commit under way."""
        ...

    async def leave(self) -> None:
        """End the membership: its runs are ownerless at once. Leaving twice is allowed."""
        ...

    async def engines(self) -> list[EngineRow]:
        """The members, including those that died recently, by `started_ms` and then id; [] in an embedded store."""
        ...

    async def bury(self) -> list[str]:
        """Declare members dead whose lease has ended. Returns their ids. When it returns, each commit that they had
        under way has happened or will never happen. A member with a commit or a renewal under way may be left to the
        next call."""
        ...

    async def take_over(self, limit: int) -> list[RunRow]:
        """Make this member the owner of RUNNING and PENDING runs, dormant ones included, whose owner is dead or gone.
        Returns at most `limit` of them, by run id, active runs before all others; [] if there are no more. Members
        that call this at the same time never get the same run and do not wait for each other. `change` and `update_ms`
        do not change. Raises Fenced. If a call raises StorageUnavailable, the next one returns the runs that it took.
        Before joining there is nothing to take over."""
        ...

    async def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` on the event loop soon after other members changed runs, left mail, or left, until the store is
        closed. It is a hint: several events may be one call, some get lost, some come twice. `heard` is also called
        when a lost connection is back."""
        ...


class MailStore(Protocol):
    """Letters for the owners of runs. Writing and removing them are writes of commits."""

    async def read_mail(self, *, limit: int) -> list[MailRow]:
        """Mail for this member's runs, by number, including mail to earlier owners of a run."""
        ...
