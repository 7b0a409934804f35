"""The real lease pool in a world of several engines: each engine has a pool and a Ray cluster, whose agent and leases
reach it over a simulated network.

What the pool reports is compared with the port of executors, and with what the workers did.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from perdure import wire
from perdure.engine.messages import AttemptLost, AttemptStarted, TaskFailed, TaskSucceeded
from perdure.model import FailureKind, Resources, Shape
from perdure.service.api.fetching import FetchCalls
from perdure.service.executors.pool.pool import LeasePool
from perdure.service.executors.port import Attempt, ContinuationReturned, Report, Reports, ValueReader, Waiting, forever
from perdure.service.kernel import Kernel
from perdure.service.rpc.worker import WorkerServicer
from perdure.storage.rows import ValueKey
from perdure.worker.results import Continued, Failed, Returned
from simulation.clock import fail, note
from simulation.cluster import Ray
from simulation.executor import VOLATILE
from simulation.field import Field, Key
from simulation.fleet_promises import TAKEOVER_S
from simulation.graphs import GRAPHS
from simulation.process import Process
from simulation.transport import Host, Network

if TYPE_CHECKING:
    from simulation.fleet_world import FleetWorld, Seat

IDLE_S: Final = 5.0
SHAPES: Final = (
    Shape(Resources()),
    Shape(Resources()),
    Shape(Resources(num_cpus=1), '{"env_vars":{"A":"1"}}'),
    Shape(Resources(num_cpus=2)),
    Shape(Resources(num_cpus=0)),
    Shape(Resources(num_gpus=1)),
)
ENDLESS: Final = Shape(Resources(num_cpus=0), '{"env_vars":{"B":"1"}}')
NODES: Final = (
    ({"CPU": 2.0, "GPU": 1.0},),
    ({"CPU": 4.0, "GPU": 1.0},),
    ({"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}),
)
FAULTS: Final = ("worker", "worker", "cut", "cut", "cut", "agent", "ray", "stand still", "stand still", "both still")
FAULTS_MAX: Final = 12
LINGERS_S: Final = 2.0
"""An engine stands still for so much longer than its worker."""
OPENS_MAX_S: Final = 3.0
"""Agents may reach an engine for so long before it has opened its store."""
QUIET_S: Final = 60.0
"""When every run has ended, pools and clusters are empty within this time."""


class PoolExecutor:
    """One life's pool, with the promises of the port. `address`: where its agent and leases dial in."""

    def __init__(self, pools: Pools, address: str, process: Process, clock: Callable[[], int]) -> None:
        self._pools = pools
        self._address = address
        self._process = process
        self.pool = LeasePool(engine_id=process.name, blob_url="memory:", idle_s=IDLE_S, clock=clock)
        self._report: Callable[[Reports], None] | None = None
        self._started: set[Key] = set()
        self._ended: set[Key] = set()
        self._cancelled: set[Key] = set()
        self._submitted: set[Key] = set()
        self.opens_after_s = pools.slowness_of(process)
        pools.field.engines[process.name] = process

    def listen(self, kernel: Kernel) -> None:
        """Take streams, as the server does from before the kernel starts."""
        servicer = WorkerServicer(self.pool.sessions, FetchCalls(kernel.values))
        self._pools.network.listen(self._address, Host(self._process, servicer))

    def hang_up(self) -> None:
        self._pools.network.hang_up(self._address)

    async def start(
        self, report: Callable[[Reports], None], values: ValueReader, holds_for_s: Callable[[], float] = forever
    ) -> None:
        self._report = report
        self._values = values
        await self.pool.start(self._told, values, holds_for_s)

    async def stop(self) -> None:
        await self.pool.stop()
        self.die()

    def die(self) -> None:
        """The engine is gone: no more reports are delivered."""
        self._report = None
        self.hang_up()

    def loading(self, run_id: str, task_id: str, number: int) -> str:
        return self.pool.loading(run_id, task_id, number)

    def waiting(self, run_id: str, task_id: str, attempt: int) -> Waiting | None:
        return self.pool.waiting(run_id, task_id, attempt)

    def python_versions(self) -> frozenset[str]:
        return self.pool.python_versions()

    def submit(self, attempt: Attempt) -> None:
        self._pools.on_submit(attempt)
        for source in attempt.inputs:
            if source.task_id.startswith(VOLATILE):
                at_hand = self._values.cached(ValueKey(attempt.run_id, task_id=source.task_id))
                assert at_hand is not None, f"{attempt.task_id} starts and the value of {source.task_id} is gone"
        attempt = replace(attempt, shape=self._pools.shape_of(attempt))
        self._submitted.add(attempt.key)
        self._pools.field.works[attempt.key] = attempt
        self.pool.submit(attempt)

    def cancel(self, run_id: str, task_id: str, attempt: int) -> None:
        self._cancelled.add((run_id, task_id, attempt))
        self.pool.cancel(run_id, task_id, attempt)

    # -------------------------------------------------------------------------- what it reports

    def _told(self, reports: Reports) -> None:
        if self._report is None or self._process.is_dead:
            return
        for run_id, report in reports:
            note("reports", run_id, report)
            try:
                self._look_at(run_id, report)
            except AssertionError as error:
                fail(error)
        self._report(reports)

    def _look_at(self, run_id: str, report: Report) -> None:
        key = run_id, report.task_id, report.attempt
        assert key in self._submitted, f"{report} of {run_id} is told of what was never submitted"
        assert key not in self._ended, f"{report} of {run_id} is told after its end"
        if isinstance(report, AttemptStarted):
            assert key not in self._started, f"{report} of {run_id} is told twice"
            self._started.add(key)
            return
        self._ended.add(key)
        field = self._pools.field
        if isinstance(report, AttemptLost):
            field.marks["lost"] += 1
            return
        refused = isinstance(report, TaskFailed) and report.failure.kind is FailureKind.SYSTEM
        assert refused or any(_is_result(result, report) for result in field.results[key]), (
            f"{report} of {run_id} is told, and no worker has made it"
        )

    def look_whether_empty(self) -> str:
        """What it still has, when all runs have ended."""
        placing, state = self.pool._placing, self.pool._state
        left = {
            "queued": len(placing._queued),
            "placed": len(placing._placed),
            "cancelled": len(placing._cancelled),
            "lanes": len(placing._lanes),
            "forsaken": len(placing._forsaken),
            "shapes": len(state.shapes),
            "leases": len(state.leases),
        }
        return ", ".join(f"{count} {name}" for name, count in left.items() if count)


