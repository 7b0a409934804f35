"""Two engines on a real PostgreSQL: killed, stopped and woken, ended; any of them takes any call."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import perdure
from fleet import Engine, engines, owners, rows
from perdure import errors
from postgres import PostgresServer
from services import Process, running
from traces import HARNESS_S, Trace, Traces, chain, fan, gather, step

pytestmark = pytest.mark.timeout(600)

LEASE_S = 2.0
PROMISED_S = LEASE_S + 2.0
"""The time within which the runs of a dead engine go on elsewhere."""
FLAGS = ("--executor", "local", "--local-threads", "4", "--drain-s", "5")
LEASE = ("--engine-lease-s", str(LEASE_S))


@pytest.fixture
async def database(own_postgres: PostgresServer) -> AsyncIterator[str]:
    async with own_postgres.database() as url:
        yield url


# ------------------------------------------------------------------------------ an engine is killed


@dataclass
class Pair:
    """Two engines with their clients; which is killed next, and which one goes on."""

    engines: tuple[Engine, ...]
    clients: tuple[perdure.Client, ...]
    repetition: int = 0
    late_s: list[float] = field(default_factory=list)


@pytest.fixture
async def pair(database: str, tmp_path: Path) -> AsyncIterator[Pair]:
    blobs = (tmp_path / "blobs").as_uri()
    with engines(tmp_path, database, blobs, ("a", "b"), *FLAGS, *LEASE) as fleet:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(perdure.Client(engine.address)) for engine in fleet]
            yield Pair(fleet, tuple(clients))


CHAINS, LENGTH = 8, 12


async def kill_one(pair: Pair, folder: Path) -> None:
    """Kill the engine that works on most of the chains; the other one ends them all."""
    pair.repetition += 1
    number = pair.repetition
    victim, heir = pair.engines[number % 2], pair.engines[1 - number % 2]
    here, there = pair.clients[number % 2], pair.clients[1 - number % 2]
    traces = Traces(folder / f"traces.{number}")
    names = [f"r{number}w{index}" for index in range(CHAINS)]
    for index, name in enumerate(names):
        client = there if index % 4 == 0 else here
        await client.start(chain(traces.path, name, LENGTH), workflow_id=name)
    await traces.until(CHAINS * LENGTH // 3)
    pid = victim.pid
    victim.kill()
    died_s = time.time()
    async with asyncio.timeout(HARNESS_S):
        outputs = dict(zip(names, await asyncio.gather(*(there.handle(n).output() for n in names)), strict=True))
    victim.up()
    check_chains(traces.read(), outputs, pid, LENGTH)
    lost = [name for index, name in enumerate(names) if index % 4]
    went_on_s = [
        min(trace.at_s for trace in traces.read() if trace.pid == heir.pid and trace.name.startswith(f"{name}."))
        for name in lost
        if any(who == heir.pid for _, who in outputs[name])
    ]
    assert went_on_s, "it was killed too late"
    pair.late_s.append(max(went_on_s) - died_s)


def check_chains(traces: list[Trace], outputs: dict[str, Any], dead: int, length: int) -> None:
    """Nothing is lost; in each chain only the step that was under way is made again; and what is recorded
    of a step is its last attempt."""
    made = Counter(trace.name for trace in traces)
    last = {trace.name: trace for trace in traces}
    assert set(made) == {f"{name}.{index}" for name in outputs for index in range(length)}
    for name, output in outputs.items():
        assert [step_name for step_name, _ in output] == [f"{name}.{index}" for index in range(length)]
        assert all(last[step_name].pid == pid for step_name, pid in output)
        of_the_dead = [trace for trace in traces if trace.pid == dead and trace.name.startswith(f"{name}.")]
        again = {step_name for step_name, _ in output if made[step_name] > 1}
        assert again <= {trace.name for trace in of_the_dead[-1:]}
    assert max(made.values()) <= 2


async def test_an_engine_is_killed_and_the_other_one_goes_on(pair: Pair, tmp_path: Path) -> None:
    for _ in range(2):
        await kill_one(pair, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_twenty_times_an_engine_is_killed_and_the_other_one_goes_on_in_time(pair: Pair, tmp_path: Path) -> None:
    for _ in range(20):
        await kill_one(pair, tmp_path)
    assert len(pair.late_s) == 20
    assert max(pair.late_s) < PROMISED_S, pair.late_s


# ------------------------------------------------------------------------------ an engine is stopped and woken


async def test_an_engine_that_wakes_after_its_lease_changes_nothing_and_begins_anew(
    pair: Pair, database: str, tmp_path: Path
) -> None:
    zombie, heir = pair.engines
    here, there = pair.clients
    traces = Traces(tmp_path / "traces")
    handles = [await here.start(chain(traces.path, f"c{index}", 12), workflow_id=f"c{index}") for index in range(3)]
    handles.append(await here.start(fan(traces.path, "f", 24, 0.1), workflow_id="f"))
    handles.append(await here.start(gather.bind(perdure.event("go")), workflow_id="e"))
    await traces.until(15)
    run_ids = [handle.run_id for handle in handles]
    (before_id,) = [engine for engine, (address, _) in (await owners(database)).items() if address == zombie.address]
    zombie.pause()
    try:
        assert await there.send_event("e", "go", ["payload"])
        async with asyncio.timeout(HARNESS_S):
            outputs = await asyncio.gather(*(there.handle(handle.workflow_id).output() for handle in handles))
        stored = await rows(database, run_ids)
        began = {trace.name for trace in traces.read() if trace.pid == zombie.pid}
    finally:
        since = zombie.said()
        zombie.go_on()
    await asyncio.to_thread(zombie.wait_for, "starting anew", since=since)
    await asyncio.to_thread(zombie.wait_for, " serves on ", since=since)
    assert await rows(database, run_ids) == stored
    fleet = await owners(database)
    assert fleet.get(before_id, ("", True))[1]
    (after_id,) = [engine for engine, state in fleet.items() if state == (zombie.address, False)]
    assert after_id != before_id
    # What it had in its queues is done elsewhere: it began nothing of that when it woke.
    assert {trace.name for trace in traces.read() if trace.pid == zombie.pid} == began
    assert outputs[4] == ["payload"]
    assert outputs == [await here.handle(handle.workflow_id).output() for handle in handles]
    assert len(await here.run(chain(traces.path, "new", 3))) == 3
    assert {trace.pid for trace in traces.read() if trace.name.startswith("new.")} == {zombie.pid}
    assert heir.log.count("engine declared dead") == 1


# ------------------------------------------------------------------------------ an engine is ended


async def test_an_engine_that_is_ended_hands_over_at_once(database: str, tmp_path: Path) -> None:
    """The lease would last longer than this test may."""
    blobs = (tmp_path / "blobs").as_uri()
    flags = ("--engine-lease-s", "600")
    traces = Traces(tmp_path / "traces")
    with engines(tmp_path, database, blobs, ("a", "b"), *FLAGS, *flags) as (leaving, heir):
        async with perdure.Client(leaving.address) as here, perdure.Client(heir.address) as there:
            names = [f"w{index}" for index in range(4)]
            for name in names:
                await here.start(chain(traces.path, name, 20), workflow_id=name)
            await here.start(gather.bind(perdure.event("go")), workflow_id="e")
            await traces.until(20)
            assert await asyncio.to_thread(leaving.stop) == 0
            assert [address for address, _ in (await owners(database)).values()] == [heir.address]
            async with asyncio.timeout(HARNESS_S):
                assert await there.send_event("e", "go", ["payload"])
                outputs = {name: await there.handle(name).output() for name in names}
                assert await there.handle("e").output() == ["payload"]
    made = Counter(trace.name for trace in traces.read())
    assert set(made) == {f"{name}.{index}" for name in names for index in range(20)}
    assert sum(made.values()) <= len(made) + len(names), "only what was under way is made again"
    assert {len(output) for output in outputs.values()} == {20}


# ------------------------------------------------------------------------------ any call on any engine


async def test_any_engine_takes_any_call(pair: Pair, tmp_path: Path) -> None:
    here, there = pair.clients
    traces = Traces(tmp_path / "traces")
    waiting = await here.start(gather.bind(perdure.event("go")), workflow_id="waiting", labels={"of": "here"})
    updates: list[perdure.RunStatus] = []

    async def watch() -> None:
        async for update in there.handle("waiting").watch():
            if update.run is not None:
                updates.append(update.run.status)

    async with asyncio.timeout(HARNESS_S):
        watching = asyncio.create_task(watch())
        waiter = asyncio.create_task(there.handle("waiting").output())
        assert (await there.handle("waiting").status()).run_id == waiting.run_id
        assert [run.workflow_id async for run in there.list('labels.of = "here"')] == ["waiting"]
        with pytest.raises(errors.WorkflowAlreadyExistsError):
            await there.start(gather.bind(["x"]), workflow_id="waiting")
        assert await there.send_event("waiting", "go", ["payload"], event_id="once")
        assert not await here.send_event("waiting", "go", ["payload"], event_id="once")
        assert await waiter == ["payload"]
        await watching
        assert updates[-1] is perdure.RunStatus.SUCCESSFUL
        # the same request at another engine is the same run
        first = await here.start(chain(traces.path, "twice", 2), workflow_id="twice", request_id="one")
        again = await there.start(chain(traces.path, "twice", 2), workflow_id="twice", request_id="one")
        assert again.run_id == first.run_id
        assert len(await again.output()) == 2
        # canceled elsewhere, in the middle of a task
        running = await here.start(step.bind(str(traces.path), "long", (), 600.0), workflow_id="long")
        await traces.until(3)
        assert await there.cancel("long", "enough") is perdure.RunStatus.CANCELED
        with pytest.raises(errors.WorkflowCancellationError):
            await running.output()
        # failed here, resumed there
        door = tmp_path / "door"
        failing = await here.start(through.bind(str(door)), workflow_id="failing")
        with pytest.raises(errors.WorkflowExecutionError):
            await failing.output()
        door.touch()
        assert await there.resume("failing")
        assert await failing.output() == "through"
        assert [task.attempts async for task in there.handle("failing").tasks()] == [
            task.attempts async for task in here.handle("failing").tasks()
        ]
        # deleted there, gone here
        await there.delete("failing")
        with pytest.raises(errors.WorkflowNotFoundError):
            await here.handle("failing").status()
        # what was a dormant run of one's comes to life by the other's event
        nap = await here.start(gather.bind(["a"], perdure.event("b")), workflow_id="nap")
        assert await there.send_event("nap", "b", ["b"])
        assert await nap.output() == ["a", "b"]


@perdure.task
def through(door: str) -> str:
    """Fails while the door is closed."""
    if not Path(door).exists():
        raise RuntimeError("closed")
    return "through"


# ------------------------------------------------------------------------------ on Ray


@pytest.mark.ray
async def test_on_ray_the_runs_of_a_killed_engine_go_on_with_leases_of_the_other(
    database: str, ray_address: str, tmp_path: Path
) -> None:
    traces = Traces(tmp_path / "traces")
    blobs = (tmp_path / "blobs").as_uri()
    flags = ("--executor", "agents", "--lease-idle-s", "2", *LEASE)
    async with AsyncExitStack() as stack:
        fleet = stack.enter_context(engines(tmp_path, database, blobs, ("a", "b"), *flags))
        for engine in fleet:
            arguments = ("--address", engine.address, "--ray-address", ray_address)
            agent = Process("-m", "perdure.worker.agent", *arguments, log=tmp_path / f"agent.{engine.name}.log")
            stack.enter_context(running(agent))
            agent.start()
            agent.wait_for("agent serves")
        here, there = [await stack.enter_async_context(perdure.Client(engine.address)) for engine in fleet]
        names = [f"w{index}" for index in range(6)]
        for name in names:
            await here.start(chain(traces.path, name, 20), workflow_id=name)
        await traces.until(40)
        done = {
            name: {t.task_id async for t in there.handle(name).tasks(perdure.TaskStatus.SUCCESSFUL)} for name in names
        }
        fleet[0].kill()
        async with asyncio.timeout(2 * HARNESS_S):
            outputs = {name: await there.handle(name).output() for name in names}
    made = Counter(trace.name for trace in traces.read())
    last = {trace.name: trace.pid for trace in traces.read()}
    assert set(made) == {f"{name}.{index}" for name in names for index in range(20)}
    assert sum(len(ids) for ids in done.values()) >= 20
    assert sum(made.values()) <= len(made) + len(names), "in each chain only the step under way is made again"
    for output in outputs.values():
        assert [made_by for _, made_by in output] == [last[step_name] for step_name, _ in output]
        assert len(output) == 20
