"""The decisions of the lease pool, one at a time: no streams, no processes, a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from math import inf

import pytest

from perdure import wire
from perdure.engine.messages import AttemptLost, AttemptStarted, Source, TaskFailed, TaskSucceeded
from perdure.model import INLINE_BYTES_MAX, NULL, Call, Failure, FailureKind, Function, Payload, Resources, Shape
from perdure.service.executors.pool import durations as durations_module
from perdure.service.executors.pool import leases as leases_module
from perdure.service.executors.pool import pool as pool_module
from perdure.service.executors.pool.attempts import REFS_MAX
from perdure.service.executors.pool.durations import AHEAD_MS, BATCH_MAX, SHARED_MS, TINY_MS, Durations
from perdure.service.executors.pool.leases import STALLED_S, AgentSession, Lease
from perdure.service.executors.pool.placing import (
    CONCURRENT_MAX,
    CONCURRENT_SPREAD,
    FUNCTIONS_REMEMBERED_MAX,
    KILL_S,
    NEAR_MAX,
    STUCK_S,
)
from perdure.service.executors.pool.pool import LeasePool
from perdure.service.executors.pool.provisioning import (
    ALONE_S,
    BACKOFF_MAX_S,
    BLOCKED_S,
    FREE_SHAPE_LEASES_MAX,
    REFUSALS_MAX,
    TURN_S,
    UNFAIR_S,
    WAY_S,
)
from perdure.service.executors.port import Attempt, Report, Reports, WaitReason
from perdure.storage.rows import ValueKey
from perdure.v1 import worker_service_pb2 as pb

ONE = Shape(Resources(num_cpus=1))
OTHER = Shape(Resources(num_cpus=1), runtime_env='{"env_vars":{"A":"1"}}')
THREE = Shape(Resources(num_cpus=3))
TWO = Shape(Resources(num_cpus=2))
GPU = Shape(Resources(num_gpus=1))
FREE = Shape(Resources(num_cpus=0))
IDLE_S = 5.0


class World:
    """The pool's surroundings in a test: its clock, agents and leases."""

    def __init__(self, pool: LeasePool) -> None:
        self.pool = pool
        self.now_s = 1000.0
        self.holds_for_s = inf
        self.reports: list[Report] = []
        self.values: dict[ValueKey, Payload] = {}
        self.agent: AgentSession

    def cached(self, key: ValueKey) -> Payload | None:
        return self.values.get(key)

    async def read(self, keys: Sequence[ValueKey]) -> list[Payload]:
        raise AssertionError("the pool reads nothing by itself")

    def report(self, reports: Reports) -> None:
        self.reports += [report for _, report in reports]

    def take_reports(self) -> list[tuple[str, type, int]]:
        told = [(report.task_id, type(report), report.attempt) for report in self.reports]
        self.reports.clear()
        return told

    def free_losses(self) -> list[str]:
        """The tasks of the reported losses that cost no retry."""
        return [report.task_id for report in self.reports if isinstance(report, AttemptLost) and report.is_free]

    async def cluster(self, **capacity: float) -> None:
        hello = pb.AgentHello(agent_id="agent", cluster_id="c", python_version="3.11")
        hello.capacity.total.update(capacity)
        self.agent = self.pool.sessions.agent_connected(hello)
        await self.settle()

    async def settle(self) -> None:
        """Make the calls that the pool deferred."""
        for _ in range(3):
            await asyncio.sleep(0)

    async def pass_(self, seconds: float) -> None:
        self.now_s += seconds
        self.pool._tick(self.now_s)
        await self.settle()

    def told(self, kind: str) -> list[str]:
        """Lease ids of the agent's new orders of a kind; those of other kinds stay."""
        found = [message for message in self.agent.messages if message.WhichOneof("kind") == kind]
        for message in found:
            self.agent.messages.remove(message)
        return [getattr(message, kind).lease_id for message in found]

    async def submit(
        self,
        *tasks: str,
        shape: Shape = ONE,
        function: str = "f",
        attempt: int = 1,
        inputs: tuple[Source, ...] = (),
        beside: str = "",
        is_limited: bool = False,
        turn: str = "",
        run: str = "run",
        callers: tuple[str, ...] = (),
    ) -> None:
        for task in tasks:
            call = Call(Function(function, f"module:{function}"), NULL)
            names = "default", "wf", run, task, attempt
            self.pool.submit(Attempt(*names, call, shape, inputs, beside, is_limited, turn, callers))
        await self.settle()

    async def connect(self, lease_id: str) -> Lease:
        lease = self.pool.sessions.lease_connected(
            pb.LeaseHello(lease_id=lease_id, engine_id="engine", python_version="3.11")
        )
        assert lease is not None
        await self.settle()
        return lease

    async def leases(self) -> list[Lease]:
        """Those that were asked for, connected."""
        return [await self.connect(lease_id) for lease_id in self.told("start")]

    async def end(self, lease: Lease, *attempts: pb.Attempt, ms: float = 20, failure: Failure | None = None) -> None:
        message = pb.ServeLeaseRequest()
        for attempt in attempts:
            receipt = message.receipts.add(token=attempt.token, start_time=wire.to_timestamp(1))
            receipt.duration.FromNanoseconds(int(ms * 1e6))
            if failure is None:
                receipt.output.CopyFrom(wire.payload_to_proto(NULL))
            else:
                receipt.failure.CopyFrom(wire.failure_to_proto(failure))
        self.pool.sessions.lease_said(lease, message)
        await self.settle()

    async def begin(self, lease: Lease, *attempts: pb.Attempt) -> None:
        started = pb.ServeLeaseRequest(started=[attempt.token for attempt in attempts], started_ms=[0] * len(attempts))
        self.pool.sessions.lease_said(lease, started)
        await self.settle()

    async def learn(self, ms: float, function: str = "f") -> Lease:
        """A connected lease, idle, and one thing known: how long the function takes."""
        await self.submit("first", function=function)
        (lease,) = await self.leases()
        await self.end(lease, *sent(lease), ms=ms)
        self.take_reports()
        return lease

    async def pair(self, ms: float) -> tuple[Lease, Lease]:
        """Two such leases."""
        await self.submit("first", "second")
        one, two = await self.leases()
        for lease in (one, two):
            await self.end(lease, *sent(lease), ms=ms)
        self.take_reports()
        return one, two


def sent(lease: Lease) -> list[pb.Attempt]:
    """Attempts that go to a lease now."""
    return list(message(lease).attempts)


def message(lease: Lease) -> pb.ServeLeaseResponse:
    return lease.next_message() or pb.ServeLeaseResponse()


def names(attempts: Sequence[pb.Attempt]) -> list[str]:
    return [attempt.task_id for attempt in attempts]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(pool_module, "TICK_S", 3600.0)
    pool = LeasePool(engine_id="engine", blob_url="memory:", idle_s=IDLE_S, now_s=lambda: world.now_s)
    world = World(pool)
    await pool.start(world.report, world, lambda: world.holds_for_s)
    yield world
    await pool.stop()


