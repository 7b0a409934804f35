"""Clients of a fleet: each has one workflow and sees it through, whatever happens to whom it asks.

What came later than the seeds that found bugs is drawn by `world.more`, so that those worlds stay what they are.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from perdure import errors, graphwire
from perdure.model import Payload, RunStatus
from perdure.service.kernel import Kernel
from perdure.service.machines.graphs import source_of
from perdure.service.operations.asked import Conflict, NewRun, Reuse
from perdure.storage.queries import RunQuery
from simulation.clock import fail
from simulation.fleet_asking import insist
from simulation.fleet_attaching import Attaching
from simulation.fleet_curious import Looking
from simulation.graphs import POOL_SHAPES
from simulation.history import Call

if TYPE_CHECKING:
    from simulation.fleet_world import FleetWorld

T = TypeVar("T")

NAMESPACE = "default"


class Client:
    """Submits, sends events, looks, perhaps cancels, resumes and deletes, and waits for the end."""

    def __init__(self, world: FleetWorld, index: int, shape: str, *, generation: int = 1) -> None:
        self._world = world
        self._part = f"client {index}"
        self._dice = world.dice_of(self._part)
        self._more = world.more_of(self._part)
        self._shape, self._index, self._generation = shape, index, generation
        self._graph, self._events, self._expected = POOL_SHAPES[shape]
        self._id = f"{shape}-{index}"
        self._name = self._id if generation == 1 else f"{self._id}/{generation}"
        """In the history, where each request has a name of its own."""

    async def live(self) -> None:
        world = self._world
        try:
            await self._live()
        except errors.WorkflowNotFoundError:
            assert world.keep_ms is not None, f"{self._name} is gone"
            world.seen.marks["expired"] += 1
        again = self._more is not None and self._generation == 1 and self._more.random() < 0.25
        if again and self._does("uses its id again"):
            world.seen.marks["id used again"] += 1
            await Client(world, self._index, self._shape, generation=2).live()

    async def _live(self) -> None:
        dice, world = self._dice, self._world
        await asyncio.sleep(dice.random() * 15)
        await self._submit()
        attaching = self._attaching()
        if attaching is not None:
            await attaching.ask()
        others = [asyncio.create_task(self._look_around())] if self._does("looks around") else []
        curious = world.curious_of(self._part)
        looking = Looking(world, self._id, curious) if curious is not None and self._does("is watched") else None
        if looking is not None:
            others.append(asyncio.create_task(looking.look_around()))
        try:
            if dice.random() < 0.2 and self._does("submits again"):
                await self._submit()  # a client that was not sure
            for number in range(self._events):
                await asyncio.sleep(dice.random() * 8)
                for _ in range(dice.choice((1, 1, 2))):  # producers repeat themselves
                    await self._send(f"event-{number}")
            cancels = dice.random() < 0.15 and self._does("cancels")
            if cancels:
                await asyncio.sleep(dice.random() * 15)
                await self._cancel()
                world.seen.marks["cancel"] += 1
            status = await self._wait()
            if attaching is not None:
                await attaching.ask()
            if status is RunStatus.FAILED and dice.random() < 0.6 and self._does("resumes"):
                if world.keep_ms is not None and self._more is not None:  # the removal may read the run at this moment
                    await asyncio.sleep(world.keep_ms / 1000 + self._more.uniform(-3, 1))
                await self._resume()
                world.seen.marks["resume"] += 1
                status = await self._wait()
            right = status is self._expected or (cancels and status is RunStatus.CANCELED)
            assert right, f"{self._name} ended {status}"
            world.seen.statuses[str(status)] += 1
            world.seen.marks["waited"] += world.watch.waited(self._id)
        finally:
            for other in others:
                other.cancel()
            for found in await asyncio.gather(*others, return_exceptions=True):
                if isinstance(found, Exception):
                    fail(AssertionError(f"somebody who looked at {self._id} was told {found!r}"))
        if looking is not None:
            await looking.look()
        for _ in range(2):
            await self._look()
        if dice.random() < 0.3 and self._does("deletes"):
            await self._delete()
            world.seen.marks["delete"] += 1
            await self._look()
        if attaching is not None:
            await attaching.ask()

    def _attaching(self) -> Attaching | None:
        dice = self._world.attaching_of(self._part)
        if dice is None or self._generation > 1 or dice.random() < 0.5 or not self._does("attaches"):
            return None
        return Attaching(self._world, self._name, self._new_run(), dice)

    def _does(self, what: str) -> bool:
        """Whether it does this in a world from which things are left out."""
        return self._world.parts.has(f"{self._part} {what}")

    # -------------------------------------------------------------------------- calls

    def _new_run(self) -> NewRun:
        return NewRun(
            NAMESPACE,
            self._id,
            f"request of {self._name}",
            source_of(self._graph, graphwire.encode_spec(self._graph)),
            reuse=Reuse.REJECT if self._generation == 1 else Reuse.ALLOW,
            conflict=Conflict.FAIL if self._generation == 1 else Conflict.CANCEL_EXISTING,
        )

    async def _submit(self) -> None:
        new = self._new_run()
        more = self._more
        wait_s = more.choice((0.5, 5, 30)) if more is not None and more.random() < 0.4 else 0

        async def ask(kernel: Kernel, call: Call) -> None:
            view, _ = await kernel.submissions.submit(new)
            row = view.row
            if wait_s:
                self._world.seen.marks["run and wait"] += 1
                row = await kernel.queries.ended(row, wait_s)
                outcome = await kernel.queries.outcome_of(row)
                if isinstance(outcome.value, Payload):
                    call.output = outcome.value.data
            call.run_id, call.told, call.is_done = row.run_id, row.status, True

        while True:
            try:
                return await self._insist("submit", ask)
            except errors.QueueFullError:
                self._world.seen.marks["full"] += 1
                await asyncio.sleep(self._dice.random() * 10)

    async def _send(self, event_id: str) -> None:
        payload = Payload("binary/plain", event_id.encode())

        async def ask(kernel: Kernel, call: Call) -> None:
            sent = await kernel.events.send(NAMESPACE, self._id, key="k", event_id=event_id, payload=payload)
            call.run_id, call.sequence, call.is_done = sent.run_id, sent.sequence, True

        with contextlib.suppress(errors.WorkflowAlreadyFinalError):
            await self._insist("event", ask, event_id)

    async def _cancel(self) -> None:
        async def ask(kernel: Kernel, call: Call) -> None:
            view = await kernel.lifecycle.cancel(NAMESPACE, self._id, "enough")
            call.run_id, call.told, call.is_done = view.row.run_id, view.row.status, True

        await self._insist("cancel", ask)

    async def _resume(self) -> None:
        async def ask(kernel: Kernel, call: Call) -> None:
            view, moved = await kernel.lifecycle.resume(NAMESPACE, self._id)
            call.run_id, call.told, call.is_done = view.row.run_id, view.row.status, moved

        self._world.told.resumes(list(self._world.database.shared.runs))
        while True:
            try:
                return await self._insist("resume", ask)
            except errors.QueueFullError:
                await asyncio.sleep(self._dice.random() * 10)
            except errors.WorkflowAlreadyFinalError:
                return

    async def _delete(self) -> None:
        async def ask(kernel: Kernel, call: Call) -> None:
            await kernel.lifecycle.delete(NAMESPACE, self._id, allow_missing=True)
            call.is_done = True

        await self._insist("delete", ask)

    async def _wait(self) -> RunStatus:
        async def ask(kernel: Kernel, call: Call) -> RunStatus | None:
            view = await kernel.queries.outcome(NAMESPACE, self._id, wait_s=self._dice.choice((0.5, 5, 30)))
            call.run_id, call.told = view.run_id, view.status
            if isinstance(view.value, Payload):
                call.output = view.value.data
            return view.status if view.value is not None else None

        while True:
            if (status := await self._insist("output", ask)) is not None:
                return status

    async def _look(self) -> None:
        async def ask_status(kernel: Kernel, call: Call) -> None:
            view = await kernel.queries.run(NAMESPACE, self._id)
            call.run_id, call.told = view.row.run_id, view.row.status

        async def ask_list(kernel: Kernel, call: Call) -> None:
            found = [
                view.row
                for view in await kernel.queries.list_runs(RunQuery(NAMESPACE, 100))
                if view.row.workflow_id == self._id
            ]
            if found:
                call.run_id, call.told = found[0].run_id, found[0].status
            else:
                call.is_missing = True

        async def ask_output(kernel: Kernel, call: Call) -> None:
            view = await kernel.queries.outcome(NAMESPACE, self._id)
            call.run_id, call.told = view.run_id, view.status
            if isinstance(view.value, Payload):
                call.output = view.value.data

        kind, ask = self._dice.choice((("status", ask_status), ("list", ask_list), ("output", ask_output)))
        with contextlib.suppress(errors.WorkflowNotFoundError):
            await self._insist(kind, ask)

    async def _look_around(self) -> None:
        """A second client that only reads."""
        while True:
            await asyncio.sleep(self._dice.random() * 12)
            await self._look()

    async def _insist(self, kind: str, ask: Callable[[Kernel, Call], Awaitable[T]], subject: str = "") -> T:
        """Ask one engine after another until there is an answer."""
        return await insist(
            self._world, self._dice, [(kind, self._name, subject)], lambda kernel, calls: ask(kernel, calls[0])
        )
