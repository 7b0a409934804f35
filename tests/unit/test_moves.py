"""Changes of the state of one run come one after the other, and ids are in the order in which they were made."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, cast

import pytest

from perdure import errors, graphwire
from perdure.ids import TimeOrderedIds
from perdure.model import RunStatus, Spec, SpecNode, WaitEvent
from perdure.service.executors.port import Executor
from perdure.service.kernel import Kernel
from perdure.service.machines.graphs import source_of
from perdure.service.operations.asked import NewRun, Reuse
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import Entry, StorageFull, StorageUnavailable
from perdure.storage.rows import RunRow
from perdure.storage.writes import Committed, SetRun

GRAPH = Spec((SpecNode("w", WaitEvent("go")),), "w")


class Store(MemoryMetadataStore):
    """Slow to answer, so that calls meet; fails as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []

    async def commit(self, entries: Sequence[Entry]) -> Committed:
        await asyncio.sleep(0)
        error = self.errors.pop(0) if self.errors else None
        if isinstance(error, StorageFull):
            raise error
        committed = await super().commit(entries)
        if error is not None:
            raise error  # after the effect
        return committed

    async def get_run(self, run_id: str) -> RunRow | None:
        await asyncio.sleep(0)
        return await super().get_run(run_id)

    async def find_run(self, namespace: str, workflow_id: str) -> RunRow | None:
        await asyncio.sleep(0)
        return await super().find_run(namespace, workflow_id)


class NoExecutor:
    """Runs nothing."""

    async def start(self, *_: Any) -> None: ...

    async def stop(self) -> None: ...

    def loading(self, _run_id: str, _task_id: str, _number: int) -> str:
        return ""

    def waiting(self, run_id: str, task_id: str, attempt: int) -> None:
        return None

    def python_versions(self) -> frozenset[str]:
        return frozenset()


SOURCE = source_of(GRAPH, graphwire.encode_spec(GRAPH))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def kernel(store: Store) -> AsyncIterator[Kernel]:
    kernel = Kernel(store, cast(Executor, NoExecutor()), owner="engine", max_running=2, max_pending=2)
    await kernel.start()
    yield kernel
    await kernel.stop(grace_s=5)


async def submit(kernel: Kernel, name: str) -> RunStatus:
    new = NewRun("default", name, f"request-{name}", SOURCE)
    view, _ = await kernel.submissions.submit(new)
    return view.row.status


async def fail(store: Store, name: str) -> None:
    row = await store.find_run("default", name)
    assert row is not None
    await store.commit([(SetRun(row.run_id, RunStatus.FAILED, 5),)])


async def status(kernel: Kernel, name: str) -> RunStatus:
    return (await kernel.queries.row("default", name)).status


async def settled(kernel: Kernel) -> None:
    while not kernel.is_quiet:
        await asyncio.sleep(0)


async def failed_run(kernel: Kernel, store: Store, name: str) -> None:
    """One that another life of the engine saw fail."""
    await submit(kernel, name)
    await kernel.lifecycle.cancel("default", name)
    await fail(store, name)


async def test_one_of_many_concurrent_resumes_succeeds(kernel: Kernel, store: Store) -> None:
    await failed_run(kernel, store, "a")
    answers = await asyncio.gather(*(kernel.lifecycle.resume("default", "a") for _ in range(5)))
    assert sorted(resumed for _, resumed in answers) == [False] * 4 + [True]
    row = await store.find_run("default", "a")
    assert row is not None
    assert (row.status, row.resume_count) == (RunStatus.RUNNING, 1)
    assert kernel.slots.count_running("default") == 1


async def test_a_run_is_resumed_or_deleted_but_not_both(kernel: Kernel, store: Store) -> None:
    for order in (0, 1):
        await failed_run(kernel, store, f"{order}")
        calls: list[Any] = [
            kernel.lifecycle.resume("default", f"{order}"),
            kernel.lifecycle.delete("default", f"{order}"),
        ]
        answers = await asyncio.gather(*(calls if order else reversed(calls)), return_exceptions=True)
        outcomes = Counter(type(answer) for answer in answers if isinstance(answer, Exception))
        assert sum(outcomes.values()) == 1
        assert set(outcomes) <= {errors.WorkflowNotFoundError, errors.WorkflowStillActiveError}


