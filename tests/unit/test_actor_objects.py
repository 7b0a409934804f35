"""Objects of Ray in the state of actors: their contents are stored with the state."""

from __future__ import annotations

from typing import Any

import pytest

from actors import Actor, failure_of
from perdure.model import FailureKind
from perdure.rayobjects import ObjectUnavailable
from perdure.worker.attempt import Runner
from unit.test_codec_objects import Objects

LARGE = "x" * 200_000
held = Objects()


class Holder:
    def __init__(self) -> None:
        self.small = held.put(1)
        self.count = 0

    def add(self, size: int) -> None:
        self.large = [held.put(LARGE), "y" * size]

    def lose(self) -> None:
        self.lost = held.put(ObjectUnavailable("away"))

    def read(self) -> tuple[Any, ...]:
        self.count += 1
        return held.contents(self.small), len(held.contents(self.large[0]))

    def look(self) -> int:
        return self.count


@pytest.fixture
def holder() -> Actor:
    actor = Actor(Holder, runner_of=lambda blobs: Runner(blobs, None, held))
    held.kept = actor.blobs.kept
    return actor


@pytest.mark.parametrize("size", [1, 10_000])
def test_objects_in_fields_come_back_as_objects(holder: Actor, size: int) -> None:
    holder.call("add", size)
    assert (holder.sent == ["large"]) is (size > 1)
    refs = {blob.sha256 for payload in holder.parts.values() for blob in payload.refs}
    assert refs == set(holder.blobs.kept)
    for _ in range(2):
        assert holder.call("read") == (1, len(LARGE))
        assert holder.sent == []
        holder.call("look")
        assert holder.outcome.state is None
        holder.move()


def test_an_object_that_cannot_be_stored_fails_the_call_only(holder: Actor) -> None:
    failure = failure_of(lambda: holder.call("lose"))
    assert failure.kind is FailureKind.SYSTEM
    assert "away" in failure.message
    assert holder.call("look") == 0


def test_an_object_in_a_state_without_ray_is_a_clear_failure(holder: Actor) -> None:
    holder.runner = Runner(holder.blobs)
    failure = failure_of(lambda: holder.call("look"))
    assert "objects of Ray are for workers of a Ray cluster" in failure.message
