"""Large values of actors: a blob is kept as long as a record names it, and no longer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from perdure.model import ActorSpec, BlobRef, MethodOutcome, Payload
from unit.actor_engine import STATE, ActorEngine, running_actor_engine
from unit.driver import FUNCTION


@pytest.fixture
async def engine() -> AsyncIterator[ActorEngine]:
    async with running_actor_engine() as engine:
        yield engine


def large(blob: BlobRef) -> Payload:
    return Payload("pickle", blob=blob)


async def test_versions_of_a_large_field_go_when_they_are_replaced(engine: ActorEngine) -> None:
    blobs = [engine.blobs.put_now(bytes([number])) for number in range(5)]
    for number, blob in enumerate(blobs):
        await engine.call(f"c{number}", MethodOutcome(STATE, STATE, (("field", large(blob)),)))
    await engine.swept()
    assert [engine.blobs.has(blob.sha256) for blob in blobs] == [False] * 4 + [True]
    await engine.call("drop", MethodOutcome(STATE, STATE, dropped=("field",)))
    await engine.swept()
    assert not engine.blobs.has(blobs[-1].sha256)


async def test_a_result_that_names_the_state_keeps_the_blob(engine: ActorEngine) -> None:
    first, second = (engine.blobs.put_now(data) for data in (b"1", b"2"))
    await engine.call("c1", MethodOutcome(large(first), STATE, (("field", large(first)),)))
    await engine.call("c2", MethodOutcome(STATE, STATE, (("field", large(second)),)))
    await engine.swept()
    assert engine.blobs.has(first.sha256)


async def test_arguments_and_results_go_with_forgotten_calls(
    engine: ActorEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.engine.actor.mailbox.KEPT_MAX", 2)
    monkeypatch.setattr("perdure.engine.actor.mailbox.FORGOTTEN_AT_ONCE", 2)
    blobs = [(engine.blobs.put_now(b"a%d" % number), engine.blobs.put_now(b"r%d" % number)) for number in range(4)]
    for number, (argument, result) in enumerate(blobs):
        await engine.call(f"c{number}", MethodOutcome(large(result)), Payload("pickle", blob=argument))
    await engine.swept()
    there = [(engine.blobs.has(argument.sha256), engine.blobs.has(result.sha256)) for argument, result in blobs]
    assert there == [(False, False), (False, False), (True, True), (True, True)]


async def test_the_deletion_of_an_actor_marks_all_its_blobs(engine: ActorEngine) -> None:
    field, result = (engine.blobs.put_now(data) for data in (b"1", b"2"))
    await engine.call("c", MethodOutcome(large(result), STATE, (("field", large(field)),)))
    await engine.kernel.actors.delete("default", "a")
    await engine.swept()
    assert not engine.blobs.has(field.sha256)
    assert not engine.blobs.has(result.sha256)


async def test_the_code_of_a_class_goes_when_the_class_is_replaced(engine: ActorEngine) -> None:
    blobs = [engine.blobs.put_now(b"code %d" % number) for number in range(2)]
    for number, blob in enumerate(blobs):
        spec = ActorSpec(replace(FUNCTION, code=large(blob)))
        await engine.kernel.actors.replace_class("default", "a", spec, f"{number}")
        await engine.call(f"c{number}", MethodOutcome(STATE))
        await engine.swept()
        assert engine.blobs.has(blob.sha256)
    assert not engine.blobs.has(blobs[0].sha256)
