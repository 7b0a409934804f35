"""Finds out which entries of a commit took effect when its answer was lost.

Repeating a commit is harmless until another engine has built on the first one. While this engine owns a run, that
cannot happen. Once a commit of this engine has ended the run, other engines may resume or delete it. So an entry is
not repeated if the end that it writes is in the store, or the run has another owner or is gone. An entry that adds a
run is not repeated if the run exists: other engines may know the number of the commit that made it.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.service.journal.membership import added_by
from perdure.storage.ports import Entry, RunStore
from perdure.storage.rows import RunRow
from perdure.storage.writes import AddEvent, AddRun, ConsumeEvent, PutTask, SetDormant, SetRun


async def happened(store: RunStore, owner: str, entries: Sequence[Entry]) -> dict[int, int]:
    """The positions of the entries that certainly took effect, each with the number of a commit not before it.
    `entries` were sent before, in this order. Raises StorageError."""
    run_ids = [_run_of(entry) for entry in entries]
    added = [added_by(entry) for entry in entries]
    wanted = {run_id for run_id in (*run_ids, *added) if run_id}
    if not wanted:
        return {}
    rows = {row.run_id: row for row in await store.get_runs(wanted)}
    found: dict[int, int] = {}
    over: set[str] = set()
    for place in reversed(range(len(entries))):
        if (made := rows.get(added[place])) is not None:
            found[place] = made.change
        run_id = run_ids[place]
        if not run_id:
            continue
        row = rows.get(run_id)
        if row is None or row.owner != owner or _has_ended(entries[place], row):
            over.add(run_id)
        if run_id in over:
            found[place] = row.change if row is not None else 0
    return found


def _run_of(entry: Entry) -> str:
    """The run that the entry changes as its owner. "": it changes none, or adds a run or an event."""
    run_id = ""
    for write in entry:
        match write:
            case AddRun() | AddEvent():
                return ""
            case SetRun(expects=None) | ConsumeEvent() | SetDormant():
                run_id = write.run_id
            case PutTask(row=row):
                run_id = row.run_id
            case _:
                pass
    return run_id


def _has_ended(entry: Entry, row: RunRow) -> bool:
    return any(isinstance(write, SetRun) and write.was_applied_to(row) for write in entry)
