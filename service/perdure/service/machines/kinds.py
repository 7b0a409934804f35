"""Kinds of runs, by name. The row of a run names its kind, which makes the run's machine.

A kind has *definitions*: what its runs do, as values. A definition of the kind of graphs is a graph. The store holds
their bytes in the table `specs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

from perdure.engine.machine import Machine, Saved
from perdure.engine.messages import TaskContinued, TaskFailed
from perdure.service.executors.port import ContinuationReturned
from perdure.storage.ports import CorruptData
from perdure.storage.rows import RunRow
from perdure.storage.writes import Write

D = TypeVar("D")

Returned: TypeAlias = Callable[[Machine], tuple[TaskContinued | TaskFailed, tuple[Write, ...]]]
"""A definition that a task returned instead of a value, read and checked. Called with the machine of the run, it gives
the event to apply, and the writes to store together with the records of that event."""


class Kind(Protocol[D]):
    """Makes machines. Methods are called on the event loop or, if much is to be done, in a thread."""

    @property
    def name(self) -> str:
        """The name in the rows of runs."""
        ...

    def decode(self, data: bytes) -> D:
        """A stored definition. Raises ValueError."""
        ...

    def size(self, definition: D) -> int:
        """The number of tasks that a run of this definition begins with."""
        ...

    def begin(self, definition: D) -> Machine:
        """The machine of a new run. `start` is called next."""
        ...

    def restore(self, key: str, definitions: Mapping[str, D], saved: Saved) -> Machine:
        """The machine of a stored run, in its durable state. `key` names the run's own definition among those that the
        run and its records name. Raises any exception for records that no machine of this kind has written."""
        ...

    def read_returned(self, run_id: str, report: ContinuationReturned) -> Returned:
        """Read and check a continuation that a task returned. An invalid one becomes TaskFailed."""
        ...


class Kinds:
    """The kinds that this engine knows."""

    def __init__(self, kinds: Iterable[Kind[Any]]) -> None:
        self._by_name = {kind.name: kind for kind in kinds}

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._by_name)

    def of(self, row: RunRow) -> Kind[Any]:
        """The kind of a run. Raises CorruptData if it is unknown, so that the run fails like one whose rows are
        damaged, and can be resumed by an engine that knows the kind."""
        kind = self._by_name.get(row.kind)
        if kind is None:
            raise CorruptData(
                f"this version of Perdure does not know the kind {row.kind!r:.80} of the run; install the version that "
                "made the run, then resume it",
                subject=row.run_id,
            )
        return kind
