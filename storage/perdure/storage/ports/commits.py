"""How data come into a store: in commits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from perdure.storage.rows import Committed, Write

Entry: TypeAlias = Sequence[Write]
"""Writes that belong together: all of them happen, or none."""


class CommitStore(Protocol):
    """One commit at a time is the caller's duty."""

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        """Make all entries durable in one transaction, in their order, but for refused ones (see AddRun).

        When it returns, the data survive the loss of power. When it raises StorageFull or CorruptData,
        nothing was changed. After StorageUnavailable the same call may be repeated: whatever had happened,
        the result is as if it had happened once. The number `change` grows from commit to commit of a
        member and is written into every run and task row that the commit touches, whatever `change`
        they bear. Events of one run are numbered in the order of commits, whoever commits.

        Raises Unstorable if there is an entry among them that no repetition will make the store take; then none
        was taken, and the others may be committed without it. Every store takes what has texts without NUL and halves
        of surrogate pairs, of 256 characters where they are ids, integers of 64 bits and a megabyte of bytes a field.

        Raises Fenced if this member was buried or has left: a commit that was under way when it was
        buried has either happened before, entirely, or never will.
        """
        ...
