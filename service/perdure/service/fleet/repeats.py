"""What of a commit whose answer was lost has happened, where that matters.

Repeating a commit is harmless as long as nobody has built on the first one. Of a run that we own nobody
has, until our commit ends it: then others may resume it, and delete it. So whoever finds his end of a run
in the store, or the run with somebody else, or gone, does not write of it again. Nor is a run added again that is
there: others have been told by which commit it was made.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.service.journal.membership import added_by
from perdure.storage.ports import Entry, RunStore
from perdure.storage.rows import AddEvent, AddRun, ConsumeEvent, PutTask, RunRow, SetDormant, SetRun


async def happened(store: RunStore, owner: str, entries: Sequence[Entry]) -> dict[int, int]:
    """The places of those entries that certainly have happened, each with the number of a commit that is not
    before it. `entries` were sent before, in this order. Raises StorageError."""
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
    """The run that the entry records something of as its owner; "" if it does not, or if more depends on it."""
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
