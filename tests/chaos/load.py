"""Clients that go on after errors, and note what was acknowledged to them."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import perdure
from chaos.graphs import KEY, Case, any_case
from chaos.world import World
from perdure import errors

T = TypeVar("T")

CLIENTS: Final = 4
OPEN_MAX: Final = 8
"""Runs of a client that have not ended."""
PAUSE_S: Final = 0.15
PATIENCE_S: Final = 2.0
BATCH_SHARE: Final = 0.3
AWAY: Final = (errors.ServiceUnavailableError, errors.StorageFullError)


@dataclass
class Acknowledged:
    """A run that a client was told is durable, and what became of it as clients were told."""

    case: Case
    workflow_id: str
    run_id: str
    events: set[str] = field(default_factory=set)  # ids of acknowledged events
    is_canceled: bool = False
    output: Any = None
    failure: BaseException | None = None
    is_over: bool = False


class Load:
    """All clients."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._seed = seed
        self._numbers = itertools.count()
        self.runs: dict[str, Acknowledged] = {}
        self.enough = asyncio.Event()
        self.errors_met = 0

    def in_flight(self) -> frozenset[str]:
        return frozenset(run.workflow_id for run in self.runs.values() if not run.is_over)

    async def go_on(self) -> None:
        """Until it is enough, and everything has ended."""
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        dice = random.Random(f"{self._seed} client {number}")
        # some know all engines, some only one of them
        address = self._world.address if number % 2 else self._world.engines[number % 3].address
        async with perdure.Client(address, patience=PATIENCE_S) as client, asyncio.TaskGroup() as group:
            places = asyncio.Semaphore(OPEN_MAX)
            while not self.enough.is_set():
                await places.acquire()
                case = any_case(self._world.traces, dice)
                task = group.create_task(self._see_through(client, case, random.Random(dice.random())))
                task.add_done_callback(lambda _: places.release())
                await asyncio.sleep(dice.random() * 2 * PAUSE_S)

    async def _again(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Until there is an answer."""
        while True:
            try:
                return await ask()
            except AWAY:
                self.errors_met += 1
                await asyncio.sleep(0.2)

    async def _see_through(self, client: perdure.Client, case: Case, dice: random.Random) -> None:
        workflow_id = f"w{next(self._numbers)}"
        request_id = uuid.uuid4().hex
        in_batches = dice.random() < BATCH_SHARE
        item = perdure.RunItem(case.graph, workflow_id=workflow_id, request_id=request_id, name=case.sort)
        if in_batches:
            (handle,) = await self._again(lambda: _of_one(client.start_many([item])))
        else:
            handle = await self._again(
                lambda: client.start(case.graph, workflow_id=workflow_id, request_id=request_id, name=case.sort)
            )
        run = self.runs[workflow_id] = Acknowledged(case, workflow_id, handle.run_id)
        for number in range(case.events):
            await asyncio.sleep(dice.random() * 2)
            for _ in range(dice.choice((1, 1, 2))):  # the second time it has happened already
                event = perdure.EventItem(workflow_id, KEY, f"e{number}", f"id{number}")
                if in_batches:
                    await self._again(lambda event=event: _of_one(client.send_events([event])))
                else:
                    await self._again(lambda e=event: handle.send_event(e.key, e.payload, event_id=e.event_id))
            run.events.add(f"id{number}")
        if dice.random() < 0.05:
            status = await self._again(lambda: handle.cancel("enough"))
            run.is_canceled = status is perdure.RunStatus.CANCELED
        try:
            if in_batches:
                (run.output,) = await self._again(lambda: _of_one(client.outputs([handle])))
            else:
                run.output = await self._again(handle.output)
        except (errors.WorkflowExecutionError, errors.WorkflowCancellationError) as error:
            run.failure = error
        run.is_over = True


async def _of_one(batch: Awaitable[T]) -> T:
    """The result of a batch with one item."""
    try:
        return await batch
    except errors.BatchError as error:
        (result,) = error.results
        raise result from error