# ------------------------------------------------------------------------------ leases wanted


async def test_work_waits_for_a_cluster(world: World) -> None:
    await world.submit("a")
    assert world.pool.python_versions() == frozenset()
    await world.cluster(CPU=2)
    assert world.pool.python_versions() == {"3.11"}
    (lease,) = await world.leases()
    assert lease.shape == ONE
    assert names(sent(lease)) == ["a"]
    assert lease.next_message() is None


async def test_an_agent_that_comes_while_the_engine_starts_learns_that_there_are_others() -> None:
    """Its leases would otherwise begin attempts that other engines have taken over."""
    pool = LeasePool(engine_id="engine", blob_url="memory:", idle_s=IDLE_S)
    agent = pool.sessions.agent_connected(pb.AgentHello(agent_id="agent", cluster_id="c"))
    assert not agent.messages
    world = World(pool)
    await pool.start(world.report, world, lambda: 10.0)
    (message,) = agent.messages
    assert message.welcome.has_others
    await pool.stop()


async def test_as_many_leases_as_there_is_work_and_room_for(world: World) -> None:
    await world.cluster(CPU=3)
    await world.submit("a", "b")
    await world.submit("c", "d", "e")
    assert len(world.told("start")) == 3
    await world.submit("f")
    assert world.told("start") == []


async def test_a_cluster_that_grows_is_used(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit("a", "b")
    assert len(world.told("start")) == 1
    world.pool.sessions.agent_said(world.agent, pb.ServeAgentRequest(capacity=pb.ClusterCapacity(total={"CPU": 2})))
    await world.settle()
    assert len(world.told("start")) == 1


async def test_a_shape_without_resources_has_few_leases(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit(*(f"t{index}" for index in range(20)), shape=FREE)
    assert len(world.told("start")) == FREE_SHAPE_LEASES_MAX


async def test_unrequested_leases_are_refused(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit("a")
    (lease_id,) = world.told("start")
    for hello in (
        pb.LeaseHello(lease_id="unknown", engine_id="engine"),
        pb.LeaseHello(lease_id=lease_id, engine_id="another"),
    ):
        assert world.pool.sessions.lease_connected(hello) is None
    await world.connect(lease_id)
    assert world.pool.sessions.lease_connected(pb.LeaseHello(lease_id=lease_id, engine_id="engine")) is None


async def test_a_lease_that_cannot_be_started_costs_nothing(world: World) -> None:
    """However often, and whatever the reason: dead raylets, crashed workers, no connection."""
    await world.cluster(CPU=1)
    await world.submit("a", "b")
    for _ in range(20):
        (lease_id,) = world.told("start")
        world.pool.sessions.lease_ended(
            world.agent, pb.LeaseEnded(lease_id=lease_id, reason="LocalRayletDiedError: no raylet")
        )
        await world.settle()
        assert world.told("start") == [], "not before some time has passed"
        await world.pass_(BACKOFF_MAX_S)
    assert world.take_reports() == []
    (lease,) = await world.leases()
    (attempt,) = sent(lease)
    assert (attempt.task_id, attempt.attempt) == ("a", 1)


async def test_an_agent_that_attaches_is_asked_at_once(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit("a")
    for _ in range(8):
        (lease_id,) = world.told("start")
        world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease_id, reason="no raylet"))
        await world.pass_(BACKOFF_MAX_S)
    world.pool.sessions.agent_said(world.agent, pb.ServeAgentRequest(leaving=pb.AgentLeaving(reason="its Ray is dead")))
    world.pool.sessions.agent_lost(world.agent)
    await world.cluster(CPU=1)
    assert len(world.told("start")) == 1
    assert world.take_reports() == []


async def refuse(world: World, reason: str = "RuntimeEnvSetupError: no such package") -> None:
    """All leases that were asked for, and time passes."""
    for lease_id in world.told("start"):
        world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease_id, reason=reason, refused=True))
    await world.pass_(BACKOFF_MAX_S)


async def test_a_shape_that_the_cluster_refuses_fails_what_waits_for_it(world: World) -> None:
    await world.cluster(CPU=2)
    await world.submit("other", shape=TWO)
    (other,) = await world.leases()
    await world.end(other, *sent(other))
    world.take_reports()
    await world.submit("a", "b", "c", shape=OTHER)
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=other.id))
    await world.settle()
    for _ in range(REFUSALS_MAX):
        assert world.take_reports() == []
        await refuse(world)
    for report in world.reports:
        assert isinstance(report, TaskFailed)
        assert report.failure.non_retryable
        assert report.failure.message == "no worker could be started: RuntimeEnvSetupError: no such package"
    assert [task for task, _, _ in world.take_reports()] == ["a", "b", "c"]
    assert world.told("start") == []
    await world.submit("d", shape=OTHER)
    assert len(world.told("start")) == 1, "it may have been mended since"


async def test_a_success_between_refusals_begins_the_count_anew(world: World) -> None:
    await world.cluster(CPU=2)
    await world.submit("a", "b")
    one, two = world.told("start")
    for _ in range(REFUSALS_MAX - 1):
        world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=one, reason="E: refused", refused=True))
        await world.pass_(BACKOFF_MAX_S)
        (one,) = world.told("start")
    lease = await world.connect(two)
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=one, reason="E: refused", refused=True))
    await world.settle()
    assert names(sent(lease)) == ["a"]
    assert world.take_reports() == []


# ------------------------------------------------------------------------------ why work waits


def capacity(*nodes: dict[str, float]) -> pb.ClusterCapacity:
    told = pb.ClusterCapacity(nodes=[pb.ResourceAmounts(amounts=node) for node in nodes])
    for node in nodes:
        for name, amount in node.items():
            told.total[name] = told.total.get(name, 0.0) + amount
    return told


def why(world: World, task: str = "a") -> tuple[WaitReason, str]:
    waiting = world.pool.waiting("run", task, 1)
    assert waiting is not None
    return waiting.reason, waiting.text


def warnings_of(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records if record.levelname == "WARNING")


