"""The synchronous client is the asynchronous one: the same methods, from wherever it is called."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import pytest

import perdure
from patience import PATIENCE_S
from perdure import errors
from perdure.actorcalls import ActorCalls
from perdure.client import Client
from perdure.handle import Handle
from perdure.service.app import running_server
from perdure.service.common.settings import Settings
from perdure.sync import SyncClient, SyncHandle
from perdure.syncactors import SyncActorCalls

PAIRS = [(Client, SyncClient), (Handle, SyncHandle), (ActorCalls, SyncActorCalls)]
TWINS: dict[Any, Any] = {Client: SyncClient, Handle: SyncHandle, list[Handle]: list[SyncHandle]}


def public(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_") and callable(value)}


def given_back(kind: type, name: str) -> Any:
    """What a method gives, as a caller without await sees it."""
    found = get_type_hints(getattr(kind, name))["return"]
    if get_origin(found) in (AsyncIterator, Iterator):
        return Iterator[get_args(found)[0]]
    return str(found) if isinstance(found, TypeVar) else TWINS.get(found, found)


@pytest.mark.parametrize(("ours", "twin"), PAIRS)
def test_there_are_the_same_methods(ours: type, twin: type) -> None:
    assert public(ours).keys() == public(twin).keys()


@pytest.mark.parametrize(
    ("ours", "twin", "name"), [(ours, twin, name) for ours, twin in PAIRS for name in (*public(ours), "__init__")]
)
def test_methods_take_and_give_the_same(ours: type, twin: type, name: str) -> None:
    if name == "__init__" and ours is not Client:
        return  # the others are made by clients
    one, two = (inspect.signature(getattr(kind, name)) for kind in (ours, twin))
    assert list(one.parameters.values()) == list(two.parameters.values())
    if name != "__init__":
        assert given_back(ours, name) == given_back(twin, name)
        assert not inspect.iscoroutinefunction(getattr(twin, name))
        assert getattr(twin, name).__doc__ == f"See {ours.__name__}.{name}." or name == "close"


# ------------------------------------------------------------------------------ at work


@perdure.task
def double(number: int) -> int:
    return 2 * number


@perdure.task
def fail() -> None:
    raise KeyError("k")


@pytest.fixture
async def address() -> AsyncIterator[str]:
    settings = Settings(listen="127.0.0.1:0", storage="memory:", executor="local")
    async with running_server(settings) as server:
        yield server.address


def use(address: str, workflow_id: str) -> int:
    """All of it once; blocks."""
    with SyncClient(address, patience=2) as client:
        handle = client.start(double.bind(double.bind(perdure.input("n"))), workflow_id=workflow_id, inputs={"n": 3})
        assert handle.output(timeout=PATIENCE_S) == 12
        assert handle.status().status is perdure.RunStatus.SUCCESSFUL
        assert client.handle(workflow_id).status().run_id == handle.run_id
        assert [task.status for task in handle.tasks()] == [perdure.TaskStatus.SUCCESSFUL] * 2
        assert [update.run.status for update in handle.watch() if update.run][-1] is perdure.RunStatus.SUCCESSFUL
        assert handle.cancel() is client.cancel(workflow_id) is perdure.RunStatus.SUCCESSFUL
        assert workflow_id in [info.workflow_id for info in client.list(page_size=1)]
        assert handle.metadata().stats.start_time.seconds > 0
        assert client.info().server_version
        with pytest.raises(errors.WorkflowAlreadyFinalError):
            handle.send_event("late", 1)
        with pytest.raises(errors.WorkflowNotFoundError):
            client.resume("nobody")
        with pytest.raises(perdure.WorkflowExecutionError) as info:
            client.run(fail.bind())
        assert isinstance(info.value.__cause__, KeyError)
        client.delete(workflow_id)
        return client.run(double.bind(21))


async def test_it_works_in_threads_at_once(address: str) -> None:
    found = await asyncio.gather(*(asyncio.to_thread(use, address, f"thread-{number}") for number in range(3)))
    assert found == [42, 42, 42]


async def test_one_client_serves_many_threads(address: str) -> None:
    client = await asyncio.to_thread(SyncClient, address)

    def run(number: int) -> int:
        return client.run(double.bind(number))

    found = await asyncio.gather(*(asyncio.to_thread(run, number) for number in range(8)))
    await asyncio.to_thread(client.close)
    assert found == [2 * number for number in range(8)]


async def test_it_works_inside_a_running_loop(address: str) -> None:
    """In a notebook, say: the loop of the caller runs, and is blocked while it waits."""

    async def caller() -> int:
        return use(address, "in-a-loop")

    assert await asyncio.to_thread(asyncio.run, caller()) == 42


async def test_an_iterator_that_is_left_early_is_closed(address: str) -> None:
    def leave_early() -> str:
        with SyncClient(address) as client:
            handle = client.start(perdure.event("never"), workflow_id="waits")
            for update in handle.watch():
                assert update.run or update.task
                break
            return handle.status().status

    assert await asyncio.to_thread(leave_early) == "RUNNING"


async def test_closing_ends_the_thread_and_may_be_repeated(address: str) -> None:
    def close_twice() -> list[str]:
        client = SyncClient(address)
        client.close()
        client.close()
        with pytest.raises(RuntimeError, match="the client is closed"):
            client.info()
        return [thread.name for thread in threading.enumerate()]

    assert "perdure-client" not in await asyncio.to_thread(close_twice)


async def test_errors_are_those_of_the_asynchronous_client() -> None:
    def ask_nobody() -> None:
        with SyncClient("127.0.0.1:1", patience=0) as client:
            client.info()

    with pytest.raises(errors.ServiceUnavailableError):
        await asyncio.to_thread(ask_nobody)
