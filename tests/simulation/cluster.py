"""A Ray cluster of a world: nodes with CPUs, an agent, and the processes of its leases.

The agent is the real one but for its calls of Ray. Leases start when there is room for them, or do not start. Processes
and agents die. Whatever Ray does takes its time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from perdure import optionwire
from perdure.model import Shape
from perdure.v1 import worker_service_pb2 as pb
from perdure.worker.agent import Agent, AgentSettings, RayDied
from perdure.worker.cluster import Cluster, ClusterState
from simulation.clock import note
from simulation.field import Field
from simulation.process import Process
from simulation.transport import Network, outside
from simulation.worker import Worker

START_MAX_S: Final = 3.0
START_FAILS_SHARE: Final = 0.05
REFUSALS_MAX: Final = 2
"""In a world. Three in a row would fail the tasks that wait."""
AGAIN_MAX_S: Final = 5.0
"""An agent that died is started again within this time."""
ORPHANS_MAX_S: Final = 2.0
"""The leases of a dead agent end within this time."""


class Refused(Exception):
    """Ray cannot make what the shape asks for."""


class Died(Exception):
    """The process of a lease is gone."""


class Ref:
    """What Ray gives for a task."""

    def __init__(self) -> None:
        self._future: Future[int] = Future()

    def future(self) -> Future[int]:
        return self._future


class RayCluster(Cluster):
    """As an agent asks for it."""

    def __init__(self, name: str, nodes: tuple[dict[str, float], ...]) -> None:
        super().__init__(name)
        self._nodes = nodes
        self.is_dead = False
        self.waiting: list[dict[str, float]] = []
        """What the leases in the queue want."""

    def disconnect(self) -> None:
        """There is no connection."""

    def id(self) -> str:
        return self._address

    def state(self) -> ClusterState:
        total: Counter[str] = Counter()
        for node in self._nodes:
            total.update(node)
        return ClusterState(dict(total), self._nodes, has_us=True)

    def demand(self) -> list[tuple[dict[str, float], int]]:
        return [(wanted, 1) for wanted in self.waiting]

    def death(self) -> str:
        return "its raylet has died" if self.is_dead else ""


class Ray:
    """One cluster with its agent, for as long as the world exists. `concurrent`: whether a function is asynchronous."""

    def __init__(
        self,
        name: str,
        address: str,
        field: Field,
        network: Network,
        nodes: tuple[dict[str, float], ...],
        dice: Callable[[str], random.Random],
        concurrent: Callable[[str], bool],
    ) -> None:
        self.name = name
        self._address = address
        self._field = field
        self._network = network
        self._nodes = nodes
        self._dice_of = dice
        self._dice = dice(name)
        self._concurrent = concurrent
        self._free = [dict(node) for node in nodes]
        self._queue: list[tuple[pb.StartLease, pb.AgentWelcome, Ref, Process]] = []
        self._workers: dict[str, tuple[Worker, Ref, Process]] = {}
        self._starting: dict[int, Ref] = {}
        self._starts = 0
        self._refusals = 0
        self._lives = 0
        self._cluster = RayCluster(name, nodes)
        self.agent: Process | None = None
        self._died = asyncio.Event()
        self.is_calm = False
        """Nothing goes wrong any more."""

    # -------------------------------------------------------------------------- agents

    async def live(self) -> None:
        """One agent after the other."""
        while True:
            self._lives += 1
            self._cluster.is_dead = False
            self._died.clear()
            process = self.agent = Process(f"agent-{self.name}.{self._lives}")
            process.spawn(self._run_agent(process))
            await self._died.wait()
            for stream in self._network.streams():
                if stream.client is process:
                    stream.client_is_dead(loses=self._dice.random() < 0.5)
            process.kill()
            self._queue = [item for item in self._queue if item[3] is not process]
            orphans = [worker for worker, _, owner in self._workers.values() if owner is process]
            for worker in orphans:
                outside(self._dice.random() * ORPHANS_MAX_S, partial(self._kill_orphan, worker))
            await asyncio.sleep(self._dice.random() * AGAIN_MAX_S)

    def _kill_orphan(self, worker: Worker) -> None:
        if not worker.process.is_dead:
            worker.kill("its agent is gone")

    async def _run_agent(self, process: Process) -> None:
        agent = _Agent(self, process, self._address, self._cluster, self._network)
        try:
            await agent.run(asyncio.Event())
        except RayDied:
            self._died.set()

    def kill_agent(self) -> None:
        """The process of the agent, without a farewell."""
        self._died.set()

    def die(self) -> None:
        """Ray itself, which the agent notices."""
        self._cluster.is_dead = True

    # -------------------------------------------------------------------------- leases

    def submit(self, start: pb.StartLease, welcome: pb.AgentWelcome, process: Process) -> Ref:
        ref = Ref()
        self._queue.append((start, welcome, ref, process))
        self._fit()
        return ref

    def kill(self, ref: Ref) -> None:
        """As ray.cancel(force=True)."""
        for item in list(self._queue):
            if item[2] is ref:
                self._queue.remove(item)
                self._settle(ref, item[3], Died("cancelled"))
        for number in [number for number, other in self._starting.items() if other is ref]:
            del self._starting[number]
        for worker, other, _ in list(self._workers.values()):
            if other is ref:
                outside(self._dice.random() * 0.1, partial(self._kill_orphan, worker))
        self._fit()

    def worker(self) -> Worker | None:
        """Any."""
        workers = [worker for worker, _, _ in self._workers.values() if not worker.process.is_dead]
        return self._dice.choice(workers) if workers else None

    @property
    def is_empty(self) -> bool:
        return not self._workers and not self._queue and not self._starting

    def _fit(self) -> None:
        """Start what there is room for."""
        for item in list(self._queue):
            wants = _shape_of(item[0]).resources.amounts()
            node = next((node for node in self._free if all(node.get(n, 0) >= a for n, a in wants.items())), None)
            if node is None:
                continue
            self._queue.remove(item)
            for name, amount in wants.items():
                node[name] -= amount
            self._starts += 1
            number = self._starts
            self._starting[number] = item[2]
            outside(self._dice.random() * START_MAX_S, partial(self._start, item, node, wants, number))
        self._cluster.waiting = [_shape_of(item[0]).resources.amounts() for item in self._queue]

    def _start(
        self,
        item: tuple[pb.StartLease, pb.AgentWelcome, Ref, Process],
        node: dict[str, float],
        wants: dict[str, float],
        number: int,
    ) -> None:
        start, welcome, ref, owner = item

        def over(error: Exception | None) -> None:
            self._workers.pop(start.lease_id, None)
            for name, amount in wants.items():
                node[name] += amount
            self._settle(ref, owner, error)
            self._fit()

        if self._starting.pop(number, None) is None or owner.is_dead:
            return over(Died("cancelled"))
        if not self.is_calm and self._dice.random() < START_FAILS_SHARE:
            refused = self._refusals < REFUSALS_MAX and self._dice.random() < 0.5
            self._refusals += refused
            return over(Refused("no such package") if refused else Died("out of memory"))
        process = Process(f"lease-{self.name}.{number}")
        note("starts", process.name)
        worker = Worker(
            self._field,
            self._network,
            process,
            self._dice_of(process.name),
            address=self._address,
            welcome=welcome,
            lease_id=start.lease_id,
            concurrent=self._concurrent,
            exited=lambda how: over(Died(how) if how else None),
        )
        self._workers[start.lease_id] = worker, ref, owner
        worker.start()

    def _settle(self, ref: Ref, owner: Process, error: Exception | None) -> None:
        """Ray tells the owner of a task that it is over."""

        def tell() -> None:
            if not ref.future().done():
                if error is None:
                    ref.future().set_result(0)
                else:
                    ref.future().set_exception(error)

        owner.call_later(self._dice.choice((0.001, self._dice.random())), tell)


class _Agent(Agent):
    """Calls this cluster in the place of Ray."""

    def __init__(self, ray: Ray, process: Process, address: str, cluster: Cluster, network: Network) -> None:
        super().__init__(AgentSettings(address), cluster, dial=network.dialled_by(process))
        self._ray = ray
        self._process = process

    def _submit(self, start: pb.StartLease, welcome: pb.AgentWelcome, loop: asyncio.AbstractEventLoop) -> Any:
        return self._ray.submit(start, welcome, self._process)

    def _failed(self, lease_id: str, error: BaseException) -> None:
        self._ended(lease_id, f"{type(error).__name__}: {error}", refused=isinstance(error, Refused))

    def _cancel(self, lease_id: str) -> None:
        if (ref := self._leases.get(lease_id)) is not None:
            self._ray.kill(ref)


def _shape_of(start: pb.StartLease) -> Shape:
    return optionwire.shape_from_proto(start.shape)