async def test_work_says_that_no_cluster_is_attached(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.submit("a", "b")
    assert why(world) == (WaitReason.NO_AGENT, "waits: no cluster is attached")
    for _ in range(3):
        await world.pass_(ALONE_S)
    assert warnings_of(caplog, "no cluster is attached") == 1
    await world.cluster(CPU=1)
    world.pool.sessions.agent_said(world.agent, pb.ServeAgentRequest(leaving=pb.AgentLeaving(reason="its Ray is dead")))
    world.pool.sessions.agent_lost(world.agent)
    assert why(world)[1] == "waits: no cluster is attached; the agent of 'c' has left: its Ray is dead"


async def test_work_says_what_it_wants_that_no_cluster_has(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.cluster(CPU=1)
    world.pool.sessions.agent_said(
        world.agent, pb.ServeAgentRequest(capacity=capacity({"CPU": 1.0}, {"CPU": 2.0, "memory": 2.0**30}))
    )
    odd = Shape(Resources(num_cpus=1, memory_bytes=3 * 2**29, custom=(("enrich", 1.0),)))
    await world.submit("a", "b", shape=THREE)
    await world.submit("c", shape=odd)
    text = "wants CPU 3; the cluster 'c' has CPU 3 in all, nodes of at most CPU 2"
    assert why(world) == (WaitReason.RESOURCES, text)
    wants = "wants CPU 1, memory 1.5 GiB, enrich 1; the cluster 'c' has CPU 3, memory 1 GiB, no enrich in all, "
    assert why(world, "c")[1] == wants + "nodes of at most CPU 2, memory 1 GiB, no enrich"
    for _ in range(3):
        await world.pass_(1)
    assert warnings_of(caplog, "work waits for what no cluster has") == 2, "once for a shape"
    assert warnings_of(caplog, text) == 1


async def test_what_no_node_has_keeps_nothing_from_others(world: World) -> None:
    await world.cluster(CPU=4)
    world.pool.sessions.agent_said(world.agent, pb.ServeAgentRequest(capacity=capacity({"CPU": 2.0}, {"CPU": 2.0})))
    await world.submit("a", shape=THREE)
    assert len(world.told("start")) == 1, "so that a cluster that grows on demand sees it"
    await world.submit("b", "c", "d", "e")
    assert len(world.told("start")) == 4


PLACED = replace(TWO, scheduling="node:away")


async def test_a_lease_that_the_cluster_does_not_place_keeps_nothing_from_others(world: World) -> None:
    await world.cluster(CPU=2)
    await world.submit("a", shape=PLACED)
    await world.submit("b", shape=TWO)
    await world.submit("c", shape=PLACED)
    assert len(world.told("start")) == 1
    await world.pass_(STALLED_S / 2)
    assert world.told("start") == []
    assert why(world, "a") == (
        WaitReason.WORKER_START,
        "wants CPU 2; the cluster starts a worker as soon as it has room",
    )
    assert why(world, "b")[0] is WaitReason.RESOURCES
    await world.pass_(STALLED_S / 2)
    (lease_id,) = world.told("start")
    lease = await world.connect(lease_id)
    assert names(sent(lease)) == ["b"]
    text = f"wants CPU 2; the cluster was asked for a worker {STALLED_S:.0f} s ago, and has not started it"
    assert why(world, "a") == (
        WaitReason.WORKER_START,
        f"{text}. Look at the labels or the strategy that it asks for",
    )
    await world.pass_(2 * STALLED_S)
    assert world.told("start") == [], "it is still asked for"


async def test_a_worker_that_starts_slowly_is_used(world: World) -> None:
    await world.cluster(CPU=2)
    await world.submit("a", "b", shape=TWO)
    (lease_id,) = world.told("start")
    await world.pass_(STALLED_S)
    assert world.told("start") == []
    text = f"wants CPU 2; the cluster was asked for a worker {STALLED_S:.0f} s ago, and has not started it"
    assert why(world, "a") == (WaitReason.WORKER_START, text)
    lease = await world.connect(lease_id)
    assert names(sent(lease)) == ["a"]
    await world.submit("c", shape=ONE)
    assert world.told("start") == [], "its resources are in use"


async def test_work_says_that_others_are_before_it_or_its_worker_starts(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit("a", "b")
    assert why(world)[0] is WaitReason.WORKER_START
    (lease,) = await world.leases()
    assert world.pool.waiting("run", "a", 1) is None
    assert why(world, "b") == (WaitReason.RESOURCES, "wants CPU 1, and all of it is in use")
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id))
    await world.settle()
    (lease_id,) = world.told("start")
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease_id, reason="NodeDiedError: gone"))
    reason, text = why(world, "b")
    assert reason is WaitReason.WORKER_START
    assert text.startswith("waits: no worker could be started, the next try is in ")
    assert text.endswith(": NodeDiedError: gone")


# ------------------------------------------------------------------------------ other work of the cluster


def demand(*requests: tuple[int, dict[str, float]]) -> pb.ClusterDemand:
    return pb.ClusterDemand(
        requests=[
            pb.ResourceDemand(wanted=pb.ResourceAmounts(amounts=wanted), count=count) for count, wanted in requests
        ]
    )


async def idle_leases(world: World, count: int) -> list[Lease]:
    """Connected and idle for long enough, on a cluster with one CPU more."""
    await world.cluster(CPU=count + 1)
    await world.submit(*(f"before{index}" for index in range(count)))
    leases = await world.leases()
    for lease in leases:
        await world.end(lease, *sent(lease))
    await world.pass_(0.2)
    return leases


async def test_agents_watch_the_demand_while_leases_are_idle(world: World) -> None:
    (lease,) = await idle_leases(world, 1)

    def told() -> list[bool]:
        found = [message for message in world.agent.messages if message.WhichOneof("kind") == "watch_demand"]
        for message in found:
            world.agent.messages.remove(message)
        return [message.watch_demand.on for message in found]

    assert told() == [True]
    await world.submit("a")
    await world.pass_(0.2)
    assert told() == [False]
    await world.end(lease, *sent(lease))
    assert told() == []
    await world.pass_(0.2)
    assert told() == [True]


async def test_idle_leases_end_for_work_of_others_as_many_as_it_needs(world: World) -> None:
    leases = await idle_leases(world, 4)
    await world.submit("busy")
    world.pool.sessions.agent_said(world.agent, pb.ServeAgentRequest(demand=demand((2, {"CPU": 1.0}))))
    ended = [lease for lease in leases if lease.is_finishing]
    assert len(ended) == 2
    assert not any(lease.in_flight for lease in ended)
    world.pool.sessions.agent_said(world.agent, pb.ServeAgentRequest(demand=demand((1, {"CPU": 3.0}))))
    (busy,) = [lease for lease in leases if not lease.is_finishing]
    assert busy.in_flight


async def test_idle_leases_stay_if_ending_them_would_not_help(world: World) -> None:
    leases = await idle_leases(world, 2)
    await world.submit("other", shape=OTHER)
    assert len(world.told("start")) == 1
    for request in ((1, {"CPU": 64.0}), (5, {"GPU": 1.0}), (1, {"CPU": 1.0})):  # the last is our own
        world.pool.sessions.agent_said(world.agent, pb.ServeAgentRequest(demand=demand(request)))
        assert not any(lease.is_finishing for lease in leases), request
    await world.submit("now")
    (lease,) = [lease for lease in leases if lease.in_flight]
    await world.end(lease, *sent(lease))
    leases.remove(lease)
    leases[0].idle_since_s = world.now_s
    world.pool.sessions.agent_said(world.agent, pb.ServeAgentRequest(demand=demand((9, {"CPU": 1.0}))))
    assert not any(lease.is_finishing for lease in leases), "it may be between two attempts"


# ------------------------------------------------------------------------------ batches


@pytest.mark.parametrize(("ms", "room"), [(0.001, BATCH_MAX), (1, 8), (3, 2), (8, 2), (AHEAD_MS, 2), (500, 1)])
async def test_short_functions_go_in_batches(world: World, ms: float, room: int) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(ms)
    await world.submit(*(f"t{index}" for index in range(200)))
    batch = sent(lease)
    assert names(batch) == [f"t{index}" for index in range(room)]
    await world.end(lease, batch[0], ms=ms)
    assert names(sent(lease)) == [f"t{room}"], "it is kept full"


