"""Actors through the synchronous client, from several threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import perdure
from patience import PATIENCE_S
from perdure import testing
from perdure.sync import SyncClient


@perdure.actor
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    @perdure.method
    def incr(self, by: int = 1) -> int:
        self.value += by
        return self.value

    @perdure.readonly
    def read(self) -> int:
        return self.value


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with testing.engine() as engine:
        yield engine.address


def use_actor(address: str, actor_id: str) -> int:
    """An actor in all ways; blocks."""
    with SyncClient(address, patience=2) as client:
        counter = client.actor(Counter, actor_id, 5)
        assert counter.incr.run(10) == 15
        assert counter.incr.options(request_id="twice").run() == counter.incr.options(request_id="twice").run() == 16
        assert counter.read.run() == 16
        with pytest.raises(RuntimeError, match=r"call incr\.run\("):
            asyncio.run(counter.incr())
        actors = client.actors
        call_id = actors.start(actor_id, "incr", kwargs={"by": 4})
        assert actors.output(actor_id, call_id, timeout=PATIENCE_S) == 20
        assert not actors.drop(actor_id, call_id)
        assert actors.call(actor_id, "incr", (0,), request_id="twice") == 16
        assert actors.query(actor_id, "read", min_revision=1) == 20
        assert {call.status for call in actors.calls(actor_id)} == {"SUCCESSFUL"}
        assert actors.info(actor_id).status == "READY"
        made = actors.get_or_create(Counter.definition, f"{actor_id}-2", (7,), labels={"k": "v"}, waits=True)
        assert made.labels == {"k": "v"}
        assert {actor_id, f"{actor_id}-2"} <= {info.actor_id for info in actors.list()}
        actors.delete(f"{actor_id}-2")
        actors.delete(f"{actor_id}-2", allow_missing=True)
        return counter.incr.run()


async def test_actors_work_in_threads_at_once(address: str) -> None:
    found = await asyncio.gather(*(asyncio.to_thread(use_actor, address, f"actor-{number}") for number in range(2)))
    assert found == [21, 21]