async def test_a_run_is_resumed_or_replaced_but_not_both(store: Store) -> None:
    kernel = Kernel(store, cast(Executor, NoExecutor()), owner="engine")
    await kernel.start()

    async def after(turns: int, call: Coroutine[Any, Any, Any]) -> Any:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await call

    seen = Counter[str]()
    for turns in range(-12, 13):
        name = f"w{turns}"
        await submit(kernel, name)
        await fail(store, name)
        old = await store.find_run("default", name)
        assert old is not None
        other = NewRun("default", name, f"other-{turns}", SOURCE, reuse=Reuse.ALLOW)
        resumed, replaced = await asyncio.gather(
            after(-turns, kernel.lifecycle.resume("default", name)),
            after(turns, kernel.submissions.submit(other)),
            return_exceptions=True,
        )
        now = await store.find_run("default", name)
        before = await store.get_run(old.run_id)
        assert now is not None
        assert before is not None
        assert now.status is RunStatus.RUNNING
        if isinstance(replaced, errors.WorkflowAlreadyExistsError):
            assert (now.run_id, now.resume_count) == (old.run_id, 1)
            assert resumed[1]
            seen["resumed"] += 1
        else:
            assert now.run_id == replaced[0].row.run_id != old.run_id
            assert (before.status, before.resume_count) == (RunStatus.FAILED, 0)
            assert not resumed[1]  # it is the new one that is at work already
            seen["replaced"] += 1
    await kernel.stop(grace_s=5)
    assert min(seen["resumed"], seen["replaced"]) > 0


async def test_an_id_is_fresh_as_soon_as_it_is_deleted(store: Store) -> None:
    """However the calls meet, the new run is there in the end, and whole."""
    kernel = Kernel(store, cast(Executor, NoExecutor()), owner="engine")
    await kernel.start()
    for turns in range(12):
        name = f"w{turns}"
        await submit(kernel, name)
        await fail(store, name)
        deleted = asyncio.create_task(kernel.lifecycle.delete("default", name))
        for _ in range(turns):
            await asyncio.sleep(0)
        other = NewRun("default", name, f"other-{turns}", SOURCE, reuse=Reuse.ALLOW)
        view, _ = await kernel.submissions.submit(other)
        await deleted
        now = await store.find_run("default", name)
        assert now is not None
        assert (now.run_id, now.status) == (view.row.run_id, RunStatus.RUNNING)
        stored = await store.load_run(now.run_id)
        assert stored is not None
        assert now.spec_key in await store.read_specs([now.spec_key])
    await kernel.stop(grace_s=5)


async def test_a_pending_run_is_started_or_canceled_but_not_both(kernel: Kernel) -> None:
    for name in "abcd":
        await submit(kernel, name)
    assert await status(kernel, "c") is RunStatus.PENDING
    await asyncio.gather(*(kernel.lifecycle.cancel("default", name) for name in "abcd"))
    await settled(kernel)
    assert [await status(kernel, name) for name in "abcd"] == [RunStatus.CANCELED] * 4
    assert kernel.slots.count_running("default") == kernel.slots.count_pending("default") == 0


async def test_many_at_once_get_as_many_slots_as_there_are(kernel: Kernel) -> None:
    answers = await asyncio.gather(*(submit(kernel, f"{number}") for number in range(7)), return_exceptions=True)
    assert answers[:4] == [RunStatus.RUNNING] * 2 + [RunStatus.PENDING] * 2
    assert all(isinstance(answer, errors.QueueFullError) for answer in answers[4:])


async def test_what_a_full_disk_refuses_holds_no_slot(kernel: Kernel, store: Store) -> None:
    for _ in range(3):
        store.errors = [StorageFull("no room")]
        with pytest.raises(errors.StorageFullError):
            await submit(kernel, "a")
        await settled(kernel)
    assert kernel.slots.count_running("default") == 0
    assert [await submit(kernel, name) for name in "abc"] == [RunStatus.RUNNING] * 2 + [RunStatus.PENDING]


async def test_what_may_have_been_stored_keeps_its_slot(kernel: Kernel, store: Store) -> None:
    """The answer is lost, then the disk is full: the run is there all the same, and at work."""
    store.errors = [StorageUnavailable("no answer"), StorageFull("no room")]
    with pytest.raises(errors.DatabaseUnavailableError):
        await submit(kernel, "a")
    while not kernel.journal.is_idle:
        await asyncio.sleep(0.01)
    assert kernel.slots.count_running("default") == 1
    row = await store.find_run("default", "a")
    assert row is not None
    assert kernel.scheduler.memory.find(row.run_id) is not None or row.is_dormant


async def test_a_resume_completes_after_its_caller_is_cancelled(kernel: Kernel, store: Store) -> None:
    await failed_run(kernel, store, "a")
    resume = asyncio.create_task(kernel.lifecycle.resume("default", "a"))
    while not kernel.slots.count_running("default"):
        await asyncio.sleep(0)
    resume.cancel()
    await asyncio.gather(resume, return_exceptions=True)
    with pytest.raises(errors.WorkflowStillActiveError):
        await kernel.lifecycle.delete("default", "a")
    await settled(kernel)
    assert await status(kernel, "a") is RunStatus.RUNNING
    await kernel.lifecycle.cancel("default", "a")
    assert kernel.slots.count_running("default") == 0


def test_ids_sort_as_they_were_made() -> None:
    ids = TimeOrderedIds()
    made = [ids(now_ms) for now_ms in [1_700_000_000_000] * 500 + [1_700_000_000_001] * 5 + [1_600_000_000_000] * 5]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    for text in made:
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert uuid.UUID(made[0]).int >> 80 == 1_700_000_000_000