def _is_result(result: object, report: Report) -> bool:
    match result, report:
        case Returned(output=output), TaskSucceeded():
            return bool(output == report.output)
        case Continued(spec=spec), ContinuationReturned():
            return bool(spec == report.continuation)
        case Failed(failure=failure), TaskFailed():
            return bool(wire.failure_to_proto(failure) == wire.failure_to_proto(report.failure))
        case _:
            return False


class Pools:
    """What a world with pools has beside its engines: a network and one cluster per seat, and what befalls them."""

    def __init__(self, world: FleetWorld) -> None:
        self._world = world
        dice = random.Random(f"pools of {world.seed}")
        self._salt = dice.random()
        self._async_share = dice.choice((0.0, 0.3, 0.8))
        self.field = Field(world.ledger, GRAPHS, world.blobs, world.loop.clock_ms, world.promises.on_begin)
        self.network = Network(self._dice_of)
        self.rays = [
            Ray(
                f"{seat.number}",
                f"engine-{seat.number}",
                self.field,
                self.network,
                dice.choice(NODES),
                self._dice_of,
                self._is_concurrent,
            )
            for seat in world.seats
        ]
        self._faults_left = dice.randint(0, FAULTS_MAX)
        self._pauses: list[asyncio.Task[None]] = []

    def _dice_of(self, part: str) -> random.Random:
        return random.Random(f"{part} of {self._world.seed}")

    def _is_concurrent(self, function: str) -> bool:
        return random.Random(f"{function} {self._salt}").random() < self._async_share

    def on_submit(self, attempt: Attempt) -> None:
        self._world.promises.on_submit(attempt)

    def shape_of(self, attempt: Attempt) -> Shape:
        """Tasks of this world have shapes by their ids, and methods that of their actor. One that never ends holds
        nothing that others need."""
        if attempt.turn:
            return SHAPES[0]
        if attempt.call.function.name == "hang:99":
            return ENDLESS
        return random.Random(f"shape of {attempt.task_id} {self._salt}").choice(SHAPES)

    def executor(self, seat: Seat, process: Process, clock: Callable[[], int]) -> PoolExecutor:
        return PoolExecutor(self, f"engine-{seat.number}", process, clock)

    def slowness_of(self, process: Process) -> float:
        """The seconds that an engine takes to open its store."""
        dice = self._dice_of(f"start of {process.name}")
        return dice.choice((0.0, dice.random() * OPENS_MAX_S))

    async def live(self) -> None:
        """Agents, and their fate."""
        async with asyncio.TaskGroup() as group:
            for ray in self.rays:
                group.create_task(ray.live())
                group.create_task(self._befall(ray))

    async def _befall(self, ray: Ray) -> None:
        number = 0
        while self._faults_left > 0:
            number += 1
            name = f"fault of ray {ray.name}.{number}"
            dice = self._dice_of(name)
            await asyncio.sleep(dice.random() * 20)
            if self._faults_left <= 0:
                break
            self._faults_left -= 1
            fault = dice.choice(FAULTS)
            if self._world.parts.has(name, f"{fault} at {self._world.loop.time():.2f} s"):
                await self._happens(ray, fault, dice)
        ray.is_calm = True

    async def _happens(self, ray: Ray, fault: str, dice: random.Random) -> None:
        self._world.seen.marks[fault] += 1
        match fault:
            case "agent":
                ray.kill_agent()
            case "ray":
                ray.die()
            case "cut":
                streams = [stream for stream in self.network.streams() if f"-{ray.name}." in stream.client.name]
                if streams:
                    dice.choice(streams).cut()
            case _:
                worker = ray.worker()
                if worker is None:
                    return
                if fault == "worker":
                    worker.kill("killed by the kernel")
                elif not worker.process.is_paused:
                    worker.process.pause()
                    if fault == "both still":
                        await self._engine_stands_still(ray, dice)
                    else:
                        await asyncio.sleep(dice.random() * 15)
                    if not worker.process.is_dead:
                        worker.process.resume()

    async def _engine_stands_still(self, ray: Ray, dice: random.Random) -> None:
        """Until others have taken over its runs, and a little longer. Before, it sends attempts to a worker that stands
        still as well."""
        await asyncio.sleep(dice.random())
        (seat,) = [seat for seat in self._world.seats if ray.name == f"{seat.number}"]
        process = seat.process
        if process is None or process.is_dead or process.is_paused or seat.kernel is None:
            return
        still_s = TAKEOVER_S + 1 + dice.random() * 4
        pause = self._world.stand_still(seat, process, still_s + LINGERS_S)
        self._pauses.append(asyncio.create_task(pause))
        await asyncio.sleep(still_s)

    async def check(self) -> None:
        """Nothing is left when everything is over."""
        until_s = self._world.loop.time() + QUIET_S
        while left := self._left():
            assert self._world.loop.time() < until_s, f"all runs have ended, and there are still {left}"
            await asyncio.sleep(1)

    def _left(self) -> str:
        left = []
        for seat in self._world.seats:
            if seat.kernel is not None and isinstance(seat.executor, PoolExecutor):
                left.append(seat.executor.look_whether_empty())
        left += [f"leases of cluster {ray.name}" for ray in self.rays if not ray.is_empty]
        return "; ".join(filter(None, left))
