"""The periodic loops of an engine among several go on, whatever the store raises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from patience import PATIENCE_S
from perdure import graphwire, wire
from perdure.model import Payload, RunStatus, Spec, SpecNode, WaitEvent
from perdure.service.executors.port import Executor
from perdure.service.fleet import follower, membership, post, slots
from perdure.service.fleet.letters import CANCEL, event_letter
from perdure.service.fleet.membership import Membership
from perdure.service.kernel import Kernel
from perdure.service.machines.definitions import spec_key
from perdure.service.runs import timers
from perdure.storage.memory.store import MemoryMetadataStore, SharedMemory
from perdure.storage.ports import Fenced, StorageUnavailable
from perdure.storage.rows import EngineRow, EventRow, RunRow
from perdure.storage.writes import AddEvent, AddRun, Mail

LONG_MS = 600_000
LEASE_S = 6.0
"""Renewed every third of it, and long enough for a machine that is busy."""


class Idle:
    """An executor that is given nothing."""

    async def start(self, *_arguments: Any) -> None: ...
    async def stop(self) -> None: ...


class Stumbling(MemoryMetadataStore):
    """Raises what no store should, each time it is told to, and tells how often it was asked since."""

    def __init__(self, shared: SharedMemory) -> None:
        super().__init__(shared)
        self.method = ""
        self.asked = 0
        self.again = asyncio.Event()

    def stumble(self, method: str) -> None:
        self.method, self.asked = method, 0
        self.again.clear()

    def __getattribute__(self, name: str) -> Any:
        if name not in ("method", "asked", "again") and name == self.method:
            self.asked += 1
            if self.asked == 1:
                return _raise_bug
            self.again.set()
        return super().__getattribute__(name)


async def _raise_bug(*_args: object, **_kwargs: object) -> Any:
    raise RuntimeError("a bug")


@asynccontextmanager
async def at_work(store: MemoryMetadataStore, **how: Any) -> AsyncIterator[Kernel]:
    kernel = Kernel(store, cast(Executor, Idle()), owner="me", engine=EngineRow("me"), **how)
    await kernel.start()
    try:
        yield kernel
    finally:
        await kernel.stop(grace_s=1)


@pytest.mark.parametrize(
    "method", ["read_mail", "last_change", "count_pending", "bury", "take_over", "renew", "next_timers"]
)
async def test_what_is_done_again_and_again_survives_a_bug(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (post, "POLL_S"), (follower, "POLL_S"), (slots, "POLL_S"), (membership, "WATCH_S"),
        (timers, "POLL_S"), (timers, "TROUBLE_S"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, 0.001)
    store = Stumbling(SharedMemory())
    async with at_work(store, max_running=1, lease_s=LEASE_S) as kernel:
        assert kernel.fleet is not None
        store.stumble(method)
        kernel.fleet._heard()
        await store.again.wait()
        assert not kernel.fleet.fenced.is_set()
        store.method = ""


async def test_a_malformed_letter_does_not_block_others() -> None:
    shared = SharedMemory()
    store = shared.member()
    async with at_work(store) as kernel:
        for name in "ab":
            row = RunRow(name, "default", name, RunStatus.RUNNING, "spec", 1, 1, owner="me")
            await store.commit([(AddRun(row, b"graph"),)])
        other = shared.member()
        await other.join(EngineRow("other"), LONG_MS)
        await other.commit([(Mail("a", CANCEL, b"no json"), Mail("b", CANCEL, b'{"reason": "enough"}'))])
        assert kernel.fleet is not None
        while await other.read_mail(limit=9) or shared.mail:
            kernel.fleet._heard()
            await asyncio.sleep(0)


class Distant(MemoryMetadataStore):
    """Others have their turn before it answers, as with every real store."""

    async def read_events(self, run_id: str, *, after: int) -> list[EventRow]:
        await asyncio.sleep(0)
        return await super().read_events(run_id, after=after)


async def test_an_event_that_a_sleeping_run_does_not_want_holds_up_no_others() -> None:
    """The run leaves memory as soon as it was loaded, for nothing has changed for it."""
    data = graphwire.encode_spec(Spec((SpecNode("go", WaitEvent("go")),), "go"))
    shared = SharedMemory()
    other = shared.member()
    async with at_work(Distant(shared)) as kernel:
        assert kernel.fleet is not None
        await other.join(EngineRow("other"), LONG_MS)
        for name, key in (("sleeping", "stray"), ("waiting", "go")):
            row = RunRow(name, "default", name, RunStatus.RUNNING, spec_key(data), 1, 1, owner="me", is_dormant=True)
            payload = wire.encode_payload(Payload("binary/plain", b""))
            await other.commit([(AddRun(row, data), AddEvent(name, "e", key, payload, 1), event_letter(name))])
        kernel.fleet._heard()
        ended = await kernel.queries.outcome("default", "waiting", wait_s=PATIENCE_S)
        assert ended.status is RunStatus.SUCCESSFUL
        while shared.mail:
            await asyncio.sleep(0)
        assert (await kernel.queries.outcome("default", "sleeping")).status is RunStatus.RUNNING


async def test_an_engine_that_dies_while_it_starts_leaves_nothing_behind() -> None:
    shared = SharedMemory()
    store = shared.member()
    other = shared.member()
    kernel = Kernel(store, cast(Executor, Idle()), owner="me", engine=EngineRow("me"), max_running=1, lease_s=0.001)
    assert kernel.fleet is not None
    await kernel.fleet.join()
    await asyncio.sleep(0.002)
    while not await other.bury():
        await asyncio.sleep(0.001)
    with pytest.raises(Fenced):
        await kernel.start(recover=False)
    await kernel.stop(grace_s=1)
    assert not asyncio.all_tasks() - {asyncio.current_task()}


# ------------------------------------------------------------------------------ membership


class Lease(MemoryMetadataStore):
    """Tells of renewals, and refuses them if it is told to."""

    def __init__(self, shared: SharedMemory) -> None:
        super().__init__(shared)
        self.renewed = asyncio.Event()
        self.error: Exception | None = None

    async def renew(self, lease_ms: int) -> None:
        self.renewed.set()
        if self.error is not None:
            raise self.error
        await super().renew(lease_ms)


def member(store: MemoryMetadataStore, fenced: Callable[[], None] = lambda: None) -> Membership:
    return Membership(store, EngineRow("me"), lease_ms=60, fenced=fenced, elapsed_s=lambda: 0.0)


async def test_a_member_renews_its_lease_from_the_first_moment_to_the_last() -> None:
    """While it starts, and while it hands over, however long either takes."""
    store = Lease(SharedMemory())
    membership_ = member(store)
    await membership_.join()
    await store.renewed.wait()
    await membership_.start(lambda _rows: None)
    await membership_.stop()
    for _ in range(3):
        store.renewed.clear()
        await store.renewed.wait()
    await membership_.leave()
    assert await store.engines() == []
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("membership")]


async def test_a_member_that_is_dead_stops_renewing_and_says_so_once() -> None:
    store = Lease(SharedMemory())
    said: list[int] = []
    membership_ = member(store, lambda: said.append(1))
    await membership_.join()
    store.error = StorageUnavailable("away")
    await store.renewed.wait()
    store.error = Fenced("dead")
    while not said:
        await asyncio.sleep(0.001)
    await membership_.leave()
    assert said == [1]