async def test_unknown_functions_go_alone(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(0.01)
    await world.submit("a", "b", function="unknown")
    assert names(sent(lease)) == ["a"]


async def test_one_of_tens_of_milliseconds_waits_behind_another_while_there_is_enough_for_all(world: World) -> None:
    await world.cluster(CPU=2)
    one, two = await world.pair(10)
    await world.submit("a", "b", "c", "d")
    assert sorted((names(sent(one)), names(sent(two)))) == [["a"], ["b"]], "as many wait as there are leases"
    await world.submit("e")
    (ahead,) = [lease for lease in (one, two) if len(lease.in_flight) == 2]
    (waits,) = sent(ahead)
    assert waits.task_id == "c"
    await world.submit("f")
    assert sorted((len(one.in_flight), len(two.in_flight))) == [2, 2]


async def test_nothing_waits_behind_another_while_a_lease_is_to_be_had(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(10)
    world.pool.sessions.agent_said(world.agent, pb.ServeAgentRequest(capacity=pb.ClusterCapacity(total={"CPU": 2})))
    await world.submit(*"abcdef")
    assert names(sent(lease)) == ["a"]
    (other,) = await world.leases()
    assert names(sent(lease)) == ["c"], "it has come, and there is no third"
    assert names(sent(other)) == ["b", "d"]


async def test_nothing_waits_behind_unknown_or_long_functions(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(10)
    await world.submit("unknown", function="unknown")
    await world.submit(*"abc")
    (attempt,) = sent(lease)
    await world.end(lease, attempt, ms=500)
    assert names(sent(lease)) == ["a", "b"], "only it was in the way"
    await world.submit("long", function="unknown")
    await world.end(lease, *(pb.Attempt(token=token) for token in list(lease.in_flight)), ms=10)
    assert names(sent(lease)) == ["c"], "nothing long waits behind it"


async def test_what_waits_behind_one_that_turns_out_long_is_called_back(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(10)
    await world.submit(*"abcd")
    attempt, behind = sent(lease)
    await world.begin(lease, attempt)
    await world.pass_(STUCK_S * 2)
    assert list(message(lease).recall) == [behind.token]
    world.pool.sessions.lease_said(lease, pb.ServeLeaseRequest(returned=[behind.token]))
    await world.settle()
    assert lease.next_message() is None, "it would wait again"


@pytest.mark.parametrize("ms", [0, 0.01])
async def test_the_known_duration_follows_recent_attempts(world: World, ms: float) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(ms)
    for index in range(30):
        await world.submit(f"slow{index}")
        await world.end(lease, *sent(lease), ms=100)
    await world.submit("a", "b")
    assert names(sent(lease)) == ["a"]


async def test_idle_leases_come_first(world: World) -> None:
    await world.cluster(CPU=2)
    one, two = await world.pair(1)
    await world.submit("a")
    await world.submit("b")
    await world.submit("c", "d")
    assert sorted((names(sent(one)), names(sent(two)))) == [["a", "c"], ["b", "d"]]
    assert world.told("start") == []


async def test_very_short_functions_share_a_lease_although_another_is_idle(world: World) -> None:
    await world.cluster(CPU=2)
    one, two = await world.pair(TINY_MS)
    room = int(SHARED_MS / TINY_MS)
    await world.submit(*(f"t{index}" for index in range(room)))
    host, other = (one, two) if one.in_flight else (two, one)
    assert names(sent(host)) == [f"t{index}" for index in range(room)]
    await world.submit("more")
    assert names(sent(other)) == ["more"], "the other one has enough"
    assert sent(host) == []


async def test_very_short_functions_share_no_lease_with_others(world: World) -> None:
    await world.cluster(CPU=2)
    one, two = await world.pair(TINY_MS)
    await world.submit("longer", function="g")
    host, other = (one, two) if one.in_flight else (two, one)
    await world.submit("a", "b")
    assert (names(sent(host)), names(sent(other))) == (["longer"], ["a", "b"])


async def test_a_turn_of_a_very_short_function_stays_where_it_was_while_that_lease_works(world: World) -> None:
    await world.cluster(CPU=2)
    one, two = await world.pair(TINY_MS)
    for lease, other in ((one, two), (two, one)):
        other.is_finishing = True
        await world.submit("turn", run=lease.id, turn="t")
        await world.end(lease, *sent(lease), ms=TINY_MS)
        await world.submit(f"busy {lease.id}")
        sent(lease)
        other.is_finishing = False
    for lease in (one, two):
        await world.submit("next", run=lease.id, turn="t")
        assert names(sent(lease)) == ["next"]


async def test_no_lease_is_woken_for_the_objects_of_a_very_short_function(world: World) -> None:
    await world.cluster(CPU=2)
    one, two = await world.pair(TINY_MS)
    one.is_finishing = True
    await world.submit("turn", run="actor", turn="t")
    await world.end(two, *sent(two), ms=TINY_MS)
    one.is_finishing, two.is_finishing = False, True
    await world.submit("busy")
    two.is_finishing = False
    await world.submit("next", run="actor", turn="t")
    assert names(sent(one)) == ["busy", "next"]


async def test_async_functions_share_a_lease(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit(*(f"t{index}" for index in range(CONCURRENT_MAX + 10)))
    (lease,) = await world.leases()
    assert names(sent(lease)) == ["t0"]
    world.pool.sessions.lease_said(lease, pb.ServeLeaseRequest(concurrent=["f"]))
    await world.settle()
    assert len(sent(lease)) == CONCURRENT_MAX - 1


async def concurrent(world: World, shape: Shape = ONE, function: str = "f") -> Lease:
    """A lease that runs one attempt of a function that is known to be asynchronous."""
    await world.submit(f"first {function}", shape=shape, function=function)
    (lease,) = await world.leases()
    await world.begin(lease, *sent(lease))
    world.pool.sessions.lease_said(lease, pb.ServeLeaseRequest(concurrent=[function]))
    await world.settle()
    return lease


async def test_async_functions_spread_when_they_are_many(world: World) -> None:
    await world.cluster(CPU=2)
    one = await concurrent(world)
    await world.submit("other", function="g")
    (two,) = await world.leases()
    await world.end(two, *sent(two))
    await world.submit(*(f"t{index}" for index in range(CONCURRENT_SPREAD + 99)))
    assert (len(one.in_flight), len(two.in_flight)) == (CONCURRENT_SPREAD, 100)


async def test_nothing_waits_behind_async_functions(world: World) -> None:
    """They may wait for ever, and run on the thread that others would need."""
    await world.cluster(CPU=1)
    lease = await world.learn(1, "brief")
    await world.submit("listener", function="listen")
    await world.begin(lease, *sent(lease))
    world.pool.sessions.lease_said(lease, pb.ServeLeaseRequest(concurrent=["listen"]))
    await world.submit("brief", function="brief")
    await world.submit("other listener", function="listen")
    assert names(sent(lease)) == ["other listener"]
    await world.end(lease, *[pb.Attempt(token=token) for token in list(lease.in_flight)])
    assert names(sent(lease)) == ["brief"]


async def test_async_functions_wait_for_no_other(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await concurrent(world)
    (listening,) = lease.in_flight.values()
    await world.end(lease, pb.Attempt(token=listening.token))
    await world.submit("slow", function="slow")
    await world.begin(lease, *sent(lease))
    await world.submit("listener")
    assert lease.next_message() is None


async def test_leases_that_hold_nothing_are_few_of_each_sort(world: World) -> None:
    await world.cluster(CPU=1)
    await concurrent(world, FREE)
    await world.submit(*(f"slow{index}" for index in range(100)), shape=FREE, function="slow")
    leases = await world.leases()
    assert len(leases) == FREE_SHAPE_LEASES_MAX
    await world.submit("listener", shape=FREE)
    assert world.told("start") == []


async def test_a_thousand_listeners_hold_one_lease(world: World) -> None:
    await world.cluster(CPU=2)
    lease = await concurrent(world, FREE)
    await world.submit(*(f"t{index}" for index in range(CONCURRENT_SPREAD - 1)), shape=FREE)
    assert len(lease.in_flight) == CONCURRENT_SPREAD
    await world.submit("cpu1", "cpu2", function="work")
    assert len(world.told("start")) == 2


async def test_nothing_is_put_where_an_attempt_is_being_stopped(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(20)
    await world.submit("a")
    (attempt,) = sent(lease)
    await world.begin(lease, attempt)
    world.pool.cancel("run", "a", 1)
    await world.submit("b")
    assert names(sent(lease)) == []
    world.pool.sessions.lease_lost(lease)
    await world.settle()
    assert lease.id in world.told("kill")
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id))
    await world.settle()
    (successor,) = await world.leases()
    assert names(sent(successor)) == ["b"]
    assert [report for report in world.take_reports() if report[1] is AttemptLost] == []


async def test_a_placement_group_has_its_resources(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(100)
    await world.submit("busy")
    await world.begin(lease, *sent(lease))
    group = Payload("python/pickle", b"x", type="PlacementGroupSchedulingStrategy")
    await world.submit("in group", "in group too", shape=Shape(Resources(num_cpus=1), scheduling=group))
    assert len(world.told("start")) == 1


# ------------------------------------------------------------------------------ in place


async def parent(world: World, lease: Lease, task: str = "parent") -> None:
    """A task that ran on the lease and returned a graph."""
    await world.submit(task)
    (attempt,) = sent(lease)
    await world.begin(lease, attempt)
    receipt = pb.Receipt(token=attempt.token, continuation=b"graph", start_time=wire.to_timestamp(1))
    world.pool.sessions.lease_said(lease, pb.ServeLeaseRequest(receipts=[receipt]))
    await world.settle()


async def test_work_goes_beside_its_parent_whatever_its_shape(world: World) -> None:
    await world.cluster(CPU=2)
    one, two = await world.pair(100)
    await world.submit("other")
    busy = one if one.in_flight else two
    free = two if busy is one else one
    await parent(world, free)
    await world.submit("child", "second child", shape=THREE, function="g", beside="parent")
    assert names(sent(free)) == ["child", "second child"]
    assert world.told("start") == []


@pytest.mark.parametrize("beside", ["nobody", "parent"])
async def test_work_goes_elsewhere_if_its_parent_s_worker_is_gone(world: World, beside: str) -> None:
    await world.cluster(CPU=2)
    lease = await world.learn(100)
    await parent(world, lease)
    if beside == "parent":
        world.pool.sessions.lease_lost(lease)
        world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id))
    await world.submit("child", shape=OTHER, beside=beside)
    (other,) = await world.leases()
    assert names(sent(other)) == ["child"]


async def test_work_does_not_wait_beside_something_long(world: World) -> None:
    await world.cluster(CPU=2)
    lease = await world.learn(100)
    await parent(world, lease)
    await world.submit("long")
    await world.begin(lease, *sent(lease))
    world.now_s += STUCK_S * 2
    await world.submit("child", shape=OTHER, beside="parent")
    (other,) = await world.leases()
    assert names(sent(other)) == ["child"]


async def test_a_turn_goes_on_where_it_was(world: World) -> None:
    """The worker may have its objects."""
    await world.cluster(CPU=2)
    one, two = await world.pair(1)
    await world.submit("a1", run="a", turn="t")
    await world.submit("b1", run="b", turn="t")
    first, second = sent(one), sent(two)
    homes = {names(first)[0][0]: one, names(second)[0][0]: two}
    await world.end(one, *first, ms=1)
    await world.end(two, *second, ms=1)
    for run in ("b", "a"):  # whichever comes first
        await world.submit(f"{run}2", run=run, turn="t")
        attempts = sent(homes[run])
        assert names(attempts) == [f"{run}2"]
        await world.end(homes[run], *attempts, ms=1)


async def test_turns_go_on_elsewhere_if_their_lease_has_much_more_to_do(world: World) -> None:
    await world.cluster(CPU=2)
    one, two = await world.pair(0.6)
    runs = [str(number) for number in range(3 * NEAR_MAX)]
    for run in runs:  # all on one lease
        two.is_finishing = True
        await world.submit("first", run=run, turn="t")
        await world.end(one, *sent(one), ms=0.6)
        two.is_finishing = False
    for run in runs:
        await world.submit("second", run=run, turn="t")
    placed = len(sent(one)), len(sent(two))
    assert sum(placed) == len(runs)
    assert 0 < placed[1] < placed[0] <= placed[1] + NEAR_MAX + 1


async def test_a_turn_that_asks_for_its_last_worker_waits_there_for_what_is_brief(world: World) -> None:
    await world.cluster(CPU=2)
    one, two = await world.pair(1)
    await world.submit("method", run="actor", turn="t", beside="t")
    home, other = (one, two) if one.in_flight else (two, one)
    await world.end(home, *sent(home), ms=1)
    await world.submit("a", "b")
    await world.begin(home, *sent(home))
    await world.submit("next", run="actor", turn="t", beside="t")
    assert names(sent(home)) == ["next"]
    world.pool.sessions.lease_lost(home)
    sent(other)
    await world.submit("last", run="actor", attempt=2, turn="t", beside="t")
    assert "last" not in names(sent(home))


async def test_what_a_stuck_lease_has_not_begun_goes_to_an_idle_one(world: World) -> None:
    await world.cluster(CPU=2)
    one, two = await world.pair(1)
    await world.submit("stuck", "brief", "behind", "brief too")
    stuck, behind = sent(one)
    brief = sent(two)
    await world.begin(one, stuck)
    await world.pass_(STUCK_S * 2)
    assert list(message(one).recall) == [behind.token]
    world.take_reports()
    world.pool.sessions.lease_said(one, pb.ServeLeaseRequest(returned=[behind.token]))
    await world.settle()
    assert one.next_message() is None, "it would wait again"
    assert world.take_reports() == []
    await world.end(two, *brief, ms=1)
    assert names(sent(two)) == ["behind"]


# ------------------------------------------------------------------------------ leases unwanted


async def test_idle_leases_end(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(1)
    await world.pass_(IDLE_S - 0.1)
    assert lease.next_message() is None
    await world.pass_(0.2)
    assert message(lease).finish
    assert lease.next_message() is None, "once"
    await world.submit("a")
    assert lease.next_message() is None, "it takes nothing any more"
    world.pool.sessions.lease_lost(lease)
    assert world.told("kill") == [], "it said goodbye"
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id))
    await world.settle()
    (successor,) = await world.leases()
    assert names(sent(successor)) == ["a"]
    assert world.take_reports() == []


async def test_a_waiting_shape_gets_the_resources_of_idle_leases_of_others(world: World) -> None:
    await world.cluster(CPU=2)
    lease = await world.learn(1)
    await world.submit("a", shape=TWO)
    assert message(lease).finish
    assert world.told("start") == [], "its resources are not free yet"
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id))
    await world.settle()
    (successor,) = await world.leases()
    assert successor.shape == TWO


@pytest.mark.parametrize("first", [ONE, OTHER])
async def test_a_lease_with_work_to_come_is_not_idle(world: World, first: Shape) -> None:
    """Else two shapes that are busy would end each other's leases after every attempt."""
    await world.cluster(CPU=1)
    await world.submit("x", shape=first)
    (lease,) = await world.leases()
    second = OTHER if first == ONE else ONE
    for index in range(3):
        await world.submit(f"mine{index}", shape=first)
        await world.submit(f"theirs{index}", shape=second)
        got = message(lease)
        assert len(got.attempts) == 1
        assert not got.finish
        world.pool._state.shapes = dict(reversed(world.pool._state.shapes.items()))
        await world.end(lease, *got.attempts)


async def test_a_shape_that_waits_long_gets_a_busy_lease_of_the_largest_one(world: World) -> None:
    await world.cluster(CPU=3)
    await world.pair(1)
    await world.submit("a", "b", "c", "d")
    await world.submit("alone", shape=OTHER)
    (alone,) = await world.leases()
    await world.submit("waits", shape=THREE)
    leases = list(world.pool._state.leases.values())
    for lease in leases:
        if attempts := sent(lease):
            await world.begin(lease, attempts[0])
    await world.pass_(UNFAIR_S / 2)
    assert not any(lease.is_finishing for lease in leases)
    await world.pass_(UNFAIR_S)
    (chosen,) = [lease for lease in leases if lease.is_finishing]
    assert chosen is not alone
    told = message(chosen)
    assert told.finish
    assert list(told.recall) == [token for token, placed in chosen.in_flight.items() if placed.began_s is None]
    assert len(told.recall) == 1


async def test_a_lease_runs_an_attempt_before_it_makes_way_for_another_shape(world: World) -> None:
    """Else shapes that all wait would take the resources from each other for ever, and nothing would be run."""
    await world.cluster(CPU=1)
    await world.submit("a")
    await world.submit("b", shape=OTHER)
    await world.pass_(UNFAIR_S / 2)
    await world.pass_(UNFAIR_S)
    (lease,) = await world.leases()
    told = message(lease)
    assert told.finish
    assert len(told.attempts) == 1
    assert not told.recall


async def test_a_lease_that_asks_whether_it_may_go_on_is_idle_all_the_same(world: World) -> None:
    await world.cluster(CPU=1)
    world.holds_for_s = 10.0
    lease = await world.learn(1)
    for _ in range(4):
        world.pool.sessions.lease_said(lease, pb.ServeLeaseRequest(asks=True))
        assert not lease.is_finishing
        await world.pass_(IDLE_S / 4)
    assert lease.is_finishing


async def test_among_engines_leases_make_way_in_turn(world: World) -> None:
    await world.cluster(CPU=2)
    one, two = await world.pair(1)
    await world.submit(*(f"t{index}" for index in range(100)))
    await world.pass_(TURN_S + 1)
    assert not one.is_finishing, "an engine of its own has the cluster to itself"
    world.holds_for_s = 10.0
    await world.pass_(0)
    assert (one.is_finishing, two.is_finishing) == (True, False)
    last = message(one)
    assert last.finish
    await world.end(one, *last.attempts, ms=1)
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=one.id))
    await world.settle()
    assert len(world.told("start")) == 1, "it waits among those of others for the resources"
    await world.pass_(WAY_S)
    assert two.is_finishing


