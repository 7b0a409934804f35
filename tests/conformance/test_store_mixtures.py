"""One commit of many entries does what as many commits of one entry do, however stores gather what is alike: any
mixture of entries, on few runs that get in each other's way, against the store that gathers nothing."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conformance.stores import STORES, open_store
from perdure.model import RunStatus, TaskStatus
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import MetadataStore
from perdure.storage.rows import EngineRow, RunRow, TaskRow, Tombstone
from perdure.storage.writes import (
    AddEvent,
    AddRun,
    ConsumeEvent,
    DeleteRun,
    DropTasks,
    DropTombstones,
    EntryResult,
    KeepTombstones,
    Limit,
    Mail,
    PutSpec,
    PutTask,
    SetDormant,
    SetRun,
    UseBlobs,
    Write,
)

RUNS = [f"run-{number}" for number in range(12)]
STATES = list(RunStatus)
Mixture = list[tuple[Write, ...]]


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetadataStore]:
    async with open_store(request, tmp_path) as store:
        yield store


def add(chance: random.Random, moment: int) -> AddRun:
    name = chance.choice(RUNS)
    number = RUNS.index(name)
    row = RunRow(
        name,
        "default",
        f"workflow-{number // 2}",  # two runs each
        chance.choice((RunStatus.RUNNING, RunStatus.PENDING)),
        f"spec-{number % 3}",
        create_ms=number,
        update_ms=moment,
        request_id=f"request-{number // 3}" if number % 3 else "",
        labels={"number": str(number)} if number % 2 else {},
        owner="me",
        kind="graph" if number % 2 else "actor",
    )
    return AddRun(
        row,
        b"graph",
        {"x": b"input"} if number % 2 else {},
        chance.choice(("", "", "", chance.choice(RUNS))),
        chance.choice(((), ("blob-1",), ("blob-2", "blob-3"))),
    )


def write(chance: random.Random, moment: int) -> Write:
    name = chance.choice(RUNS)
    state = chance.choice(STATES)
    expects = chance.choice((None, None, *STATES))
    task = chance.randrange(3)
    kinds: list[Write] = [
        SetRun(name, state, moment, "task", failure=chance.choice((None, b"f")), expects=expects, owner="me"),
        SetRun(name, RunStatus.RUNNING, moment, resumed=True, expects=expects, owner="me"),
        SetRun(name, RunStatus.SUCCESSFUL, moment, "task", 1),
        SetDormant(name, chance.random() < 0.5),
        PutTask(TaskRow(name, f"task-{task}", task, TaskStatus.SUCCESSFUL, 1, output=b"out", ended_ms=moment)),
        PutSpec(f"spec-{chance.randrange(4)}", b"graph"),
        AddEvent(name, "key", f"event-{chance.randrange(4)}", b"value", moment),
        ConsumeEvent(name, chance.randrange(8), f"task-{task}"),
        DropTasks(
            name,
            (f"task-{task}", f"task-{chance.randrange(3)}"),
            and_events=chance.random() < 0.7,
            and_graphs=chance.random() < 0.3,
        ),
        PutTask(TaskRow(name, f"task-{task}", task, TaskStatus.SUCCESSFUL, 1, spec_key=f"spec-{chance.randrange(4)}")),
        UseBlobs(name, (f"blob-{chance.randrange(3)}",), chance.choice(("", f"task-{task}"))),
        Mail(name, "letter", b"text"),
        DeleteRun(name),
        KeepTombstones((Tombstone(f"tombstone-{chance.randrange(3)}", b"data", moment + chance.randrange(20)),)),
        DropTombstones(moment, 100),
    ]
    return chance.choice(kinds)


async def mixture(seed: int, model: MemoryMetadataStore) -> tuple[Mixture, list[EntryResult]]:
    """Entries, and what came of each in the model, one by one."""
    chance = random.Random(seed)
    entries: Mixture = []
    results: list[EntryResult] = []
    known: set[str] = set()
    for moment in range(10, 10 + chance.choice((3, 30, 90))):
        entry: tuple[Write, ...]
        if chance.random() < chance.choice((0.3, 0.9)):
            guard = [Limit("default", RunStatus.RUNNING, chance.randrange(1, 8))] if chance.random() < 0.2 else []
            also = [write(chance, moment)] if chance.random() < 0.3 else []
            entry = (*guard, add(chance, moment), *also)
        else:
            entry = tuple(write(chance, moment) for _ in range(chance.choice((1, 1, 2))))
        if _is_sensible(entry) and _is_of(entry, known) and await _has_subjects(model, entry):
            entries.append(entry)
            results += (await model.commit([entry])).results
            known |= {name for name in RUNS if await model.get_run(name) is not None}
    return entries, results


def _is_sensible(entry: tuple[Write, ...]) -> bool:
    """Whether an entry adds, changes or deletes at most one run, as the engine writes it, or begins with a limit."""
    changes = [each for each in entry if isinstance(each, (AddRun, SetRun, DeleteRun))]
    return len(changes) <= 1 or isinstance(entry[0], Limit)


def _is_of(entry: tuple[Write, ...], known: set[str]) -> bool:
    """The engine never writes about a run before it was added."""
    return all(each.run_id in known for each in entry if isinstance(each, (UseBlobs, Mail)))


async def _has_subjects(model: MemoryMetadataStore, entry: tuple[Write, ...]) -> bool:
    """The engine never stores tasks of a missing run, nor consumes an event that has not arrived."""
    for each in entry:
        if isinstance(each, PutTask) and await model.get_run(each.row.run_id) is None:
            return False
        if isinstance(each, ConsumeEvent):
            stored = await model.load_run(each.run_id)
            if stored is None or all(event.sequence != each.sequence for event in stored.events):
                return False
    return True


async def everything(store: MetadataStore) -> dict[str, Any]:
    """The whole content, except the numbers of commits."""
    found: dict[str, Any] = {}
    for name in RUNS:
        stored = await store.load_run(name)
        if stored is not None:
            tasks = [replace(task, change=0) for task in stored.tasks]
            found[name] = (stored.run.but(change=0), sorted(stored.inputs), tasks, stored.events, stored.last_event)
    found["current"] = {}
    for number in range(len(RUNS) // 2):
        run = await store.find_run("default", f"workflow-{number}")
        found["current"][number] = run and run.run_id
    found["tombstones"] = [await store.read_tombstone(f"tombstone-{number}") for number in range(3)]
    found["specs"] = await store.read_specs([f"spec-{number}" for number in range(4)])
    found["mail"] = [(mail.run_id, mail.kind) for mail in await store.read_mail(limit=1_000)]
    blobs = [f"blob-{number}" for number in range(4)]
    found["unused"] = sorted(await store.unused_blobs(blobs))
    found["marked"] = sorted((mark.sha256, mark.is_used) for mark in await store.marked_blobs(after="", limit=100))
    return found


@pytest.mark.parametrize("seed", range(40))
async def test_a_commit_of_many_entries_is_as_many_commits(store: MetadataStore, seed: int) -> None:
    model = MemoryMetadataStore()
    await model.open()
    if store.is_shared:
        await model.join(EngineRow("me"), 600_000)
    entries, expected = await mixture(seed, model)
    if store.is_shared:
        await store.join(EngineRow("me"), 600_000)
    committed = await store.commit(entries)
    assert [result.is_refused for result in committed.results] == [result.is_refused for result in expected]
    assert [result.is_duplicate for result in committed.results] == [result.is_duplicate for result in expected]
    assert await everything(store) == await everything(model)
    await model.close()
