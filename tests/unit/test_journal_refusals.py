"""An entry that the store rejects for good is handed back, and blocks only entries that build on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import pytest

from perdure.service.journal import journal as journal_module
from perdure.service.journal.journal import Journal
from perdure.storage.ports import (
    Entry,
    Fenced,
    StorageError,
    StorageFull,
    StorageUnavailable,
    Unstorable,
)
from perdure.storage.writes import Committed, EntryResult, SetDormant


class Store:
    """Refuses whatever has an entry that it never takes. `bugs` are the names for which it raises something else."""

    def __init__(self) -> None:
        self.never: set[str] = set()
        self.bugs: dict[str, int] = {}
        self.is_broken = False
        self.errors: list[StorageError | None] = []
        self.taken: list[str] = []
        self.tries = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        self.asked.set()
        await self.gate.wait()
        self.tries += 1
        names = [cast(Any, write).run_id for entry in entries for write in entry]
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        if self.is_broken:
            raise RuntimeError("a bug that all feel")
        for name in names:
            if self.bugs.get(name, 0):
                self.bugs[name] -= 1
                raise RuntimeError(f"a bug that {name} feels")
        if found := self.never.intersection(names):
            raise Unstorable("never", sorted(found)[0])
        self.taken += names
        return Committed(self.tries, tuple(EntryResult() for _ in entries))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def journal(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Journal]:
    monkeypatch.setattr(journal_module, "RETRY_FIRST_S", 0.0)
    journal = Journal(store)
    await journal.start()
    yield journal
    store.gate.set()
    await journal.stop(grace_s=5)


class Said:
    """Appends entries and notes what becomes of them."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.all: list[str] = []
        self.refused: Callable[[str], None] = lambda _name: None

    def append(self, name: str, of: str = "", **how: Any) -> None:
        def refused(error: Exception) -> None:
            self.all.append(f"{name} refused")
            self.refused(name)

        self._journal.append(
            (SetDormant(name, True),),
            lambda _result, _change: self.all.append(name),
            trouble=lambda error: self.all.append(f"{name} in trouble"),
            dropped=lambda: self.all.append(f"{name} dropped"),
            of=of,
            refused=refused,
            **how,
        )


@pytest.fixture
def said(journal: Journal) -> Said:
    return Said(journal)


async def settled(journal: Journal) -> None:
    """Until all entries so far are durable or handed back; a barrier would be told of an outage."""
    done = asyncio.Event()
    journal.append((), lambda _result, _change: done.set())
    await done.wait()


@pytest.mark.parametrize("count", [1, 2, 3, 8, 100])
async def test_the_others_are_committed_in_order(store: Store, journal: Journal, said: Said, count: int) -> None:
    names = [f"{number:03}" for number in range(count)]
    for bad in range(count):
        store.never, store.taken, said.all = {names[bad]}, [], []
        for name in names:
            said.append(name)
        await journal.barrier()
        others = [name for name in names if name != names[bad]]
        assert store.taken == others
        assert [name for name in said.all if " " not in name] == others
        assert [what for what in said.all if " " in what] == [
            f"{names[bad]} refused",
            f"{names[bad]} in trouble",
            f"{names[bad]} dropped",
        ]
        assert journal.error is None


async def test_one_of_a_thousand_costs_few_commits(store: Store, journal: Journal, said: Said) -> None:
    store.never = {"777"}
    for number in range(1_000):
        said.append(f"{number}")
    await journal.barrier()
    assert len(store.taken) == 999
    assert store.tries <= 25


async def test_what_builds_on_it_is_not_committed(store: Store, journal: Journal, said: Said) -> None:
    store.never = {"a2"}
    for name in ("a1", "b1", "a2", "b2", "a3", "b3"):
        said.append(name, of=name[0])
    await journal.barrier()
    assert store.taken == ["a1", "b1", "b2", "b3"]
    assert [what for what in said.all if what.startswith("a")] == [
        "a1", "a2 refused", "a2 in trouble", "a3 in trouble", "a2 dropped", "a3 dropped",
    ]  # fmt: skip


async def test_entries_appended_during_the_refused_try_are_dropped_too(
    store: Store, journal: Journal, said: Said
) -> None:
    store.never = {"a1"}
    store.gate.clear()
    said.append("a1", of="a")
    await store.asked.wait()
    said.append("a2", of="a")
    said.append("b1", of="b")
    store.gate.set()
    await journal.barrier()
    assert store.taken == ["b1"]


