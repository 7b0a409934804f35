"""A store of metadata as a whole: for those who open it and hand its ports to their users."""

from __future__ import annotations

from typing import Protocol

from perdure.storage.ports.commits import CommitStore
from perdure.storage.ports.events import EventStore
from perdure.storage.ports.housekeeping import HousekeepingStore
from perdure.storage.ports.listing import ChangeStore, ListingStore
from perdure.storage.ports.members import MailStore, MemberStore
from perdure.storage.ports.queue import QueueStore
from perdure.storage.ports.recovery import RecoveryStore, SpecStore, ValueStore
from perdure.storage.ports.runs import RunStore
from perdure.storage.ports.timers import TimerStore


class SharedOrNot(Protocol):
    """A store that `is_shared` has many engines as members, each through an object of its own; members know
    nothing of each other but what the store says. An embedded one has a single engine: joining it is a
    formality, nobody is ever fenced, and all runs are its own.
    """

    @property
    def is_shared(self) -> bool:
        """Whether there may be other engines."""
        ...


class MetadataStore(
    SharedOrNot,
    CommitStore,
    MemberStore,
    MailStore,
    RunStore,
    RecoveryStore,
    SpecStore,
    ValueStore,
    EventStore,
    QueueStore,
    TimerStore,
    ListingStore,
    ChangeStore,
    HousekeepingStore,
    Protocol,
):
    """Runs, tasks, events, timers, for one engine. Reads run beside the commit under way."""

    async def open(self) -> None:
        """Connect, and bring the schema up to date if the store is an embedded one. Raises StorageError if
        the schema of a shared one is too old or too new."""
        ...

    async def close(self) -> None:
        """Release everything. Closing twice is no error."""
        ...
