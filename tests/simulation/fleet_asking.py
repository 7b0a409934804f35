"""How clients of a fleet ask: any engine, and another one if there is no answer, until there is one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from perdure import errors
from perdure.model import RunStatus
from perdure.service.kernel import Kernel
from perdure.storage.ports import StorageError
from simulation.clock import note
from simulation.history import Call
from simulation.process import Crash

if TYPE_CHECKING:
    from simulation.fleet_world import FleetWorld

T = TypeVar("T")

PATIENCE_S = (2.0, 10.0, 40.0)
NO_ANSWER = (
    StorageError,
    Crash,
    asyncio.CancelledError,
    errors.DatabaseUnavailableError,
    errors.StorageFullError,
)

Wanted: TypeAlias = tuple[str, str, str]
"""What kind of call, of which workflow, and the id of the event, if it is about one."""


async def insist(
    world: FleetWorld, dice: random.Random, wanted: Sequence[Wanted], ask: Callable[[Kernel, list[Call]], Awaitable[T]]
) -> T:
    """Ask one engine after another until there is an answer. One question may contain many calls; those that are
    `is_silent` were not answered."""
    while True:
        await world.somebody_up.wait()
        seat = dice.choice([seat for seat in world.seats if seat.kernel is not None])
        kernel, process, gone = seat.kernel, seat.process, seat.gone
        assert kernel is not None
        assert process is not None
        recorded = [
            world.history.ask(kind, name, process.name, world.loop.time(), subject) for kind, name, subject in wanted
        ]
        heard = [replace(call) for call in recorded]  # answers after the client gave up are not recorded

        async def question(kernel: Kernel = kernel, calls: list[Call] = heard) -> T:
            try:
                return await ask(kernel, calls)
            except errors.WorkflowNotFoundError:
                calls[0].is_missing = True
                raise
            except errors.WorkflowAlreadyFinalError as error:
                calls[0].told = RunStatus(error.fields["status"])
                raise

        asked = process.spawn(question())
        fear = asyncio.ensure_future(gone.wait())
        await asyncio.wait({asked, fear}, timeout=dice.choice(PATIENCE_S), return_when=asyncio.FIRST_COMPLETED)
        fear.cancel()
        if not asked.done() or process.is_dead:
            asked.cancel()
            world.seen.marks["asked again"] += 1
            await asyncio.sleep(dice.random())
            continue
        try:
            answer = asked.result()
        except NO_ANSWER:
            world.seen.marks["asked again"] += 1
            await asyncio.sleep(dice.random())
            continue
        except errors.PerdureError:
            _note(world, recorded, heard)
            raise
        _note(world, recorded, heard)
        return answer


def _note(world: FleetWorld, recorded: Sequence[Call], heard: Sequence[Call]) -> None:
    for call, said in zip(recorded, heard, strict=True):
        note("told", said)
        if not said.is_silent:
            call.answer(said, world.loop.time())
