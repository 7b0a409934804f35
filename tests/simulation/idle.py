"""Clients of an actor that is deleted when nobody calls it for a while.

Several callers call it at moments that are near the end of its time, and make it anew when it is gone. `Watch` sees
that no actor is deleted too early, or with a call that has not ended. The callers see that each call takes place once,
in whichever actor.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from perdure import errors
from perdure.model import NULL, Failure, MethodCall
from perdure.service.common.repeat import Repeat
from perdure.service.kernel import Kernel
from perdure.service.operations.actors import CallResult
from perdure.storage.rows import RunRow
from simulation.actors import NAMESPACE, Insist, make_actor
from simulation.methods import CLASS
from simulation.store import Watch

TTL_MS = 2_000
SHORT_LIVED = replace(CLASS, ttl_ms=TTL_MS)
PROGRAMS = ("add", "add", "look", "flaky:1", "lost:1", "broken", "grow:pair", "remind:1000")
CALLS_MAX = 5
"""Of one caller."""


class IdleClient:
    """Calls an actor until nobody does, and sees that it is gone then."""

    def __init__(
        self,
        name: str,
        dice: random.Random,
        insist: Insist,
        marks: Counter[str],
        watch: Watch,
        now_s: Callable[[], float],
    ) -> None:
        self.name = name
        self._dice = dice
        self._insist = insist
        self._marks = marks
        self._watch = watch
        self._now_s = now_s
        self._made = 0

    async def live(self) -> None:
        await asyncio.sleep(self._dice.random() * 5)
        callers = [
            asyncio.create_task(self._call_on(f"{self.name}-c{number}"), name=f"client {self.name} caller {number}")
            for number in range(self._dice.randint(1, 3))
        ]
        await asyncio.gather(*callers)
        while await self._is_there():
            await asyncio.sleep(1.0)
        assert not self._watch.kept_of(self.name), "nothing is left of it"
        self._marks["actor deleted as idle"] += 1

    async def _call_on(self, caller: str) -> None:
        for number in range(self._dice.randint(1, CALLS_MAX)):
            near = TTL_MS / 1000 * self._dice.choice((0.1, 0.5, 0.95, 1.0, 1.0, 1.05))
            await asyncio.sleep(near + self._dice.choice((0.0, 0.001, self._dice.random() * 0.2)))
            await self._call(f"{caller}.{number}", self._dice.choice(PROGRAMS))

    async def _call(self, call_id: str, method: str) -> None:
        """See a call through, with an actor that is made if there is none."""
        call = MethodCall(method, NULL, call_id=call_id)
        began_s = self._now_s()
        tries = 0

        async def ask(kernel: Kernel) -> CallResult:
            nonlocal tries
            tries += 1
            age_ms = int((self._now_s() - began_s) * 1000)
            repeat = Repeat(age_ms + 1, age_ms) if tries > 1 and age_ms else None
            wait_s = self._dice.choice((0.0, 1.0, 20.0))
            return await kernel.actors.call(NAMESPACE, self.name, call, wait_s=wait_s, repeat=repeat)

        while True:
            try:
                result = await self._insist(ask)
            except errors.ActorNotFoundError:
                assert not self._watch.calls.get(call_id), f"{call_id} was recorded, and is unknown"
                await self._create()
                continue
            if result.value is not None:
                break
            await asyncio.sleep(0.1)
        made = self._watch.calls.get(call_id, {})
        assert len(made) == 1, f"{call_id} was recorded {len(made)} times"
        ((run_id, sequence),) = made.items()
        assert (run_id, sequence) in self._watch.consumed, f"{call_id} has a result, and none is recorded"
        is_late = isinstance(result.value, Failure) and result.value.type == "perdure.ActorDeleted"
        self._marks["asked after the actor was gone" if is_late else "call of a short-lived actor"] += 1

    async def _create(self) -> None:
        self._made += 1
        if self._made > 1:
            self._marks["made anew"] += 1
        await self._insist(lambda kernel: make_actor(kernel, self.name, SHORT_LIVED, self._dice))

    async def _is_there(self) -> bool:
        async def ask(kernel: Kernel) -> RunRow:
            return await kernel.actors.row(NAMESPACE, self.name)

        try:
            await self._insist(ask)
        except errors.ActorNotFoundError:
            return False
        return True
