"""The ports between the engine and its stores, by subject. A store implements all of them; each part of the engine
takes those that it needs.

Each sentence is a promise, and tests/conformance tests every implementation for it.
"""

from perdure.storage.ports.blobs import BlobStore, BlobWriter
from perdure.storage.ports.commits import CommitStore, Entry
from perdure.storage.ports.errors import (
    BlobNotFound,
    CorruptData,
    Fenced,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageInUse,
    StorageUnavailable,
    Unstorable,
)
from perdure.storage.ports.events import EventStore
from perdure.storage.ports.functions import FunctionStore
from perdure.storage.ports.housekeeping import HousekeepingStore
from perdure.storage.ports.listing import ChangeStore, ListingStore
from perdure.storage.ports.members import MailStore, MemberStore
from perdure.storage.ports.metadata import MetadataStore
from perdure.storage.ports.queue import QueueStore
from perdure.storage.ports.recovery import RecoveryStore, SpecStore, ValueStore
from perdure.storage.ports.runs import RunStore
from perdure.storage.ports.timers import TimerStore
from perdure.storage.ports.tombstones import TombstoneStore

__all__ = [
    "BlobNotFound",
    "BlobStore",
    "BlobWriter",
    "ChangeStore",
    "CommitStore",
    "CorruptData",
    "Entry",
    "EventStore",
    "Fenced",
    "FunctionStore",
    "HousekeepingStore",
    "ListingStore",
    "MailStore",
    "MemberStore",
    "MetadataStore",
    "QueueStore",
    "RecoveryStore",
    "RunStore",
    "SpecStore",
    "StorageDenied",
    "StorageError",
    "StorageFull",
    "StorageInUse",
    "StorageUnavailable",
    "TimerStore",
    "TombstoneStore",
    "Unstorable",
    "ValueStore",
]
