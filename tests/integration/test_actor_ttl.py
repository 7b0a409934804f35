"""Actors that are deleted when nobody calls them for a while, with a clock that the test moves."""

from __future__ import annotations

from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration

import perdure
from perdure import errors, testing
from perdure.v1 import actor_service_pb2 as pb
from perdure.v1 import spec_pb2

HOUR = timedelta(hours=1)
ALMOST_HOUR = timedelta(minutes=59)


@perdure.actor(ttl=3600)
class Session(perdure.Actor):
    def __init__(self, user: str) -> None:
        self.user = user
        self.seen: list[str] = []

    @perdure.method
    def visit(self, page: str) -> list[str]:
        self.seen.append(page)
        return self.seen

    @perdure.method
    def remind(self, hours: float) -> None:
        perdure.remind("later", "visit", "reminded", after=hours * 3600)

    @perdure.readonly
    def pages(self) -> list[str]:
        return self.seen


class Plain:
    def incr(self) -> int:
        self.value = getattr(self, "value", 0) + 1
        return self.value


perdure.actor(name="ttl.plain")(Plain)


async def is_there(engine: testing.Engine, actor_id: str) -> bool:
    try:
        await engine.client.actors.info(actor_id)
    except errors.ActorNotFoundError:
        return False
    return True


async def test_actor_that_nobody_calls_is_deleted_and_made_anew_by_the_next_call() -> None:
    async with testing.engine(time="flow") as engine:
        session = engine.client.actor(Session, "s", "ann")
        assert await session.visit("a") == ["a"]
        assert (await engine.client.actors.info("s")).ttl == 3600
        await engine.advance(ALMOST_HOUR)
        assert await session.visit("b") == ["a", "b"]
        await engine.advance(ALMOST_HOUR)
        assert await is_there(engine, "s"), "the last call postpones the end"
        await engine.advance(HOUR)
        assert not await is_there(engine, "s")
        assert [info async for info in engine.client.actors.list()] == []
        assert await session.visit("c") == ["c"]


async def test_query_does_not_postpone_the_end() -> None:
    async with testing.engine(time="flow") as engine:
        session = engine.client.actor(Session, "s", "ann")
        await session.visit("a")
        await engine.advance(ALMOST_HOUR)
        assert await session.pages() == ["a"]
        await engine.advance(timedelta(minutes=2))
        assert not await is_there(engine, "s")


async def test_pending_reminder_keeps_its_actor() -> None:
    async with testing.engine(time="flow") as engine:
        session = engine.client.actor(Session, "s", "ann")
        await session.remind(30)
        await engine.advance(timedelta(hours=29))
        assert await is_there(engine, "s")
        await engine.advance(timedelta(minutes=90))
        assert await session.pages() == ["reminded"]
        await engine.advance(timedelta(hours=2))
        assert not await is_there(engine, "s")


async def test_time_that_passes_while_no_engine_runs_counts() -> None:
    async with testing.engine(time="flow") as engine:
        session = engine.client.actor(Session, "s", "ann")
        await session.visit("a")
        await engine.crash(away=ALMOST_HOUR)
        assert await session.visit("b") == ["a", "b"]
        await engine.crash(away=timedelta(hours=2))
        await engine.advance(1)
        assert not await is_there(engine, "s")


async def test_options_set_another_time_for_one_actor() -> None:
    async with testing.engine(time="flow") as engine:
        longer, forever = Session.options(ttl=7200), Session.options(ttl=None)
        await engine.client.actor(longer, "longer", "ann").visit("a")
        await engine.client.actor(forever, "forever", "ann").visit("a")
        await engine.advance(HOUR + timedelta(minutes=1))
        assert await is_there(engine, "longer")
        await engine.advance(HOUR)
        assert not await is_there(engine, "longer")
        assert await is_there(engine, "forever")


@pytest.mark.parametrize("ttl", [0, -1, 0.5, float("nan"), float("inf"), "1", True])
def test_unfit_ttl_is_refused(ttl: object) -> None:
    with pytest.raises((TypeError, ValueError), match="ttl"):
        perdure.actor(ttl=ttl)


async def test_other_languages_name_the_time_when_they_make_the_actor() -> None:
    async with testing.engine(time="flow") as engine:
        actors = engine.client._values.transport.actors
        name = spec_pb2.FunctionRef(registered=spec_pb2.RegisteredFunction(name="ttl.plain"))
        made = pb.ActorClass(function=name, ttl=Duration(seconds=60))
        request = pb.GetOrCreateActorRequest(actor_id="p", actor_class=made, wait=Duration(seconds=20))
        assert (await actors.GetOrCreateActor(request)).actor.ttl.seconds == 60
        await engine.advance(61)
        assert not await is_there(engine, "p")
        request.actor_class.ttl.FromMilliseconds(999)
        with pytest.raises(Exception, match="1 second or more"):
            await actors.GetOrCreateActor(request)
