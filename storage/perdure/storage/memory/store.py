"""Runs in a dict: the reference implementation of the metadata store, embedded or shared.

Keeps nothing after the end of the process. Every call happens in one step on the event loop, so the store is as
deterministic as its caller.
"""

from __future__ import annotations

from perdure.storage.memory.commits import Commits
from perdure.storage.memory.database import Database
from perdure.storage.memory.functions import Functions
from perdure.storage.memory.members import Members
from perdure.storage.memory.reads import (
    ChangeReads,
    EventReads,
    HousekeepingReads,
    ListingReads,
    QueueReads,
    RecoveryReads,
    RunReads,
    SpecReads,
    TimerReads,
    TombstoneReads,
    ValueReads,
)


class MemoryMetadataStore(
    Commits,
    Members,
    RunReads,
    EventReads,
    TombstoneReads,
    RecoveryReads,
    SpecReads,
    ValueReads,
    QueueReads,
    TimerReads,
    ListingReads,
    ChangeReads,
    HousekeepingReads,
    Functions,
):
    """Implements MetadataStore: embedded, or as a member of a shared one."""


class SharedMemory(Database):
    """The database that several members share. `clock` returns milliseconds; leases end by it."""

    def member(self) -> MemoryMetadataStore:
        """A store object for one more engine."""
        return MemoryMetadataStore(self)
