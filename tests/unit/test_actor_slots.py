"""Actors live until they are deleted, so they hold no slots: new ones, resumed ones, and those of a restart."""

from __future__ import annotations

from typing import cast

from perdure import actorwire
from perdure.engine.messages import TaskFailed
from perdure.model import ActorSpec, MethodCall, Payload, RunStatus
from perdure.service.executors.port import Executor
from perdure.service.kernel import Kernel
from perdure.service.machines.actors import ARGUMENTS, source_of
from perdure.service.operations.asked import NewRun
from unit.driver import ERROR, FUNCTION, call, graph
from unit.engine_by_hand import NOW_MS, Engine, Store


class Crowded(Engine):
    """An engine with one slot and no queue."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.kernel = Kernel(
            store, cast(Executor, self.executor), owner="engine", clock=lambda: NOW_MS, max_running=1, max_pending=0
        )

    async def create(self, name: str) -> str:
        inputs = {ARGUMENTS: actorwire.encode_call(MethodCall("__init__", Payload("json", b"[]")))}
        new = NewRun("default", name, "", source_of(ActorSpec(FUNCTION)), inputs=inputs)
        row, _ = await self.kernel.actors.get_or_create(new)
        return row.run_id


async def test_actors_hold_no_slots() -> None:
    store = Store()
    engine = Crowded(store)
    await engine.kernel.start()
    run_ids = [await engine.create(name) for name in ("a", "b")]
    first = await engine.start(graph(call("t")), "w")
    assert first.row.status is RunStatus.RUNNING
    assert engine.kernel.slots.count_running("default") == 1
    for _ in run_ids:  # while the only slot is taken
        attempt = await engine.executor.submitted.get()
        engine.executor.report((attempt.run_id, TaskFailed(attempt.task_id, attempt.number, ERROR, NOW_MS)))
    for name in ("a", "b"):
        await engine.kernel.queries.run("default", name, wait_s=10)
        view, is_resumed = await engine.kernel.lifecycle.resume("default", name)
        assert (view.row.status, is_resumed) == (RunStatus.RUNNING, True)
    await engine.kernel.stop(grace_s=1)

    again = Crowded(store)
    await again.kernel.start()
    assert again.kernel.slots.count_running("default") == 1
    await again.kernel.lifecycle.cancel("default", "w")
    assert (await again.start(graph(call("t")), "x")).row.status is RunStatus.RUNNING
    await again.kernel.stop(grace_s=1)
