"""The group commit: order, batches, and what happens while the store fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from perdure.service.journal import journal as journal_module
from perdure.service.journal.journal import THENS_AT_ONCE, Journal
from perdure.service.journal.membership import SoleMember
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import Entry, Fenced, StorageError, StorageFull, StorageUnavailable
from perdure.storage.writes import Committed, EntryResult, SetDormant


class Store:
    """Commits when it is let, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[Entry]] = []
        self.errors: list[StorageError] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        self.asked.set()
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.batches.append(list(entries))
        return Committed(len(self.batches), tuple(EntryResult(sequence=i) for i, _ in enumerate(entries)))


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


async def settled(journal: Journal) -> None:
    """Until nothing is on its way any more."""
    done = asyncio.Event()
    journal.append((SetDormant("last", True),), lambda _result, _change: done.set())
    await done.wait()


def entry(name: str) -> Entry:
    return (SetDormant(name, True),)


async def test_what_arrives_during_a_flush_goes_into_the_next(store: Store, journal: Journal) -> None:
    store.gate.clear()
    first = journal.commit(entry("a"))
    await store.asked.wait()
    others = [journal.commit(entry(name)) for name in "bcd"]
    await asyncio.sleep(0)
    store.gate.set()
    await asyncio.gather(first, *others)
    assert store.batches == [[entry("a")], [entry("b"), entry("c"), entry("d")]]


async def trickle(journal: Journal, count: int, *, turns: int) -> None:
    """Entries one by one, so many turns of the loop apart, and until the last is durable."""
    for number in range(count):
        journal.append(entry(f"{number}"), lambda _result, _change: None)
        for _ in range(turns):
            await asyncio.sleep(0)
    await journal.barrier()


async def test_a_lone_commit_is_not_delayed(store: Store, journal: Journal) -> None:
    await trickle(journal, 4, turns=2)
    assert [len(batch) for batch in store.batches] == [1, 1, 1, 1]


async def test_small_commits_that_come_close_together_share_a_batch(store: Store, journal: Journal) -> None:
    for number in range(50):
        journal.append(entry(f"{number}"), lambda _result, _change: None)
    await journal.barrier()
    store.batches.clear()
    await trickle(journal, 4, turns=2)
    assert [len(batch) for batch in store.batches] == [4]
    store.batches.clear()
    await trickle(journal, 4, turns=journal_module.TURNS_STILL_MAX + 5)  # too late for each other
    assert [len(batch) for batch in store.batches] == [1, 1, 1, 1]


async def test_single_commits_sometimes_wait_to_gather_others(store: Store, journal: Journal) -> None:
    await trickle(journal, 200, turns=3)
    sizes = [len(batch) for batch in store.batches]
    assert sizes[: journal_module.LOOK_EVERY - 1] == [1] * (journal_module.LOOK_EVERY - 1)
    assert max(sizes[-4:]) >= 8


async def test_nothing_is_done_before_the_commit_and_then_in_order(store: Store, journal: Journal) -> None:
    done: list[str] = []
    store.gate.clear()
    for name in "abc":
        journal.append(entry(name), lambda _result, _change, name=name: done.append(name))
    await store.asked.wait()
    assert done == []
    store.gate.set()
    await journal.barrier()
    assert done == ["a", "b", "c"]


async def test_an_empty_entry_waits_for_those_before_it(store: Store, journal: Journal) -> None:
    done: list[str] = []
    journal.append((), lambda *_: done.append("at once"))
    assert done == ["at once"]
    store.gate.clear()
    journal.append(entry("a"), lambda *_: done.append("a"))
    journal.append((), lambda *_: done.append("after a"))
    await store.asked.wait()
    assert done == ["at once"]
    store.gate.set()
    await journal.barrier()
    assert done == ["at once", "a", "after a"]
    assert store.batches == [[entry("a")]]


async def test_what_is_appended_by_a_step_after_a_commit_is_committed_too(store: Store, journal: Journal) -> None:
    finished = asyncio.Event()

    def again(*_: Any) -> None:
        journal.append(entry("b"), lambda *_: finished.set())

    journal.append(entry("a"), again)
    await finished.wait()
    assert store.batches == [[entry("a")], [entry("b")]]


async def test_a_failing_step_does_not_stop_the_journal(store: Store, journal: Journal) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    journal.append(entry("a"), fail)
    assert (await journal.commit(entry("b"))).sequence >= 0


async def test_a_failed_commit_is_repeated_until_it_holds(store: Store, journal: Journal) -> None:
    store.errors = [StorageUnavailable("one"), StorageUnavailable("two")]
    done = asyncio.Event()
    journal.append(entry("kept"), lambda *_: done.set())
    await done.wait()
    assert store.batches == [[entry("kept")]]
    assert journal.error is None


async def test_waiters_get_the_error_at_once_although_the_entry_may_still_succeed(
    store: Store, journal: Journal
) -> None:
    store.errors = [StorageUnavailable("gone")]
    with pytest.raises(StorageUnavailable):
        await journal.commit(entry("in doubt"), droppable=True)
    await journal.barrier()
    assert store.batches == [[entry("in doubt")]]