async def test_what_holds_nothing_or_waits_makes_no_way(world: World) -> None:
    await world.cluster(CPU=2)
    world.holds_for_s = 10.0
    await world.submit("free", shape=FREE)
    (free,) = await world.leases()
    lease = await world.learn(1)
    await world.pass_(TURN_S + 1)
    assert not free.is_finishing
    assert not lease.in_flight


async def test_work_that_something_long_may_be_waiting_for_gets_one_lease_more(world: World) -> None:
    """Which Ray starts when a worker that waits gives its CPU back."""
    await world.cluster(CPU=1)
    lease = await world.learn(1)
    await world.submit("long", "waited for")
    long, behind = sent(lease)
    await world.begin(lease, long)
    await world.pass_(STUCK_S * 2)
    world.pool.sessions.lease_said(lease, pb.ServeLeaseRequest(returned=[behind.token]))
    await world.settle()
    assert world.told("start") == []
    await world.pass_(BLOCKED_S)
    (other,) = world.told("start")
    await world.pass_(BLOCKED_S * 2)
    assert world.told("start") == [], "one at a time"
    assert names(sent(await world.connect(other))) == ["waited for"]


async def test_what_fits_nowhere_asks_once_and_holds_nothing(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit("giant", "giant too", shape=Shape(Resources(num_cpus=64)))
    await world.submit("gpu", shape=GPU)
    assert len(world.told("start")) == 2, "so that a cluster that can grow sees the demand"
    await world.submit("small")
    (lease,) = await world.leases()
    assert names(sent(lease)) == ["small"]


async def test_a_starting_lease_that_is_not_needed_is_killed(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit("giant", shape=TWO)
    (lease_id,) = world.told("start")
    world.pool.cancel("run", "giant", 1)
    await world.pass_(IDLE_S - 0.1)
    assert world.told("kill") == []
    await world.pass_(0.2)
    assert world.told("kill") == [lease_id]
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease_id, reason="cancelled"))
    assert world.pool.sessions.lease_connected(pb.LeaseHello(lease_id=lease_id, engine_id="engine")) is None
    await world.submit("giant", shape=TWO, attempt=2)
    assert len(world.told("start")) == 1


