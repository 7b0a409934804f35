"""Clients of a fleet that do many things at once: several workflows in each call, some of them twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from perdure import errors, graphwire
from perdure.model import Payload, RunStatus
from perdure.service.kernel import Kernel
from perdure.service.machines.graphs import source_of
from perdure.service.operations.asked import NewEvent, NewRun
from perdure.service.operations.batches import Batches
from perdure.service.queue.slots import ANY
from simulation.fleet_asking import NO_ANSWER, insist
from simulation.graphs import SHAPES
from simulation.history import Call

if TYPE_CHECKING:
    from simulation.fleet_world import FleetWorld

SORTS = ("one", "chain", "waits", "sleeps", "fails", "late")
NAMESPACE = "default"
Ask: TypeAlias = Callable[[Kernel, list[Call]], Awaitable[None]]


class BulkClient:
    """Submits several workflows, sends all their events, and waits for all of them."""

    def __init__(self, world: FleetWorld, index: int) -> None:
        more = world.more_of(f"bulk {index}")
        assert more is not None
        self._world = world
        self._more = more
        self._dice = world.dice_of(f"bulk {index}")
        # Where there is no room for all, those that are in must end before the rest can be submitted.
        sorts = SORTS if world.limits[1] == ANY else [sort for sort in SORTS if not SHAPES[sort][1]]
        shapes = more.choices(sorts, k=more.randint(2, 6))
        self._names = [f"{shape}-bulk-{index}-{number}" for number, shape in enumerate(shapes)]
        self._shapes = dict(zip(self._names, shapes, strict=True))

    async def live(self) -> None:
        await asyncio.sleep(self._more.random() * 20)
        await self._submit()
        self._world.seen.marks["batch"] += 1
        for number in range(max(SHAPES[shape][1] for shape in self._shapes.values())):
            await asyncio.sleep(self._more.random() * 5)
            await self._send(f"event-{number}")
        await self._wait()

    def _twice(self, names: list[str]) -> list[str]:
        """A client that repeats an item in one batch."""
        return names + self._more.choices(names, k=self._more.choice((0, 0, 1, 2))) if names else []

    async def _submit(self) -> None:
        left = set(self._names)
        while left:
            names = self._twice(sorted(left))
            items = []
            for name in names:
                graph = SHAPES[self._shapes[name]][0]
                items.append(
                    NewRun(NAMESPACE, name, f"request of {name}", source_of(graph, graphwire.encode_spec(graph)))
                )

            async def ask(kernel: Kernel, calls: list[Call], items: list[NewRun] = items) -> None:
                batches = Batches(kernel.submissions, kernel.events, kernel.queries, kernel.changes)
                for call, result in zip(calls, await batches.submit(items), strict=True):
                    if isinstance(result, BaseException):
                        _take_error(call, result)
                    else:
                        row = result[0].row
                        call.run_id, call.told, call.is_done = row.run_id, row.status, True

            calls = await self._insist("submit", names, ask)
            left -= {call.workflow_id for call in calls if call.is_done}
            if left:
                await asyncio.sleep(self._more.random() * 5)

    async def _send(self, event_id: str) -> None:
        payload = Payload("binary/plain", event_id.encode())
        left = {name for name in self._names if SHAPES[self._shapes[name]][1]}
        while left:
            names = self._twice(sorted(left))
            items = [NewEvent(name, "k", event_id, payload) for name in names]

            async def ask(kernel: Kernel, calls: list[Call], items: list[NewEvent] = items) -> None:
                batches = Batches(kernel.submissions, kernel.events, kernel.queries, kernel.changes)
                for call, result in zip(calls, await batches.send_events(NAMESPACE, items), strict=True):
                    if isinstance(result, BaseException):
                        _take_error(call, result)
                    else:
                        call.run_id, call.sequence, call.is_done = result.run_id, result.sequence, True

            calls = await self._insist("event", names, ask, event_id)
            left -= {call.workflow_id for call in calls if not call.is_silent}

    async def _wait(self) -> None:
        left = set(self._names)
        while left:
            names = self._twice(sorted(left))
            wait_s = self._more.choice((0.5, 5, 30))

            async def ask(kernel: Kernel, calls: list[Call], names: list[str] = names, wait_s: float = wait_s) -> None:
                batches = Batches(kernel.submissions, kernel.events, kernel.queries, kernel.changes)
                rows = await batches.outcomes(NAMESPACE, [(name, "") for name in names], wait_s=wait_s)
                for call, row in zip(calls, rows, strict=True):
                    if isinstance(row, BaseException):
                        _take_error(call, row)
                        continue
                    call.run_id, call.told = row.run_id, row.status
                    if row.status is RunStatus.SUCCESSFUL:
                        try:
                            outcome = await kernel.queries.outcome_of(row)
                        except (errors.PerdureError, *NO_ANSWER) as error:
                            _take_error(call, error)
                            continue
                        call.output = outcome.value.data if isinstance(outcome.value, Payload) else None

            for call in await self._insist("output", names, ask):
                if call.is_missing:
                    assert self._world.keep_ms is not None, f"{call.workflow_id} is gone"
                    self._world.seen.marks["expired"] += 1
                    left.discard(call.workflow_id)
                elif call.told is not None and call.told.is_final:
                    expected = SHAPES[self._shapes[call.workflow_id]][2]
                    assert call.told is expected, f"{call.workflow_id} ended {call.told}"
                    left.discard(call.workflow_id)

    async def _insist(self, kind: str, names: list[str], ask: Ask, subject: str = "") -> list[Call]:
        """The calls as they were answered."""

        async def noted(kernel: Kernel, calls: list[Call]) -> list[Call]:
            await ask(kernel, calls)
            return calls

        return await insist(self._world, self._dice, [(kind, name, subject) for name in names], noted)


def _take_error(call: Call, error: BaseException) -> None:
    """The result of one item."""
    match error:
        case errors.WorkflowNotFoundError():
            call.is_missing = True
        case errors.WorkflowAlreadyFinalError():
            call.told = RunStatus(error.fields["status"])
        case errors.OutputNotStoredError() | errors.QueueFullError():
            call.is_silent = True
        case _ if isinstance(error, NO_ANSWER):
            call.is_silent = True
        case _:
            raise error
