"""Results of calls that are kept for a time of the actor's own, with a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

import perdure
from perdure import testing
from perdure.v1 import actor_service_pb2 as pb
from perdure.v1 import spec_pb2


@perdure.actor(call_retention=60)
class Short(perdure.Actor):
    def __init__(self) -> None:
        self.value = 0

    @perdure.method
    def incr(self) -> int:
        self.value += 1
        return self.value

    @perdure.method
    def twice(self) -> Any:
        self.value += 1
        return times.bind(same.options(task_id="same").bind(self.value), 2)


@perdure.task
def same(value: int) -> int:
    return value


@perdure.task
def times(value: int, factor: int) -> int:
    return value * factor


class Plain:
    def incr(self) -> int:
        self.value = getattr(self, "value", 0) + 1
        return self.value


perdure.actor(name="retention.plain")(Plain)


async def test_request_id_is_forgotten_after_the_retention_of_the_class() -> None:
    async with testing.engine(time="flow") as engine:
        counter = engine.client.actor(Short, "c")
        once = counter.incr.options(request_id="once")
        assert await once() == 1
        assert (await engine.client.actors.info("c")).call_retention == 60
        await engine.advance(59)
        assert await counter.incr() == 2
        assert await once() == 1, "the result is still kept"
        await engine.advance(20)
        assert await counter.incr() == 3, "forgets what is older"
        assert await once() == 4


async def test_graph_of_a_call_whose_id_was_forgotten_works_with_values_of_its_own() -> None:
    async with testing.engine(time="flow") as engine:
        counter = engine.client.actor(Short, "c")
        once = counter.twice.options(request_id="once")
        assert await once() == 2
        await engine.advance(70)
        assert await counter.incr() == 2
        assert await once() == 6


async def test_retention_holds_after_a_crash() -> None:
    async with testing.engine(time="flow") as engine:
        counter = engine.client.actor(Short, "c")
        once = counter.incr.options(request_id="once")
        assert await once() == 1
        await engine.crash()
        assert await once() == 1
        await engine.crash(away=70)
        assert await counter.incr() == 2
        assert await once() == 3


async def test_options_set_another_retention_for_one_actor() -> None:
    async with testing.engine(time="flow") as engine:
        counter = engine.client.actor(Short.options(call_retention=3600), "c")
        once = counter.incr.options(request_id="once")
        assert await once() == 1
        await engine.advance(70)
        assert await counter.incr() == 2
        assert await once() == 1
        assert (await engine.client.actors.info("c")).call_retention == 3600


async def test_other_languages_name_the_retention_when_they_make_the_actor() -> None:
    async with testing.engine(time="flow") as engine:
        actors = engine.client._values.transport.actors
        name = spec_pb2.FunctionRef(registered=spec_pb2.RegisteredFunction(name="retention.plain"))
        made = pb.ActorClass(function=name)
        request = pb.GetOrCreateActorRequest(actor_id="week", actor_class=made, wait=Duration(seconds=20))
        assert (await actors.GetOrCreateActor(request)).actor.call_retention.seconds == 7 * 86_400
        request.actor_class.call_retention.FromSeconds(60)
        request.actor_id = "minute"
        assert (await actors.GetOrCreateActor(request)).actor.call_retention.seconds == 60
        request.actor_class.call_retention.FromMilliseconds(999)
        with pytest.raises(Exception, match="retention"):
            await actors.GetOrCreateActor(request)