async def test_a_lease_with_a_gpu_runs_one_attempt(world: World) -> None:
    await world.cluster(CPU=4, GPU=1)
    await world.submit("a", "b", shape=GPU)
    (lease,) = await world.leases()
    told = message(lease)
    assert names(told.attempts) == ["a"]
    assert told.finish
    world.pool.cancel("run", "a", 1)
    assert list(message(lease).cancel) == [told.attempts[0].token], "it still hears of cancellations"


WARM = Shape(Resources(num_gpus=1), keep_warm_ms=60_000)


async def test_lease_that_is_kept_warm_runs_the_next_attempt_as_well(world: World) -> None:
    await world.cluster(CPU=4, GPU=1)
    await world.submit("a", shape=WARM)
    (lease,) = await world.leases()
    await world.end(lease, *sent(lease))
    await world.pass_(59)
    await world.submit("b", shape=WARM)
    assert names(sent(lease)) == ["b"]
    await world.end(lease)
    assert not lease.is_finishing


async def test_lease_that_is_kept_warm_ends_when_its_time_is_over(world: World) -> None:
    await world.cluster(CPU=4, GPU=1)
    await world.submit("a", shape=WARM)
    (lease,) = await world.leases()
    await world.end(lease, *sent(lease))
    await world.pass_(59)
    assert not lease.is_finishing
    await world.pass_(2)
    assert lease.is_finishing


