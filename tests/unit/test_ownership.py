"""Ownership of runs, for the only engine and for one among several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from perdure import errors
from perdure.model import RunStatus
from perdure.service.fleet import among_several
from perdure.service.fleet.among_several import AmongSeveral
from perdure.service.fleet.letters import CANCEL
from perdure.service.journal.journal import Journal
from perdure.service.runs.changes import Changes
from perdure.service.runs.ownership import Alone
from perdure.storage.memory.store import SharedMemory
from perdure.storage.rows import EngineRow, RunRow
from perdure.storage.writes import AddRun, SetRun

LONG_MS = 600_000


def run(owner: str, status: RunStatus = RunStatus.RUNNING) -> RunRow:
    return RunRow("r", "n", "w", status, "spec", 1, 1, owner=owner)


def test_the_only_engine_owns_whatever_its_predecessors_left() -> None:
    alone = Alone("me")
    assert alone.is_ours(run("the one before"))
    assert alone.elsewhere(run("the one before")) is None
    assert not alone.others_may_start()
    assert not alone.others_may_resume()


class World:
    """Two engines over one store; `other` has a run at work."""

    def __init__(self) -> None:
        shared = SharedMemory()
        self.store, self.other = shared.member(), shared.member()
        self.journal, self.changes = Journal(self.store), Changes(is_complete=False)
        self.here = AmongSeveral("me", self.store, self.journal, self.changes, cast(Any, None))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.store.join(EngineRow("me"), LONG_MS)
    await world.other.join(EngineRow("other"), LONG_MS)
    await world.other.commit([(AddRun(run("other"), b""),)])
    await world.journal.start()
    yield world
    await world.journal.stop(grace_s=1)


async def test_a_run_at_work_elsewhere_is_changed_by_its_owner_alone(world: World) -> None:
    assert world.here.is_ours(run("me"))
    assert not world.here.is_ours(run("other"))
    assert world.here.elsewhere(run("me")) is None
    assert world.here.elsewhere(run("other", RunStatus.FAILED)) is None, "a run that is not at work has no owner"
    assert world.here.elsewhere(run("other")) is not None


async def test_the_owner_is_asked_by_a_letter_and_its_answer_is_the_end(world: World) -> None:
    owner = world.here.elsewhere(run("other"))
    assert owner is not None
    await owner.ask_to_cancel("enough")
    (letter,) = await world.other.read_mail(limit=9)
    assert (letter.run_id, letter.kind) == ("r", CANCEL)
    ended = asyncio.create_task(owner.ended())
    while not world.changes.waited_runs():
        await asyncio.sleep(0)
    await world.other.commit([(SetRun("r", RunStatus.CANCELED, 5),)])
    world.changes.stir("r")
    assert (await ended).status is RunStatus.CANCELED


async def test_an_owner_that_does_not_answer_is_told_to_the_caller(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(among_several, "ANSWER_S", 0)
    owner = world.here.elsewhere(run("other"))
    assert owner is not None
    with pytest.raises(errors.DatabaseUnavailableError, match="'w'"):
        await owner.ended()
