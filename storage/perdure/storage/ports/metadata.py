"""A metadata store as a whole, for code that opens it and passes its ports on."""

from __future__ import annotations

from typing import Protocol

from perdure.storage.ports.commits import CommitStore
from perdure.storage.ports.events import EventStore
from perdure.storage.ports.functions import FunctionStore
from perdure.storage.ports.housekeeping import HousekeepingStore
from perdure.storage.ports.listing import ChangeStore, ListingStore
from perdure.storage.ports.members import MailStore, MemberStore
from perdure.storage.ports.queue import QueueStore
from perdure.storage.ports.recovery import RecoveryStore, SpecStore, ValueStore
from perdure.storage.ports.runs import RunStore
from perdure.storage.ports.timers import TimerStore
from perdure.storage.ports.tombstones import TombstoneStore


class MetadataStore(
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
    TombstoneStore,
    FunctionStore,
    Protocol,
):
    """Runs, tasks, events and timers, for one engine. Reads do not wait for a commit under way.

    A store that `is_shared` has several engines as members, each with its own store object. Members know each other
    through the store only. An embedded store has one engine: joining has no effect, no commit is fenced, and all runs
    are the engine's own.
    """

    @property
    def is_shared(self) -> bool:
        """Whether there may be other engines."""
        ...

    async def open(self) -> None:
        """Connect. Brings the schema of an embedded store up to date. Raises StorageError if the schema of a shared
        store is too old or too new."""
        ...

    async def close(self) -> None:
        """Release everything. Closing twice is allowed."""
        ...
