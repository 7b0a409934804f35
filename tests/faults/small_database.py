"""A small database with rows of every kind, and what its runs come to on an engine that goes on with it."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import perdure
from perdure import RunStatus, errors
from perdure.service.app import RunningServer, running_server
from perdure.service.common.clocks import wall_clock_ms
from perdure.service.common.settings import Settings
from perdure.storage.rows import FunctionRow
from perdure.storage.urls import metadata_store

WEEK_S: Final = 7 * 24 * 3600
ANSWER_S: Final = 20.0
CORRUPT: Final = "CORRUPT_DATA"
ABSENT: Final = "absent"


@perdure.task
def add(left: object, right: object) -> object:
    return f"{left}+{right}"


@perdure.task
def blob(letter: str) -> bytes:
    return letter.encode() * 100_000


@perdure.task
def more(_before: object) -> object:
    return add.bind(add.bind(1, 2), perdure.event("go"))


@perdure.task(max_retries=0)
def broken() -> None:
    raise ValueError("as it should")


@perdure.task(
    max_retries=5,
    retry_exceptions=True,
    retry_policy=perdure.RetryPolicy(initial_interval=WEEK_S, max_interval=WEEK_S, jitter=0),
)
def flaky() -> str:
    if perdure.context().attempt == 1:
        raise ValueError("once")
    return "well"


WAITING: Final = ("waiting", "grown", "other")
RESUMED: Final = ("broken",)
IDS: Final = ("done", "twice", "broken", "canceled", "waiting", "grown", "other", "sleeping", "retried", "queued")


@asynccontextmanager
async def serving(folder: Path, *, ahead_s: int = 0) -> AsyncIterator[tuple[perdure.Client, RunningServer]]:
    settings = Settings(listen="127.0.0.1:0", storage=str(folder), executor="local", max_running_workflows=5, drain_s=1)
    clock = lambda: wall_clock_ms() + ahead_s * 1000  # noqa: E731
    async with running_server(settings, clock=clock) as server, perdure.Client(server.address) as client:
        yield client, server


async def make(folder: Path) -> None:
    """The database, as an engine that ended in good order leaves it."""
    store = metadata_store(str(folder))
    await store.open()
    await store.write_functions([FunctionRow("add", "1", b"info", 1)])
    await store.close()
    async with serving(folder) as (client, _):
        await client.run(
            add.bind(perdure.input("x"), add.bind("a", "b")),
            workflow_id="done",
            inputs={"x": 7},
            labels={"team": "pay"},
            metadata={"by": "Ana"},
            request_id="request-done",
        )
        for letter in "cd":
            await client.run(add.bind(letter, blob.bind(letter)), workflow_id="twice", id_reuse="allow")
        for name, graph in (("broken", broken.bind()), ("canceled", add.bind(1, perdure.event("never")))):
            await client.start(graph, workflow_id=name)
        await client.handle("canceled").cancel("enough")
        await client.handle("broken").outcome()
        await client.run(add.bind(1, 2), workflow_id="deleted")
        await client.delete("deleted")
        two = add.bind(perdure.event("first"), perdure.event("go"))
        for name, graph in (
            ("waiting", add.bind(two, blob.bind("e"))),
            ("grown", more.bind("x")),
            ("other", add.bind(perdure.event("first"), perdure.event("go"))),
            ("sleeping", add.bind(perdure.sleep(WEEK_S), "slept")),
            ("retried", flaky.bind()),
            ("queued", add.bind(3, 4)),
        ):
            await client.start(graph, workflow_id=name, labels={"kind": name})
        for name in ("waiting", "other"):
            await client.handle(name).send_event("first", 1, event_id="e1")
            await client.handle(name).send_event("beside", 1)
        while await _unsettled(client):
            await asyncio.sleep(0.02)
    connection = sqlite3.connect(folder / "perdure.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


async def _unsettled(client: perdure.Client) -> bool:
    wanted = {"waiting": 2, "grown": 1, "other": 1}
    for name, count in wanted.items():
        done = [task async for task in client.handle(name).tasks(perdure.TaskStatus.SUCCESSFUL)]
        if len(done) < count:
            return True
    return not [task async for task in client.handle("retried").tasks() if task.attempts]


async def outcomes(folder: Path) -> Mapping[str, str]:
    """The end of every run, if a week passes and its events arrive; CORRUPT for a damaged one."""
    async with serving(folder, ahead_s=WEEK_S + 60) as (client, _):
        for name in WAITING:
            await _told(client.handle(name).send_event("go", 2, event_id="go"))
        return {name: await _outcome(client, name) for name in IDS}


async def _told(call: object) -> str:
    try:
        return repr(await call)  # type: ignore[misc]
    except errors.CorruptDataError:
        return CORRUPT
    except errors.WorkflowNotFoundError:
        return ABSENT
    except errors.WorkflowAlreadyFinalError as error:
        return type(error).__name__


async def _outcome(client: perdure.Client, name: str) -> str:
    try:
        async with asyncio.timeout(ANSWER_S):
            info = await client.handle(name).status()
            if not info.status.is_final:
                await client.handle(name).outcome()
                info = await client.handle(name).status()
            if info.status is RunStatus.SUCCESSFUL:
                return f"{info.status} {await client.handle(name).output()!r}"[:200]
            outcome = repr(await client.handle(name).outcome())
    except errors.CorruptDataError:
        return CORRUPT
    except errors.WorkflowNotFoundError:
        return ABSENT
    except perdure.WorkflowExecutionError as error:
        outcome = repr(error)
    return CORRUPT if "perdure.CorruptData" in outcome else f"{info.status} {outcome[:40]}"


def copy(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder / "perdure.db"
