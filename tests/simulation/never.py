"""Records that the store of a world always rejects, by seed and workflow name, so the same in every life."""

from __future__ import annotations

import random
from collections.abc import Sequence

from perdure.model import RunStatus
from perdure.storage.ports import Entry, Unstorable
from perdure.storage.writes import AddEvent, AddRun, Committed, ConsumeEvent, PutTask, SetRun, Write

KINDS = ("", "start", "task", "event", "consumption", "end", "task and failure")


class Never:
    """Of a share of the workflows, some records are never taken."""

    def __init__(self, seed: int, share: float) -> None:
        self._seed = seed
        self._share = share
        self._workflows: dict[str, str] = {}  # by run id

    def kind_of(self, workflow_id: str) -> str:
        """What of a workflow is never taken; "": nothing."""
        dice = random.Random(f"{self._seed} {workflow_id}")
        return dice.choice(KINDS[1:]) if dice.random() < self._share else ""

    def check(self, entries: Sequence[Entry]) -> None:
        """Raises Unstorable if there is anything of that kind."""
        for entry in entries:
            for write in entry:
                if isinstance(write, AddRun):
                    self._workflows[write.row.run_id] = write.row.workflow_id
                if self._is_never_taken(write):
                    raise Unstorable("never", type(write).__name__)

    def _is_never_taken(self, write: Write) -> bool:
        match write:
            case AddRun(row=row):
                return self.kind_of(row.workflow_id) == "start"
            case PutTask(row=row):
                kind = self._kind(row.run_id)
                return kind.startswith("task") and random.Random(f"{self._seed} {row.task_id}").random() < 0.5
            case AddEvent(run_id=run_id):
                return self._kind(run_id) == "event"
            case ConsumeEvent(run_id=run_id):
                return self._kind(run_id) == "consumption"
            case SetRun(run_id=run_id, status=RunStatus.SUCCESSFUL):
                return self._kind(run_id) == "end"
            case SetRun(run_id=run_id, status=RunStatus.FAILED, failure=bytes() as failure):
                return b"cannot be stored" in failure and self._kind(run_id) == "task and failure"
            case _:
                return False

    def _kind(self, run_id: str) -> str:
        return self.kind_of(self._workflows.get(run_id, ""))


class Refusals:
    """What one life was refused, and that it did not go on from there."""

    def __init__(self) -> None:
        self._runs: set[str] = set()

    def note(self, entries: Sequence[Entry]) -> None:
        """The store did not take a commit."""
        if len(entries) == 1:
            for write in entries[0]:
                match write:
                    case PutTask(row=row):
                        self._runs.add(row.run_id)
                    case ConsumeEvent(run_id=run_id) | SetRun(run_id=run_id, expects=None):
                        self._runs.add(run_id)
                    case _:
                        pass

    def see(self, entries: Sequence[Entry], committed: Committed) -> None:
        """It took this one."""
        for entry, result in zip(entries, committed.results, strict=True):
            for write in entry if not result.is_refused else ():
                match write:
                    case SetRun() if write.expects is not None:  # it was resumed
                        self._runs.discard(write.run_id)
                    case SetRun():
                        is_end = write.status is RunStatus.FAILED
                        assert is_end or write.run_id not in self._runs, f"{write.run_id} ended {write.status}"
                    case PutTask(row=row):
                        assert row.run_id not in self._runs, f"{row.task_id} is there, and what was before it is not"
                    case ConsumeEvent():
                        assert write.run_id not in self._runs, f"event {write.sequence} was consumed by nobody"
                    case _:
                        pass
