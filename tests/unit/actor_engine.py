"""An engine by hand with blobs and one actor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from perdure import actorwire
from perdure.engine.messages import TaskSucceeded
from perdure.model import ActorSpec, MethodCall, MethodOutcome, Payload
from perdure.service.executors.port import Attempt, Executor
from perdure.service.kernel import Kernel
from perdure.service.machines.actors import ARGUMENTS, source_of
from perdure.service.operations.asked import NewRun
from perdure.storage.blobs.memory import MemoryBlobStore
from unit.driver import FUNCTION
from unit.engine_by_hand import NOW_MS, ByHand, Engine, Store

STATE = Payload("json", data=b"{}")
NO_ARGUMENTS = Payload("json", data=b"[]")


class ActorEngine(Engine):
    """An engine with blobs, and one actor."""

    def __init__(self) -> None:
        self.store = Store()
        self.executor = ByHand()
        self.now_ms = NOW_MS
        self.blobs = MemoryBlobStore()
        self.kernel = Kernel(
            self.store, cast(Executor, self.executor), owner="engine", clock=lambda: self.now_ms, blobs=self.blobs
        )

    async def create(self) -> None:
        call = actorwire.encode_call(MethodCall("__init__", NO_ARGUMENTS))
        new = NewRun("default", "a", "request", source_of(ActorSpec(FUNCTION)), inputs={ARGUMENTS: call})
        await self.kernel.actors.get_or_create(new)
        await self.end(MethodOutcome(output=STATE, state=STATE))

    async def call(self, call_id: str, outcome: MethodOutcome, arguments: Payload = NO_ARGUMENTS) -> None:
        await self.kernel.actors.call("default", "a", MethodCall("method", arguments, call_id=call_id), wait_s=0)
        await self.end(outcome)

    async def end(self, outcome: MethodOutcome) -> None:
        """End the attempt that runs, and wait until that is durable."""
        attempt = await self.executor.submitted.get()
        self.report(attempt, outcome)
        await self.ended(attempt.task_id)

    def report(self, attempt: Attempt, outcome: MethodOutcome) -> None:
        end = TaskSucceeded(attempt.task_id, attempt.number, actorwire.outcome_payload(outcome), self.now_ms)
        self.executor.report((attempt.run_id, end))

    async def ended(self, call_id: str) -> None:
        """Until a call has a durable result."""
        row = (await self.kernel.queries.run("default", "a")).row
        await self.kernel.actors.result(row, call_id, 10)

    async def swept(self) -> None:
        """Until no blob is marked: the sweep is woken by what happened."""
        async with asyncio.timeout(10):
            while await self.store.marked_blobs(after="", limit=1):
                await asyncio.sleep(0)


@asynccontextmanager
async def running_actor_engine() -> AsyncIterator[ActorEngine]:
    """With its actor made. At the end no commit is held."""
    engine = ActorEngine()
    await engine.kernel.start()
    await engine.create()
    yield engine
    engine.store.let_all_go()
    await engine.kernel.stop(grace_s=1)
