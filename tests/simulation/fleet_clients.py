"""Clients of a fleet: each has one workflow and sees it through, whatever happens to whom it asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from perdure import errors, graphwire
from perdure.model import Payload, RunStatus
from perdure.service.kernel import Kernel
from perdure.service.views import NewRun
from perdure.storage.ports import StorageError
from perdure.storage.rows import RunQuery
from simulation.graphs import SHAPES
from simulation.history import Call
from simulation.process import Crash

if TYPE_CHECKING:
    from simulation.fleet_world import FleetWorld

T = TypeVar("T")

PATIENCE_S = (2.0, 10.0, 40.0)
NAMESPACE = "default"


class Client:
    """Submits, sends events, looks, perhaps cancels, resumes and deletes, and waits for the end."""

    def __init__(self, world: FleetWorld, index: int, shape: str) -> None:
        self._world = world
        self._dice = world.dice
        self._graph, self._events, self._expected = SHAPES[shape]
        self._id = f"{shape}-{index}"

    async def live(self) -> None:
        dice, world = self._dice, self._world
        await asyncio.sleep(dice.random() * 15)
        await self._submit()
        curious = asyncio.create_task(self._look_around())
        try:
            if dice.random() < 0.2:
                await self._submit()  # a client that was not sure
            for number in range(self._events):
                await asyncio.sleep(dice.random() * 8)
                for _ in range(dice.choice((1, 1, 2))):  # producers repeat themselves
                    await self._send(f"event-{number}")
            cancels = dice.random() < 0.15
            if cancels:
                await asyncio.sleep(dice.random() * 15)
                await self._cancel()
                world.seen.marks["cancel"] += 1
            status = await self._wait()
            if status is RunStatus.FAILED and dice.random() < 0.6:
                await self._resume()
                world.seen.marks["resume"] += 1
                status = await self._wait()
            right = status is self._expected or (cancels and status is RunStatus.CANCELED)
            assert right, f"{self._id} ended {status}"
            world.seen.statuses[str(status)] += 1
            world.seen.marks["waited"] += world.watch.waited(self._id)
        finally:
            curious.cancel()
            await asyncio.gather(curious, return_exceptions=True)
        for _ in range(2):
            await self._look()
        if dice.random() < 0.3:
            await self._delete()
            world.seen.marks["delete"] += 1
            await self._look()

    # -------------------------------------------------------------------------- calls

    async def _submit(self) -> None:
        new = NewRun(NAMESPACE, self._id, f"request of {self._id}", self._graph, graphwire.encode_spec(self._graph))

        async def ask(kernel: Kernel, call: Call) -> None:
            view, _ = await kernel.commands.submit(new)
            call.run_id, call.told, call.is_done = view.row.run_id, view.row.status, True

        while True:
            try:
                return await self._insist("submit", ask)
            except errors.QueueFullError:
                self._world.seen.marks["full"] += 1
                await asyncio.sleep(self._dice.random() * 10)

    async def _send(self, event_id: str) -> None:
        payload = Payload("binary/plain", event_id.encode())

        async def ask(kernel: Kernel, call: Call) -> None:
            sent = await kernel.commands.send_event(NAMESPACE, self._id, key="k", event_id=event_id, payload=payload)
            call.run_id, call.sequence, call.is_done = sent.run_id, sent.sequence, True

        with contextlib.suppress(errors.WorkflowAlreadyFinalError):
            await self._insist("event", ask, event_id)

    async def _cancel(self) -> None:
        async def ask(kernel: Kernel, call: Call) -> None:
            view = await kernel.commands.cancel(NAMESPACE, self._id, "enough")
            call.run_id, call.told, call.is_done = view.row.run_id, view.row.status, True

        await self._insist("cancel", ask)

    async def _resume(self) -> None:
        async def ask(kernel: Kernel, call: Call) -> None:
            view, moved = await kernel.commands.resume(NAMESPACE, self._id)
            call.run_id, call.told, call.is_done = view.row.run_id, view.row.status, moved

        while True:
            try:
                return await self._insist("resume", ask)
            except errors.QueueFullError:
                await asyncio.sleep(self._dice.random() * 10)
            except errors.WorkflowAlreadyFinalError:
                return

    async def _delete(self) -> None:
        async def ask(kernel: Kernel, call: Call) -> None:
            await kernel.commands.delete(NAMESPACE, self._id, allow_missing=True)
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
        """Somebody else who wants to know how it goes."""
        while True:
            await asyncio.sleep(self._dice.random() * 12)
            await self._look()

    # -------------------------------------------------------------------------- asking

    async def _insist(self, kind: str, ask: Callable[[Kernel, Call], Awaitable[T]], subject: str = "") -> T:
        """Ask somebody until there is an answer."""
        world = self._world
        while True:
            await world.somebody_up.wait()
            seat = self._dice.choice([seat for seat in world.seats if seat.kernel is not None])
            kernel, process, gone = seat.kernel, seat.process, seat.gone
            assert kernel is not None
            assert process is not None
            recorded = world.history.ask(kind, self._id, process.name, world.loop.time(), subject)
            heard = replace(recorded)  # what comes when nobody listens any more is not recorded

            async def question(kernel: Kernel = kernel, call: Call = heard) -> T:
                try:
                    return await ask(kernel, call)
                except errors.WorkflowNotFoundError:
                    call.is_missing = True
                    raise
                except errors.WorkflowAlreadyFinalError as error:
                    call.told = RunStatus(error.fields["status"])
                    raise

            asked = process.spawn(question())
            fear = asyncio.ensure_future(gone.wait())
            await asyncio.wait(
                {asked, fear}, timeout=self._dice.choice(PATIENCE_S), return_when=asyncio.FIRST_COMPLETED
            )
            fear.cancel()
            if not asked.done() or process.is_dead:
                asked.cancel()
                world.seen.marks["asked again"] += 1
                await asyncio.sleep(self._dice.random())
                continue
            try:
                answer = asked.result()
            except (StorageError, Crash, asyncio.CancelledError, errors.DatabaseUnavailableError):
                world.seen.marks["asked again"] += 1
                await asyncio.sleep(self._dice.random())
                continue
            except errors.PerdureError:
                recorded.answer(heard, world.loop.time())
                raise
            recorded.answer(heard, world.loop.time())
            return answer