async def test_a_full_store_drops_only_droppable_entries(store: Store, journal: Journal) -> None:
    store.gate.clear()
    store.errors = [StorageFull("no room")]
    kept = asyncio.Event()
    dropped = journal.commit(entry("new run"), droppable=True)
    await store.asked.wait()
    journal.append(entry("receipt"), lambda *_: kept.set())
    store.gate.set()
    with pytest.raises(StorageFull):
        await dropped
    await kept.wait()
    assert store.batches == [[entry("receipt")]]


async def test_the_dropped_callback_is_called_for_a_dropped_entry(store: Store, journal: Journal) -> None:
    happened: list[str] = []
    store.errors = [StorageFull("full")]
    for name, droppable in (("a", True), ("b", False)):
        journal.append(
            entry(name),
            lambda _result, _change, name=name: happened.append(f"{name} is there"),
            droppable=droppable,
            dropped=lambda name=name: happened.append(f"{name} was dropped"),
        )
    await settled(journal)
    assert happened == ["a was dropped", "b is there"]


class Small(Store):
    """Has room for so many entries: those named "-" make room for one, and for themselves there always is."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        self.asked.set()
        needed = sum(-1 if write.run_id == "-" else 1 for entry in entries for write in cast(Any, entry))
        if needed > self.room:
            raise StorageFull("no room")
        self.room -= needed
        return await super().commit(entries)


async def test_an_entry_that_frees_room_overtakes_entries_that_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "RETRY_FIRST_S", 3600.0)
    store = Small(1)
    journal = Journal(store)
    await journal.start()
    stuck, told = asyncio.Event(), asyncio.Event()
    for name in ("a", "b", "c"):
        journal.append(entry(name), lambda *_: stuck.set(), trouble=lambda _error: told.set())
    await told.wait()
    assert isinstance(journal.error, StorageFull)
    await journal.commit(entry("-"), droppable=True, frees=True)
    assert (stuck.is_set(), store.room) == (False, 2)
    await journal.commit(entry("-"), droppable=True, frees=True)
    await stuck.wait()
    assert journal.error is None
    assert store.batches == [[entry("-")], [entry("-")], [entry("a"), entry("b"), entry("c")]]
    assert await journal.stop(grace_s=5)


async def test_what_makes_room_is_tried_by_itself_at_once(store: Store, journal: Journal) -> None:
    """And is told when there is not even room for that, whatever becomes of the others."""
    store.gate.clear()
    store.errors = [StorageFull("full"), StorageFull("not even that"), StorageFull("full")]
    kept = asyncio.Event()
    journal.append(entry("receipt"), lambda *_: kept.set())
    freeing = journal.commit(entry("delete"), droppable=True, frees=True)
    await store.asked.wait()
    store.gate.set()
    with pytest.raises(StorageFull, match="not even that"):
        await freeing
    await kept.wait()
    assert store.batches == [[entry("receipt")]]


async def test_what_may_have_happened_is_not_dropped(store: Store, journal: Journal) -> None:
    """The first commit may have had its effect, so that the second one must not be the last."""
    happened: list[str] = []
    store.errors = [StorageUnavailable("no answer"), StorageFull("full"), StorageFull("full")]
    journal.append(
        entry("a"),
        lambda _result, _change: happened.append("is there"),
        droppable=True,
        dropped=lambda: happened.append("was dropped"),
    )
    await settled(journal)
    assert happened == ["is there"]
    assert entry("a") in store.batches[0]


async def test_what_happens_at_most_once_is_not_repeated(store: Store, journal: Journal) -> None:
    """It may have happened, and another engine may have undone it since."""
    said: list[str] = []
    store.errors = [StorageUnavailable("no answer")]
    for name, once in (("a", True), ("b", False)):
        journal.append(
            entry(name),
            lambda _result, _change, name=name: said.append(f"{name} is there"),
            trouble=lambda error, name=name: said.append(f"{name}: {error}"),
            droppable=True,
            dropped=lambda name=name: said.append(f"{name} was dropped"),
            once=once,
        )
    await settled(journal)
    assert said == ["a: no answer", "b: no answer", "a was dropped", "b is there"]
    assert entry("a") not in store.batches[0]


async def test_the_error_shows_while_it_lasts(store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "RETRY_FIRST_S", 0.05)
    store.errors = [StorageUnavailable("gone")]
    with pytest.raises(StorageUnavailable):
        await journal.commit(entry("a"))
    assert isinstance(journal.error, StorageUnavailable)
    await journal.commit(entry("b"))
    assert journal.error is None


async def test_stopping_flushes_what_is_there(store: Store) -> None:
    journal = Journal(store)
    await journal.start()
    journal.append(entry("a"), lambda *_: None)
    assert await journal.stop(grace_s=5)
    assert store.batches == [[entry("a")]]


async def test_stopping_gives_up_on_a_store_that_does_not_answer(store: Store) -> None:
    journal = Journal(store)
    await journal.start()
    store.gate.clear()
    journal.append(entry("a"), lambda *_: None)
    assert not await journal.stop(grace_s=0.01)
    assert store.batches == []


async def test_large_batches_are_cut(store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "BATCH_WRITES_MAX", 2)
    store.gate.clear()
    for name in "abcde":
        journal.append(entry(name), lambda *_: None)
    store.gate.set()
    await journal.barrier()
    assert [len(batch) for batch in store.batches] == [2, 2, 1]


# ------------------------------------------------------------------------------ waiting for a commit


async def test_an_entry_is_appended_before_commit_returns(store: Store, journal: Journal) -> None:
    committed = [journal.commit(entry(name), lambda _result, change, name=name: (name, change)) for name in "ab"]
    assert await committed[1] == ("b", 1)
    assert await committed[0] == ("a", 1)
    assert store.batches == [[entry("a"), entry("b")]]


async def test_a_waiter_gets_the_error_of_the_callback_after_the_commit(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_result: EntryResult, _change: int) -> str:
        raise LookupError("it is gone")

    with pytest.raises(LookupError, match="it is gone"):
        await journal.commit(entry("a"), fail)
    assert not caplog.records
    nobody = journal.commit(entry("b"), fail)
    nobody.cancel()
    await settled(journal)
    assert [record.message for record in caplog.records] == ["a step after a commit failed"]


async def test_the_callback_of_a_commit_runs_after_its_waiter_left(store: Store, journal: Journal) -> None:
    said: list[str] = []
    store.errors = [StorageUnavailable("gone")]
    with pytest.raises(StorageUnavailable):
        await journal.commit(entry("a"), lambda _result, _change: said.append("told"))
    waiting = journal.commit(entry("b"), lambda _result, _change: said.append("cancelled"))
    waiting.cancel()
    await settled(journal)
    assert said == ["told", "cancelled"]


async def test_a_patient_waiter_hears_of_no_trouble_that_passes(store: Store, journal: Journal) -> None:
    store.errors = [StorageUnavailable("gone"), StorageFull("full")]
    waits, patient = journal.commit(entry("a")), journal.commit(entry("b"), patient=True)
    with pytest.raises(StorageUnavailable):
        await waits
    assert (await patient).sequence >= 0
    assert store.batches == [[entry("a"), entry("b")]]


@pytest.mark.parametrize(
    ("error", "terms"),
    [(StorageFull("full"), {"droppable": True}), (StorageUnavailable("gone"), {"once": True}), (Fenced("dead"), {})],
    ids=["dropped", "once", "fenced"],
)
async def test_a_patient_waiter_hears_that_the_entry_was_given_up(
    store: Store, journal: Journal, error: StorageError, terms: Any
) -> None:
    store.errors = [error]
    with pytest.raises(type(error)):
        await journal.commit(entry("a"), patient=True, **terms)
    assert store.batches == []


class Ending(SoleMember):
    """A membership that ends at a moment of the test's choice, and cannot be renewed then."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = True
        self.fenced = asyncio.Event()

    async def renew(self) -> None:
        raise Fenced("dead")

    def fence(self) -> None:
        self.fenced.set()


