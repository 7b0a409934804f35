"""Actors that are given a newer class, through an engine."""

from __future__ import annotations

from typing import Any

import pytest

import perdure
from perdure import errors, testing


def old_class() -> Any:
    @perdure.actor
    class Person(perdure.Actor):
        def __init__(self, name: str) -> None:
            self.name = name

        @perdure.method
        def greet(self) -> str:
            return f"hello {self.name}"

    return Person


def new_class(migrates: bool = True) -> Any:
    @perdure.actor(version=2, ttl=3600)
    class Person(perdure.Actor):
        def __init__(self, name: str) -> None:
            self.first, self.last = name.split()

        @perdure.method
        def greet(self) -> str:
            return f"good day, {self.first} {self.last}"

        @perdure.readonly
        def initials(self) -> str:
            return self.first[0] + self.last[0]

        @staticmethod
        def migrate(version: int, state: dict[str, Any]) -> dict[str, Any]:
            if not migrates:
                raise RuntimeError(f"cannot migrate {state['name']}")
            first, last = state["name"].split()
            return {"first": first, "last": last}

    return Person


async def test_replaced_class_migrates_the_state_and_survives_the_engine() -> None:
    async with testing.engine(time="flow") as engine:
        actors = engine.client.actors
        assert await engine.client.actor(old_class(), "p", "Ann Lee").greet() == "hello Ann Lee"
        New = new_class()
        assert await engine.client.actor(New, "p", "ignored").greet() == "hello Ann Lee", "an actor keeps its class"
        await actors.replace_class(New, "p")
        person = engine.client.actor(New, "p", "ignored")
        assert await person.initials() == "AL"
        assert (await actors.info("p")).revision == 1, "a query migrates in memory"
        assert (await actors.info("p")).ttl == 3600
        await engine.crash()
        assert await person.greet() == "good day, Ann Lee"
        assert (await actors.info("p")).revision == 2
        await engine.crash()
        assert await person.greet() == "good day, Ann Lee"
        assert (await actors.info("p")).revision == 2
        await actors.replace_class(old_class(), "p")
        with pytest.raises(errors.ActorCallError, match="written by version 2") as caught:
            await person.greet()
        assert caught.value.failure.type == "perdure.StateTooNew"


async def test_migration_that_raises_fails_the_call_and_changes_nothing() -> None:
    async with testing.engine(time="flow") as engine:
        actors = engine.client.actors
        await engine.client.actor(old_class(), "p", "Ann Lee").greet()
        await actors.replace_class(new_class(migrates=False), "p")
        person = engine.client.actor(new_class(), "p", "ignored")
        with pytest.raises(errors.ActorCallError, match="cannot migrate Ann Lee"):
            await person.greet()
        await actors.replace_class(new_class(), "p")
        assert await person.greet() == "good day, Ann Lee"


async def test_class_of_a_missing_actor_cannot_be_replaced() -> None:
    async with testing.engine() as engine:
        with pytest.raises(errors.ActorNotFoundError):
            await engine.client.actors.replace_class(new_class(), "nobody")
        with pytest.raises(TypeError, match=r"@perdure\.actor"):
            await engine.client.actors.replace_class(dict, "nobody")  # type: ignore[arg-type]