async def test_lease_that_is_kept_warm_gives_way_only_after_a_while(world: World) -> None:
    await world.cluster(CPU=4, GPU=1)
    await world.submit("a", shape=WARM)
    (lease,) = await world.leases()
    await world.end(lease, *sent(lease))
    world.pool.sessions.agent_said(world.agent, pb.ServeAgentRequest(demand=demand((1, {"GPU": 1.0}))))
    await world.submit("other", shape=GPU)
    assert not lease.is_finishing
    await world.pass_(UNFAIR_S + 0.2)
    assert lease.is_finishing


# ------------------------------------------------------------------------------ losses


async def test_a_lost_lease(world: World) -> None:
    """Attempts that were sent are lost, those behind the first at no cost. Cancelled ones are not reported."""
    await world.cluster(CPU=1)
    lease = await world.learn(1)
    await world.submit("a", "b", "c", "d", "e")
    a, b, *_ = sent(lease)
    await world.begin(lease, a, b)
    world.pool.cancel("run", "b", 1)
    world.pool.cancel("run", "c", 1)
    world.take_reports()
    await world.submit("later")
    world.pool.sessions.lease_lost(lease)
    assert world.free_losses() == ["d", "e"]
    assert world.take_reports() == [("a", AttemptLost, 1), ("d", AttemptLost, 1), ("e", AttemptLost, 1)]
    assert world.told("kill") == [lease.id]
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id, reason="killed"))
    await world.settle()
    (successor,) = await world.leases()
    assert names(sent(successor)) == ["later"], "the others may have begun with this number"
    assert world.take_reports() == []


async def test_an_attempt_whose_start_was_lost_with_the_stream_keeps_its_number(world: World) -> None:
    """The lease ended the first attempt and began the second, and neither message arrived."""
    await world.cluster(CPU=1)
    lease = await world.learn(1)
    await world.submit("a", "b")
    a, _ = sent(lease)
    await world.begin(lease, a)
    world.take_reports()
    world.pool.sessions.lease_lost(lease)
    assert world.free_losses() == ["b"]
    assert world.take_reports() == [("a", AttemptLost, 1), ("b", AttemptLost, 1)]
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id, reason="killed"))
    await world.submit("b", attempt=2)
    (successor,) = await world.leases()
    assert [(attempt.task_id, attempt.attempt) for attempt in sent(successor)] == [("b", 2)]


async def test_attempts_that_were_not_sent_run_first_elsewhere(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(3)
    await world.submit("a")
    assert names(sent(lease)) == ["a"]
    await world.submit("b", "later")
    assert len(lease.in_flight) == 2
    world.pool.sessions.lease_lost(lease)
    assert world.free_losses() == []
    assert world.take_reports() == [("a", AttemptLost, 1)]
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id, reason="killed"))
    await world.settle()
    (successor,) = await world.leases()
    assert names(sent(successor)) == ["b", "later"]


async def test_a_lease_that_was_sent_nothing_loses_nothing(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(1)
    await world.submit("a", "b")
    world.pool.sessions.lease_lost(lease)
    assert world.take_reports() == []
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id, reason="killed"))
    await world.settle()
    (successor,) = await world.leases()
    assert names(sent(successor)) == ["a", "b"]


async def test_an_attempt_that_was_sent_in_part_may_have_begun(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_module, "MESSAGE_BYTES_SOFT", 1)
    await world.cluster(CPU=1)
    lease = await world.learn(1)
    await world.submit("a", "b", "c")
    assert names(sent(lease)) == ["a"]
    assert names(sent(lease)) == ["b"]
    world.pool.sessions.lease_lost(lease)
    assert world.take_reports() == [("a", AttemptLost, 1), ("b", AttemptLost, 1)]


async def test_an_attempt_that_a_lease_gave_back_keeps_its_number(world: World) -> None:
    """It certainly did not begin."""
    await world.cluster(CPU=1)
    lease = await world.learn(1)
    await world.submit("a", "b")
    _, b = sent(lease)
    world.pool.sessions.lease_said(lease, pb.ServeLeaseRequest(returned=[b.token]))
    await world.settle()
    world.pool.sessions.lease_lost(lease)
    assert world.take_reports() == [("a", AttemptLost, 1)]


async def test_a_service_that_ends_loses_no_attempt(world: World) -> None:
    """Its leases end with it; after the restart their attempts are made again, at no cost."""
    await world.cluster(CPU=1)
    lease = await world.learn(1)
    await world.submit("a", "b", "c")
    await world.begin(lease, *sent(lease)[:1])
    world.take_reports()
    world.pool.drain()
    world.pool.sessions.lease_lost(lease)
    await world.settle()
    assert world.take_reports() == []


