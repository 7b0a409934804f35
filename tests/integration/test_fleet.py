"""Several engines over one store, in one process: every engine gives the same answer, and the death of one loses
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

import perdure
from integration.engine_settings import settings_on
from patience import PATIENCE_S
from perdure import RunStatus, errors
from perdure.handle import Handle
from perdure.model import Payload
from perdure.service.app import RunningServer, running_server
from perdure.service.common.clocks import wall_clock_ms
from perdure.service.fleet import follower
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.storage.memory.store import MemoryMetadataStore, SharedMemory
from perdure.storage.ports import StorageUnavailable
from perdure.storage.queries import RunQuery
from perdure.v1 import workflow_service_pb2 as pb
from perdure.v1 import workflow_service_pb2_grpc

PENDING, RUNNING, SUCCESSFUL, FAILED, CANCELED = (
    RunStatus.PENDING,
    RunStatus.RUNNING,
    RunStatus.SUCCESSFUL,
    RunStatus.FAILED,
    RunStatus.CANCELED,
)
EVERYTHING = RunQuery("default", 100)
CALLS = ("commit", "renew", "leave", "bury", "take_over", "read_mail", "load_run", "find_run", "get_run", "list_runs")


@perdure.task
def first(value: Any, *_: Any) -> Any:
    return value


@perdure.task
def note(path: str, *_: Any) -> int:
    """How often it ran."""
    with Path(path).open("a") as file:
        file.write("ran\n")
    return len(Path(path).read_text().splitlines())


NOTE = f"{__name__}.note"


@perdure.task(max_retries=0)
def content(path: str) -> str:
    return Path(path).read_text()


@dataclass
class Engine:
    """An engine with a client of its own."""

    server: RunningServer
    client: perdure.Client
    store: MemoryMetadataStore
    stack: AsyncExitStack

    def of(self, handle: Handle) -> Handle:
        """The same workflow, asked for here."""
        return self.client.handle(handle.workflow_id)

    async def stop(self) -> None:
        """SIGTERM."""
        await self.stack.aclose()

    def cut_off(self) -> None:
        """It does not reach the store any more, nor does it leave: for the others it is as if it were dead."""

        async def refuse(*_: Any, **__: Any) -> Any:
            raise StorageUnavailable("no route")

        for name in CALLS:
            setattr(self.store, name, refuse)

    def reconnect(self) -> None:
        for name in CALLS:
            delattr(self.store, name)


@dataclass
class Fleet:
    shared: SharedMemory = field(default_factory=SharedMemory)
    blobs: MemoryBlobStore = field(default_factory=MemoryBlobStore)
    skipped_ms: int = 0
    """The time by which the clock of the engines is ahead."""

    def clock(self) -> int:
        return wall_clock_ms() + self.skipped_ms

    @asynccontextmanager
    async def engines(self, count: int = 2, **settings: Any) -> AsyncIterator[list[Engine]]:
        async with AsyncExitStack() as everybody:
            yield [await everybody.enter_async_context(self._engine(**settings)) for _ in range(count)]

    @asynccontextmanager
    async def _engine(self, **settings: Any) -> AsyncIterator[Engine]:
        usual = settings_on("memory:", **{"engine_lease_s": 1.0, "drain_s": 0.5, **settings})
        async with AsyncExitStack() as stack:
            store = self.shared.member()
            server = await stack.enter_async_context(
                running_server(usual, store=store, blobs=self.blobs, clock=self.clock)
            )
            client = await stack.enter_async_context(perdure.Client(server.address, patience=5.0))
            yield Engine(server, client, store, stack)

    async def owner_of(self, handle: Handle) -> str:
        row = await self.shared.member().find_run("default", handle.workflow_id)
        assert row is not None
        return row.owner


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


async def test_what_runs_here_is_seen_and_led_from_there(fleet: Fleet) -> None:
    async with fleet.engines() as (here, there):
        run = await here.client.start(first.bind("done", perdure.event("go")), workflow_id="w")
        seen: list[RunStatus] = []
        watching = asyncio.Event()

        async def watch() -> None:
            async for update in there.of(run).watch():
                watching.set()
                if update.run is not None:
                    seen.append(update.run.status)

        watcher = asyncio.create_task(watch())
        output = asyncio.create_task(there.of(run).output())
        await watching.wait()
        assert (await there.of(run).status()).status is RUNNING
        assert [info.workflow_id async for info in there.client.list()] == ["w"]
        assert await there.of(run).send_event("go", 1, event_id="e")
        assert await output == await run.output() == "done"
        await watcher
        assert seen[-1] is SUCCESSFUL
        assert not await here.of(run).send_event("go", 1, event_id="e")
        await there.client.delete("w")
        with pytest.raises(errors.WorkflowNotFoundError):
            await run.status()


async def test_watches_are_told_of_a_deletion_by_another_engine(fleet: Fleet) -> None:
    async with fleet.engines() as (here, there):
        run = await here.client.start(first.bind(1), workflow_id="w")
        assert await run.output() == 1
        request = pb.WatchRequest(workflow_ids=["w"], progress_interval=Duration(seconds=1))
        async with grpc.aio.insecure_channel(there.server.address) as channel:
            call = workflow_service_pb2_grpc.WorkflowServiceStub(channel).Watch(request)
            await call.read()
            await here.client.delete("w")
            told: list[str] = []
            while not told:
                told = [event.deleted_workflow_id for event in (await call.read()).events]
            assert told == ["w"]
            assert not (await call.read()).events
            call.cancel()


async def test_a_run_of_another_engine_is_canceled_and_stays_so(fleet: Fleet) -> None:
    async with fleet.engines(3) as (here, there, elsewhere):
        run = await here.client.start(first.bind(1, perdure.event("never")), workflow_id="w")
        assert await there.of(run).cancel("enough") is CANCELED
        assert [(await engine.of(run).status()).status for engine in (here, there, elsewhere)] == [CANCELED] * 3
        with pytest.raises(errors.WorkflowAlreadyFinalError):
            await elsewhere.of(run).resume()
        with pytest.raises(errors.WorkflowCancellationError):
            await elsewhere.of(run).output()


async def test_the_resuming_engine_owns_the_run(fleet: Fleet, tmp_path: Path) -> None:
    async with fleet.engines() as (here, there):
        run = await here.client.start(first.bind(content.bind(str(tmp_path / "file"))), workflow_id="w")
        with pytest.raises(errors.WorkflowExecutionError):
            await there.of(run).output()
        before = await fleet.owner_of(run)
        (tmp_path / "file").write_text("there now")
        assert await there.of(run).resume()
        assert await run.output() == "there now"
        assert await fleet.owner_of(run) != before


async def test_one_request_to_several_engines_makes_one_run(fleet: Fleet) -> None:
    async with fleet.engines() as (here, there):
        graph = first.bind(1)
        runs = await asyncio.gather(
            *(engine.client.start(graph, workflow_id="w", request_id="r") for engine in (here, there, here, there))
        )
        assert len({run.run_id for run in runs}) == 1


async def test_runs_of_an_engine_that_leaves_go_on_at_once(fleet: Fleet, tmp_path: Path) -> None:
    async with fleet.engines(engine_lease_s=600.0) as (here, there):
        counted = note.bind(str(tmp_path / "file"))
        runs = []
        for name in ("a", "b"):  # one after the other, since both count in one file
            runs.append(await here.client.start(first.bind(counted, perdure.event("go")), workflow_id=name))
            await runs[-1].output(NOTE)
        await here.stop()
        for run in runs:
            await there.of(run).send_event("go")
        assert sorted([await there.of(run).output() for run in runs]) == [1, 2]
        assert (tmp_path / "file").read_text() == "ran\n" * 2
        assert len(await there.store.engines()) == 1


async def test_runs_of_an_engine_that_is_gone_go_on_after_its_lease_and_it_can_change_nothing(
    fleet: Fleet, tmp_path: Path
) -> None:
    async with fleet.engines() as (here, there):
        counted = note.bind(str(tmp_path / "file"))
        run = await here.client.start(
            first.bind(counted, perdure.event("go"), note.bind(str(tmp_path / "file"), counted)), workflow_id="w"
        )
        await run.output(f"{NOTE}_1")
        asleep = await here.client.start(first.bind("awake", perdure.event("wake")), workflow_id="asleep")
        here.cut_off()
        with pytest.raises(errors.ServiceUnavailableError):
            await perdure.Client(here.server.address, patience=0.0).handle("w").status()
        await there.of(run).send_event("go")
        await there.of(asleep).send_event("wake")
        assert await there.of(run).output() == 1
        assert await there.of(asleep).output() == "awake"
        stored = await fleet.shared.member().list_runs(EVERYTHING)
        here.reconnect()
        assert here.server.kernel.fleet is not None
        await here.server.kernel.fleet.fenced.wait()
        with pytest.raises(errors.ServiceUnavailableError):
            await perdure.Client(here.server.address, patience=0.0).start(first.bind(1), workflow_id="late")
        assert await fleet.shared.member().list_runs(EVERYTHING) == stored
        assert (tmp_path / "file").read_text() == "ran\n" * 2


async def test_limits_hold_over_all_engines_and_the_queue_is_one(fleet: Fleet) -> None:
    async with fleet.engines(max_running_workflows=2, max_pending_workflows=3) as (here, there):
        graph = first.bind("done", perdure.event("go"))
        engines = [here, there, there, here, there]
        runs = [
            await engine.client.start(graph, workflow_id=name) for engine, name in zip(engines, "abcde", strict=True)
        ]
        statuses = {info.workflow_id: info.status async for info in there.client.list()}
        assert statuses == {"a": RUNNING, "b": RUNNING, "c": PENDING, "d": PENDING, "e": PENDING}
        for engine in (here, there):
            with pytest.raises(errors.QueueFullError):
                await engine.client.start(graph, workflow_id="f")
        for ended, started in zip(runs, "cde  ", strict=True):
            await here.of(ended).send_event("go")
            assert await there.of(ended).output() == "done"
            if started.strip():
                await becomes(there.client.handle(started), RUNNING)
            statuses = {info.workflow_id: info.status async for info in here.client.list()}
            later = "abcde"["abcde".index(started) + 1 :] if started.strip() else ""
            assert {statuses[name] for name in later} <= {PENDING}


async def becomes(handle: Handle, status: RunStatus) -> None:
    """Wait for a state as a client does."""
    async with contextlib.aclosing(cast(Any, handle.watch(include_tasks=False))) as updates:
        async for update in updates:
            if update.run is not None and update.run.status is status:
                return


async def test_an_event_for_a_run_that_was_deleted_meanwhile_is_not_acknowledged(fleet: Fleet) -> None:
    """Between the look at the run and the commit of the event."""
    async with fleet.engines() as (here, there):
        await here.client.start(first.bind(1, perdure.event("go")), workflow_id="w")
        seen = await there.store.find_run("default", "w")
        assert seen is not None
        await here.client.cancel("w")
        await here.client.delete("w")
        offered = there.server.kernel.events.offer(seen, "go", "e", Payload("binary/null"))
        with pytest.raises(errors.WorkflowNotFoundError):
            await offered


@perdure.actor(call_retention=60)
class Counter(perdure.Actor):
    def __init__(self) -> None:
        self.value = 0

    @perdure.method
    def incr(self) -> int:
        self.value += 1
        return self.value

    @perdure.method
    async def wait(self) -> None:
        await asyncio.Event().wait()


async def test_call_is_dropped_before_the_engine_of_its_actor_has_heard_of_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet.engines() as (here, there):
        read_events = here.store.read_events

        async def read_both(run_id: str, *, after: int) -> Any:
            """A call, and the request to drop it."""
            found = await read_events(run_id, after=after)
            return found if len(found) != 1 or found[0].event_id == "counted" else []

        counter = here.client.actor(Counter, "c")
        assert await counter.incr() == 1
        monkeypatch.setattr(here.store, "read_events", read_both)
        for engine in (there, here):
            stuck = await engine.client.actor(Counter, "c").wait.start()
            assert await stuck.drop()
            with pytest.raises(errors.ActorCallError, match="was dropped"):
                await stuck.output()
            assert not await stuck.drop()
            assert not await engine.client.actors.drop("c", "unknown")
        assert await counter.incr.options(request_id="counted")() == 2


async def test_engine_that_has_told_a_result_tells_that_of_a_later_call_of_the_same_id(fleet: Fleet) -> None:
    async with fleet.engines() as (here, there):
        mine = here.client.actor(Counter, "c").incr
        theirs = there.client.actor(Counter, "c").incr.options(request_id="once")
        assert await mine.options(request_id="once")() == 1
        assert await theirs() == 1
        fleet.skipped_ms += 70_000
        assert await mine() == 2, "forgets the older one"
        assert await theirs() == 3


async def test_result_of_a_call_through_another_engine_needs_no_poll(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "POLL_S", 3600)
    async with fleet.engines() as (here, there):
        assert await here.client.actor(Counter, "c").incr() == 1
        theirs = there.client.actor(Counter, "c").incr.options(timeout=PATIENCE_S)
        assert [await theirs() for _ in range(3)] == [2, 3, 4]