MANY = 10 * THENS_AT_ONCE
ENTRY: Entry = (SetDormant("run", True),)


async def test_other_tasks_get_turns_between_the_callbacks_of_a_large_commit() -> None:
    journal = Journal(cast(Any, MemoryMetadataStore()))
    turns: list[int] = []
    done: list[int] = []

    async def others() -> None:
        while len(done) < MANY:
            turns.append(len(done))
            await asyncio.sleep(0)

    for number in range(MANY):
        journal.append(ENTRY, lambda _result, _change, number=number: done.append(number))  # type: ignore[misc]
    beside = asyncio.create_task(others())
    await journal.start()
    await journal.barrier()
    await beside
    await journal.stop(grace_s=1)
    assert done == list(range(MANY))
    assert {THENS_AT_ONCE * share for share in range(1, 10)} <= set(turns)


async def test_no_callback_runs_after_the_lease_has_ended() -> None:
    """It may end between two shares of them, and others go on from there."""
    membership = Ending()
    journal = Journal(cast(Any, MemoryMetadataStore()), membership)
    done: list[int] = []
    told: list[Exception] = []

    def then(number: int) -> None:
        done.append(number)
        membership.holds = len(done) < 2 * THENS_AT_ONCE

    for number in range(MANY):
        journal.append(ENTRY, lambda _result, _change, number=number: then(number), trouble=told.append)  # type: ignore[misc]
    await journal.start()
    await membership.fenced.wait()
    await journal.stop(grace_s=0)
    assert done == list(range(2 * THENS_AT_ONCE))
    assert len(told) == MANY - len(done)


async def test_a_step_may_cancel_the_caller_that_waits_for_it(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    async def caller() -> None:
        await journal.commit(entry("a"), lambda _result, _change: waiting.cancel())

    waiting = asyncio.ensure_future(caller())
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await settled(journal)
    assert caplog.messages == []
