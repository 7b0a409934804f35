"""Runs in one SQLite file: the embedded default.

A lock file beside the database keeps a second engine out. Each port has a class of its own, and the store is all of
them.
"""

from __future__ import annotations

from perdure.storage.sqlite.commits import Commits
from perdure.storage.sqlite.functions import Functions
from perdure.storage.sqlite.members import EmbeddedMember
from perdure.storage.sqlite.reads.events import EventReads, TombstoneReads
from perdure.storage.sqlite.reads.housekeeping import HousekeepingReads
from perdure.storage.sqlite.reads.listing import ChangeReads, ListingReads
from perdure.storage.sqlite.reads.queue import QueueReads, TimerReads
from perdure.storage.sqlite.reads.recovery import RecoveryReads, SpecReads, ValueReads
from perdure.storage.sqlite.reads.runs import RunReads


class SqliteMetadataStore(
    Commits,
    EmbeddedMember,
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
    """Implements MetadataStore. `max_bytes` bounds the file: beyond it commits raise StorageFull."""

    @property
    def is_shared(self) -> bool:
        return False
