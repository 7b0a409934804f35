"""Runs in PostgreSQL, for one or several engines.

A commit is numbered by its transaction id. Transactions end in another order than they begin, so readers of changes see
only numbers below which all transactions have ended. Each port has a class of its own, and the store is all of them.
"""

from __future__ import annotations

from perdure.storage.postgres.commits import Commits
from perdure.storage.postgres.functions import Functions
from perdure.storage.postgres.membership import Members
from perdure.storage.postgres.reads.events import EventReads, TombstoneReads
from perdure.storage.postgres.reads.housekeeping import HousekeepingReads
from perdure.storage.postgres.reads.listing import ChangeReads, ListingReads
from perdure.storage.postgres.reads.queue import QueueReads, TimerReads
from perdure.storage.postgres.reads.recovery import RecoveryReads, SpecReads, ValueReads
from perdure.storage.postgres.reads.runs import RunReads


class PostgresMetadataStore(
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
    """Implements MetadataStore."""

    @property
    def is_shared(self) -> bool:
        return True