async def test_the_head_of_a_lost_lease_may_have_begun(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(1)
    await world.submit("a", "b")
    sent(lease)
    world.pool.sessions.lease_lost(lease)
    world.pool.sessions.lease_lost(lease)
    assert world.free_losses() == ["b"]
    assert world.take_reports() == [("a", AttemptLost, 1), ("b", AttemptLost, 1)]


async def test_a_lost_agent(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(1)
    await world.submit("a")
    sent(lease)
    await world.submit("b")
    lost = world.agent
    world.pool.sessions.agent_lost(lost)
    assert world.take_reports() == [("a", AttemptLost, 1)]
    assert lease.outbox.is_closed
    assert lost.outbox.is_closed
    assert world.pool.python_versions() == frozenset()
    await world.cluster(CPU=1)
    (successor,) = await world.leases()
    assert names(sent(successor)) == ["b"]


async def test_reports_from_the_dead_are_not_heard(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit("a")
    (lease,) = await world.leases()
    attempts = sent(lease)
    world.pool.sessions.lease_lost(lease)
    world.take_reports()
    await world.end(lease, *attempts)
    await world.begin(lease, *attempts)
    assert world.take_reports() == []


# ------------------------------------------------------------------------------ cancelling and reports


async def test_what_is_queued_is_dropped(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(20)
    await world.submit("a", "b", "c")
    world.pool.cancel("run", "b", 1)
    world.pool.cancel("run", "b", 1)
    world.pool.cancel("run", "unknown", 1)
    await world.end(lease, *sent(lease))
    assert names(sent(lease)) == ["c"]


async def test_a_cancellation_does_not_overtake_its_attempt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease would ignore it, begin the attempt later, and be killed. The same holds for recalls."""
    monkeypatch.setattr(leases_module, "MESSAGE_BYTES_SOFT", 1)
    await world.cluster(CPU=1)
    lease = await world.learn(1)
    await world.submit("a", "b", "c")
    a, b, c = lease.in_flight
    world.pool.cancel("run", "b", 1)
    lease.send_recall([b, c])
    messages = []
    while (told := lease.next_message()) is not None:
        messages.append(([attempt.token for attempt in told.attempts], list(told.cancel), list(told.recall)))
    assert messages == [([a], [], []), ([b], [], []), ([c], [b], [b]), ([], [], [c])]


async def test_a_successor_waits_until_the_cancelled_one_has_ended(world: World) -> None:
    await world.cluster(CPU=2)
    await world.submit("a")
    (lease,) = await world.leases()
    first = sent(lease)
    world.pool.cancel("run", "a", 1)
    world.pool.cancel("run", "a", 1)
    assert list(message(lease).cancel) == [first[0].token]
    await world.submit("a", "a", attempt=2)
    assert world.told("start") == []
    await world.end(lease, *first, failure=Failure(FailureKind.CANCELED, "x", "interrupted"))
    assert world.take_reports() == []
    assert [(attempt.task_id, attempt.attempt) for attempt in sent(lease)] == [("a", 2)]


async def test_a_lease_that_does_not_react_is_killed(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit("a")
    (lease,) = await world.leases()
    await world.begin(lease, *sent(lease))
    world.take_reports()
    world.pool.cancel("run", "a", 1)
    await world.submit("a", attempt=2)
    await world.pass_(KILL_S - 0.1)
    assert world.told("kill") == []
    await world.pass_(0.2)
    assert world.told("kill") == [lease.id]
    world.pool.sessions.lease_lost(lease)
    world.pool.sessions.lease_ended(world.agent, pb.LeaseEnded(lease_id=lease.id, reason="killed"))
    await world.settle()
    assert world.take_reports() == []
    (successor,) = await world.leases()
    assert names(sent(successor)) == ["a"]


async def test_reports(world: World) -> None:
    await world.cluster(CPU=1)
    lease = await world.learn(1)
    await world.submit("a", "b", "c")
    a, b, c = sent(lease)
    await world.begin(lease, a)
    await world.end(lease, a)
    await world.end(lease, b, failure=Failure(FailureKind.APPLICATION, "x", "no"))
    await world.end(lease, c, failure=Failure(FailureKind.CANCELED, "x", "interrupted though nobody asked"))
    await world.end(lease, a, b, c)
    assert world.take_reports() == [
        ("a", AttemptStarted, 1),
        ("a", TaskSucceeded, 1),
        ("b", TaskFailed, 1),
        ("c", AttemptLost, 1),
    ]


async def test_after_the_end_nothing_is_reported(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit("a")
    (lease,) = await world.leases()
    attempts = sent(lease)
    await world.pool.stop()
    await world.end(lease, *attempts)
    world.pool.sessions.lease_lost(lease)
    world.pool.sessions.agent_lost(world.agent)
    assert world.reports == []
    assert lease.outbox.is_closed


@pytest.mark.parametrize(("drains", "level"), [(False, "WARNING"), (True, "INFO")])
async def test_an_agent_that_goes_with_the_engine_is_no_warning(
    world: World, caplog: pytest.LogCaptureFixture, drains: bool, level: str
) -> None:
    await world.cluster(CPU=1)
    if drains:
        world.pool.drain()
    with caplog.at_level("INFO"):
        world.pool.sessions.agent_lost(world.agent)
    assert [record.levelname for record in caplog.records if record.message == "agent lost"] == [level]


# ------------------------------------------------------------------------------ messages


async def test_a_function_goes_to_a_lease_once(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit("a", function="g")
    (lease,) = await world.leases()
    told = message(lease)
    assert [function.key for function in told.functions] == ["g"]
    await world.end(lease, *told.attempts)
    await world.submit("b", function="g")
    assert list(message(lease).functions) == []


async def test_small_values_at_hand_go_along_and_others_are_named(world: World) -> None:
    world.values[ValueKey("run", "small")] = Payload("x", b"small")
    world.values[ValueKey("run", "large")] = Payload("x", bytes(INLINE_BYTES_MAX + 1))
    await world.cluster(CPU=1)
    inputs = tuple(Source(task_id=task) for task in ("small", "large", "absent"))
    await world.submit("a", inputs=(*inputs, Source(input="in", wraps=2)))
    (lease,) = await world.leases()
    small, large, absent, named = sent(lease)[0].refs
    assert small.payload.data == b"small"
    assert (large.key.task_id, absent.key.task_id, named.key.input) == ("large", "absent", "in")
    assert named.wraps == 2


@pytest.mark.parametrize("is_limited", [False, True])
async def test_a_lease_is_told_whether_the_time_of_an_attempt_is_limited(world: World, is_limited: bool) -> None:
    await world.cluster(CPU=1)
    inputs = (Source(input="in"),) * (REFS_MAX + 1)
    await world.submit("a", inputs=inputs, is_limited=is_limited)
    (lease,) = await world.leases()
    *_, last = sent(lease)
    assert (last.task_id, last.is_limited) == ("a", is_limited)


# ------------------------------------------------------------------------------ what the pool remembers


def test_durations_of_functions_that_are_no_longer_used_are_forgotten() -> None:
    durations = Durations()
    for number in range(durations_module.FUNCTIONS_REMEMBERED_MAX + 1):
        durations.learn(f"closure {number}", 0.1)
    assert durations.room("closure 0") == 1, "an unknown function"
    assert not durations.is_brief("closure 0")
    assert durations.room("closure 2") == BATCH_MAX


def test_a_function_in_use_is_not_forgotten() -> None:
    durations = Durations()
    for number in range(2 * durations_module.FUNCTIONS_REMEMBERED_MAX):
        durations.learn(f"closure {number}", 0.1)
        durations.learn("used", 0.1)
    assert durations.room("used") == BATCH_MAX


async def test_asynchronous_functions_that_are_no_longer_used_are_forgotten(world: World) -> None:
    await world.cluster(CPU=1)
    await world.submit("first")
    (lease,) = await world.leases()
    await world.end(lease, *sent(lease))
    functions = [f"closure {number}" for number in range(FUNCTIONS_REMEMBERED_MAX + 1)]
    world.pool.sessions.lease_said(lease, pb.ServeLeaseRequest(concurrent=functions))
    await world.submit("a", "b", function=functions[0])
    assert names(sent(lease)) == ["a"], "as if nothing were known of the function"
    await world.submit("c", "d", function=functions[-1])
    assert sent(lease) == [], "asynchronous functions wait for leases of their own"
