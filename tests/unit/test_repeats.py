"""Commits that are repeated, where others may have gone on from the first; and leases that may have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from perdure.model import RunStatus, TaskStatus
from perdure.service.fleet.repeats import happened
from perdure.service.journal.journal import Journal
from perdure.service.journal.membership import SoleMember
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import Entry, Fenced, StorageUnavailable
from perdure.storage.rows import RunRow, TaskRow
from perdure.storage.writes import AddEvent, AddRun, Committed, EntryResult, PutTask, SetRun


def add(run_id: str, owner: str = "me", status: RunStatus = RunStatus.RUNNING) -> AddRun:
    return AddRun(RunRow(run_id, "default", run_id, status, "spec", 1, 1, owner=owner), b"")


def task(run_id: str) -> PutTask:
    return PutTask(TaskRow(run_id, "t", 0, TaskStatus.FAILED, 1))


async def test_an_end_that_others_have_built_on_is_not_written_again() -> None:
    store = MemoryMetadataStore()
    await store.commit([(add("mine"),), (add("theirs", "them"),), (add("ended", status=RunStatus.FAILED),)])
    entries: list[Entry] = [
        (task("mine"),),
        (task("theirs"), SetRun("theirs", RunStatus.FAILED, 5)),
        (task("ended"),),
        (SetRun("ended", RunStatus.FAILED, 1),),
        (task("gone"),),
        (add("new"), task("new")),
        (AddEvent("theirs", "e", "k", b"", 1),),
        (SetRun("theirs", RunStatus.RUNNING, 5, expects=RunStatus.FAILED, owner="me"),),
    ]
    assert await happened(store, "me", entries) == {1: 1, 2: 1, 3: 1, 4: 0}


class Once:
    """A store that loses its first answer."""

    def __init__(self) -> None:
        self.commits: list[list[Entry]] = []

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        self.commits.append(list(entries))
        if len(self.commits) == 1:
            raise StorageUnavailable("the answer was lost")
        return await MemoryMetadataStore().commit(entries)


async def test_the_journal_repeats_what_has_not_certainly_happened_and_goes_on_with_all() -> None:
    store = Once()

    class Found(SoleMember):
        async def happened(self, entries: Sequence[Entry]) -> dict[int, int]:
            return {0: 77}

    journal = Journal(cast(Any, store), Found())
    await journal.start()
    changes: list[int] = []
    both = asyncio.Event()

    def then(_result: EntryResult, change: int) -> None:
        changes.append(change)
        if len(changes) == 2:
            both.set()

    for run_id in ("a", "b"):
        journal.append((task(run_id),), then)
    await both.wait()
    assert store.commits[1:] == [[(task("b"),)]]
    assert changes[0] == 77
    await journal.stop(grace_s=1)


class Ending(SoleMember):
    """A membership whose lease has ended, and is renewed when `renewable`."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = False
        self.fenced = asyncio.Event()
        self.renewable = asyncio.Event()
        self.is_fenced = False

    async def renew(self) -> None:
        await self.renewable.wait()
        if self.is_fenced:
            raise Fenced("dead")
        self.holds = True

    def fence(self) -> None:
        self.fenced.set()


async def test_nothing_follows_from_a_commit_before_the_lease_certainly_holds() -> None:
    lease = Ending()
    journal = Journal(MemoryMetadataStore(), lease)
    await journal.start()
    writing = journal.commit((add("a"),))
    waiting = asyncio.create_task(journal.barrier())
    done, _ = await asyncio.wait({writing, waiting}, timeout=0.05)
    assert not done
    lease.renewable.set()
    assert not (await writing).is_refused
    await waiting
    await journal.stop(grace_s=1)


async def test_a_fenced_engine_does_not_act() -> None:
    lease = Ending()
    lease.is_fenced = True
    journal = Journal(MemoryMetadataStore(), lease)
    acted: list[int] = []
    await journal.start()
    journal.append((add("a"),), lambda _result, change: acted.append(change))
    lease.renewable.set()
    await lease.fenced.wait()
    assert isinstance(journal.error, Fenced)
    assert acted == []
    await journal.stop(grace_s=1)
