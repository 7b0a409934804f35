"""The port for writing: commits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from perdure.storage.writes import Committed, Write

Entry: TypeAlias = Sequence[Write]
"""Writes that belong together: all of them happen, or none."""


class CommitStore(Protocol):
    """The caller makes one commit at a time."""

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        """Make all entries durable in one transaction, in their order, except refused ones (see AddRun).

        When it returns, the data survives a power failure. When it raises StorageFull or CorruptData, nothing was
        changed. After StorageUnavailable it is unknown whether the commit happened. The same call may be repeated: it
        takes effect once. The number `change` grows from commit to commit of a member. It is written into every run
        and task row that the commit touches, whatever `change` the given rows have. Events of one run are numbered in
        the order of commits, whichever members make them.

        Raises Unstorable if the store rejects one of the entries for good. Then none was stored, and the others may be
        committed without it. Every store takes texts without NUL and without halves of surrogate pairs, ids of 256
        characters, integers of 64 bits, and a megabyte of bytes per field.

        Raises Fenced if this member was declared dead or has left. A commit that was under way when the member was
        declared dead has happened entirely before that, or will never happen.
        """
        ...