async def test_what_is_appended_because_of_it_is_committed(store: Store, journal: Journal, said: Said) -> None:
    store.never = {"a1"}
    said.refused = lambda _name: said.append("a fails", of="a")
    said.append("a1", of="a")
    said.append("a2", of="a")
    await journal.barrier()
    await journal.barrier()
    assert store.taken == ["a fails"]


async def test_a_barrier_behind_it_is_passed(store: Store, journal: Journal, said: Said) -> None:
    store.never = {"a", "c"}
    waiting = []
    for name in "abc":
        said.append(name)
        waiting.append(asyncio.create_task(journal.barrier()))
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert store.taken == ["b"]


async def test_a_waiter_gets_the_error_of_a_refused_entry(store: Store, journal: Journal) -> None:
    store.never = {"a"}
    with pytest.raises(Unstorable, match="never"):
        await journal.commit((SetDormant("a", True),), droppable=True)
    assert journal.error is None


async def test_while_the_store_is_away_nothing_is_handed_back(store: Store, journal: Journal, said: Said) -> None:
    """The answer of the first commit is lost, those of its parts as well."""
    gone = StorageUnavailable("gone")
    store.never = {"b"}
    store.errors = [gone, None, gone, None, None, gone]
    for name in "abcd":
        said.append(name)
    await settled(journal)
    assert sorted(set(store.taken)) == ["a", "c", "d"]
    assert [name for name in said.all if " " not in name] == ["a", "c", "d"]
    assert said.all.count("b refused") == 1


async def test_a_full_store_keeps_the_order(store: Store, journal: Journal, said: Said) -> None:
    store.never = {"b"}
    store.errors = [None, StorageFull("full")]
    for name in "abc":
        said.append(name)
    await settled(journal)
    assert store.taken == ["a", "c"]


async def test_an_engine_that_is_no_member_any_more_commits_no_part(store: Store, journal: Journal, said: Said) -> None:
    store.never = {"b"}
    store.errors = [None, Fenced("buried")]
    for name in "abcd":
        said.append(name)
    with pytest.raises(Fenced):
        await journal.barrier()
    assert store.taken == []
    assert {f"{name} in trouble" for name in "abcd"} <= set(said.all)


# ------------------------------------------------------------------------------ what no store should raise


async def test_a_bug_that_passes_refuses_nothing(store: Store, journal: Journal, said: Said) -> None:
    store.bugs = {"b": 6}
    for name in "abc":
        said.append(name)
    await settled(journal)
    assert said.all == ["a", "b", "c"]
    assert store.taken == ["a", "b", "c"]
    assert journal.error is None


async def test_a_bug_that_stays_costs_that_entry_alone(store: Store, journal: Journal, said: Said) -> None:
    store.bugs = {"a2": 10_000}
    for name in ("a1", "a2", "a3", "b1"):
        said.append(name, of=name[0])
    await settled(journal)
    assert store.taken == ["a1", "b1"]
    assert "a2 refused" in said.all


async def test_a_store_that_is_broken_for_all_refuses_nothing(store: Store, journal: Journal, said: Said) -> None:
    store.is_broken = True
    for name in "ab":
        said.append(name)
    with pytest.raises(RuntimeError, match="all feel"):
        await journal.barrier()
    assert journal.error is not None
    store.is_broken = False
    await settled(journal)
    assert store.taken == ["a", "b"]
    assert said.all == ["a in trouble", "b in trouble", "a", "b"]


async def test_what_happens_once_is_not_tried_again_after_a_bug(store: Store, journal: Journal, said: Said) -> None:
    store.bugs = {"a": 2}
    said.append("a", once=True)
    said.append("b")
    await settled(journal)
    assert "a dropped" in said.all
    assert store.taken == ["b"]


async def test_a_step_after_a_refusal_that_fails_does_not_stop_the_journal(
    store: Store, journal: Journal, said: Said
) -> None:
    def fail(_name: str) -> None:
        raise RuntimeError("a bug of ours")

    store.never, said.refused = {"a"}, fail
    said.append("a")
    said.append("b")
    await settled(journal)
    assert store.taken == ["b"]


async def test_a_patient_waiter_hears_that_the_store_never_takes_the_entry(store: Store, journal: Journal) -> None:
    store.never = {"a"}
    store.errors = [StorageUnavailable("gone")]
    refused = journal.commit((SetDormant("a", True),), patient=True, of="run")
    behind = journal.commit((SetDormant("b", True),), patient=True, of="run")
    for waiting in (refused, behind):
        with pytest.raises(Unstorable):
            await waiting
    assert store.taken == []
