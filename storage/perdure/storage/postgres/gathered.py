"""The state that a commit to PostgreSQL needs, and the rows that it writes, gathered by table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from perdure.model import RunStatus
from perdure.storage.ports import Entry
from perdure.storage.rows import RunRow, TaskRow, Tombstone
from perdure.storage.writes import AddEvent, AddRun, DeleteRun, DropTombstones, Limit, Mail, SetAsideRuns, SetRun

EventKey: TypeAlias = tuple[str, str, str]
"""Run, key, event id."""


@dataclass(slots=True)
class RunState:
    """The state of a run at this point of the commit."""

    row: RunRow
    is_current: bool


@dataclass(slots=True)
class Needed:
    """The state that must be read before a commit can be planned."""

    run_ids: set[str] = field(default_factory=set)
    workflow_ids: set[tuple[str, str]] = field(default_factory=set)
    request_ids: set[tuple[str, str]] = field(default_factory=set)
    counts: set[tuple[str, RunStatus]] = field(default_factory=set)
    last_events: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Needed:
        needed = cls()
        for entry in entries:
            for write in entry:
                match write:
                    case AddRun(row=row):
                        needed.run_ids.add(row.run_id)
                        if write.replaces:
                            needed.run_ids.add(write.replaces)
                        needed.workflow_ids.add((row.namespace, row.workflow_id))
                        if row.request_id:
                            needed.request_ids.add((row.namespace, row.request_id))
                    case SetRun() | AddEvent() | DeleteRun():
                        needed.run_ids.add(write.run_id)
                        if isinstance(write, DeleteRun) and write.last_event is not None:
                            needed.last_events.add(write.run_id)
                    case Limit():
                        needed.counts.add((write.namespace, write.status))
                    case _:
                        pass
        return needed


@dataclass(slots=True)
class Found:
    """The state that was read. Its runs, and the namespaces of limits, are locked."""

    runs: dict[str, RunState] = field(default_factory=dict)
    current: dict[tuple[str, str], str] = field(default_factory=dict)
    requests: set[tuple[str, str]] = field(default_factory=set)
    counts: Counter[tuple[str, RunStatus]] = field(default_factory=Counter)
    last_events: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Rows:
    """Rows by table. `known` runs exist when the rows are written. `ended` are runs that were not read, with
    `is_dormant` if the commit sets it. `forgotten` tasks are removed, uses of `released` tasks, the events that are
    `taken` by tasks, consumed before, those that are `unread`: consumed in the same rows, and `spent` inputs."""

    replaced: list[str] = field(default_factory=list)
    added: dict[str, RunState] = field(default_factory=dict)
    inputs: list[tuple[str, str, bytes]] = field(default_factory=list)
    specs: dict[str, bytes] = field(default_factory=dict)
    changed: dict[str, RunState] = field(default_factory=dict)
    ended: dict[str, tuple[SetRun, bool | None]] = field(default_factory=dict)
    dormant: dict[str, bool] = field(default_factory=dict)
    tasks: dict[tuple[str, str], TaskRow] = field(default_factory=dict)
    events: dict[EventKey, AddEvent] = field(default_factory=dict)
    consumed: dict[tuple[str, int], str] = field(default_factory=dict)
    forgotten: dict[tuple[str, str], None] = field(default_factory=dict)
    released: dict[tuple[str, str], None] = field(default_factory=dict)
    taken: dict[str, set[str]] = field(default_factory=dict)
    unread: list[tuple[str, int]] = field(default_factory=list)
    spent: list[tuple[str, str]] = field(default_factory=list)
    uses: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)
    marks: dict[str, None] = field(default_factory=dict)
    unmarks: list[tuple[str, int]] = field(default_factory=list)
    mail: list[Mail] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    tombstones: dict[str, Tombstone] = field(default_factory=dict)
    expired: list[DropTombstones] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    byte_count: int = 0

    def __bool__(self) -> bool:
        return any(
            (
                self.replaced, self.added, self.inputs, self.specs, self.changed, self.ended, self.dormant, self.tasks,
                self.events, self.consumed, self.released, self.taken, self.spent, self.uses, self.marks, self.unmarks,
                self.mail, self.dropped, self.tombstones, self.expired,
            )
        )  # fmt: skip


@dataclass(slots=True)
class DeletedRuns:
    """Runs that are removed with everything that belongs to them."""

    run_ids: list[str]


@dataclass(slots=True)
class Forgetting:
    """Tasks that are removed by `rows` and then their graphs, unless other records name them."""

    run_id: str
    task_ids: tuple[str, ...]
    rows: Rows


PlanStep: TypeAlias = Rows | DeletedRuns | Forgetting | SetAsideRuns
