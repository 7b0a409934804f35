"""Ownership of runs. Operations, the queue and the scheduler ask here, and do not know how many engines there are.

A RUNNING run has an owner: the engine that has it in memory and changes it. Other runs have no owner, and any engine
that gets a request may change them.
"""

from __future__ import annotations

from math import inf
from typing import Protocol

from perdure.storage.rows import RunRow


class Owner(Protocol):
    """The engine that owns a run, or its heir."""

    async def ask_to_cancel(self, reason: str) -> None:
        """Ask the owner to end the run; returns once the request is durable. Raises StorageError."""
        ...

    async def ended(self) -> RunRow:
        """Wait until the owner has ended the run. Raises StorageError, and DatabaseUnavailableError if that takes too
        long."""
        ...


class Ownership(Protocol):
    """The runs this engine owns, and the changes other engines may make to the rest."""

    @property
    def owner(self) -> str:
        """The owner of runs that begin or go on here."""
        ...

    def is_ours(self, row: RunRow) -> bool:
        """Whether a run that is RUNNING may come into memory here."""
        ...

    def elsewhere(self, row: RunRow) -> Owner | None:
        """The owner of a run that another engine is to change; None if this engine may change the run."""
        ...

    def others_may_start(self) -> bool:
        """Whether another engine may start a pending run, and even end it, before this engine knows."""
        ...

    def others_may_resume(self) -> bool:
        """Whether another engine may resume a run that has ended before this engine knows."""
        ...

    async def catch_up(self) -> None:
        """Wait until memory has all commits of this engine that other engines may have seen in the store. Raises
        StorageError."""
        ...

    def holds_for_s(self) -> float:
        """For how long this engine's runs are certainly its own; from any thread."""
        ...


class Alone:
    """Implements Ownership for the only engine over a store: it owns all runs, whatever owner their rows name."""

    def __init__(self, owner: str) -> None:
        self.owner = owner

    def is_ours(self, row: RunRow) -> bool:
        return True

    def elsewhere(self, row: RunRow) -> Owner | None:
        return None

    def others_may_start(self) -> bool:
        return False

    def others_may_resume(self) -> bool:
        return False

    async def catch_up(self) -> None:
        """Return at once: there are no other engines."""

    def holds_for_s(self) -> float:
        return inf
