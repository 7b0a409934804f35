"""Waiting for some of several nodes, and outputs that are not checkpointed, over real gRPC."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import perdure
from perdure import errors
from perdure.service.app import RunningServer, running_server
from perdure.service.common.settings import Settings


@perdure.task
async def after(key: str, value: str) -> str:
    """Gives its value once the test lets it."""
    await GATES[key].wait()
    return value


class Gates(dict[str, asyncio.Event]):
    """Gates that the tasks of the local executor, which share this process, can wait at."""

    def __missing__(self, key: str) -> asyncio.Event:
        self[key] = asyncio.Event()
        return self[key]


GATES = Gates()


def let(key: str) -> None:
    """Open a gate, whatever event loop the waiters are on."""
    gate = GATES[key]
    loop = getattr(gate, "_loop", None)
    if loop is None:
        gate.set()
    else:
        loop.call_soon_threadsafe(gate.set)


async def until_successful(handle: perdure.Handle[object], name: str) -> None:
    while not [task async for task in handle.tasks(perdure.TaskStatus.SUCCESSFUL) if name in task.task_id]:
        await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def fresh_gates() -> None:
    GATES.clear()


@perdure.task
def report(found: tuple[list[str], list[str]], so_far: list[str]) -> object:
    ready, remaining = found
    so_far = so_far + ready
    if not remaining:
        return so_far
    return report.bind(perdure.wait(remaining), so_far)


@perdure.task
def count_of(found: tuple[list[str], list[str]]) -> tuple[list[str], int]:
    ready, remaining = found
    return ready, len(remaining)


@perdure.task
def join(*parts: str) -> str:
    return " ".join(parts)


@perdure.task
def first_and_rest(found: tuple[list[str], list[str]]) -> object:
    ready, remaining = found
    return join.bind(*ready, *remaining)


@perdure.task
def hand_over(found: tuple[list[str], list[str]]) -> object:
    return found[1][0]


async def test_results_are_reported_as_they_come(client: perdure.Client) -> None:
    names = ["a", "b", "c"]
    handle = await client.start(report.bind(perdure.wait([after.bind(name, name.upper()) for name in names]), []))
    for name in ("b", "c", "a"):
        let(name)
    output = await handle.output()
    assert sorted(output) == ["A", "B", "C"]


async def test_what_remains_goes_on_and_is_not_needed_for_the_end(client: perdure.Client) -> None:
    nodes = [after.bind("fast", "f"), after.bind("never", "n"), after.bind("fast", "g")]
    let("fast")
    handle = await client.start(count_of.bind(perdure.wait(nodes, num_returns=2)))
    assert await handle.output() == (["f", "g"], 1)
    statuses = {task.task_id: task.status async for task in handle.tasks()}
    assert perdure.TaskStatus.CANCELED in statuses.values()


async def test_what_remains_can_be_an_argument_of_the_next(client: perdure.Client) -> None:
    handle = await client.start(first_and_rest.bind(perdure.wait([after.bind("x", "x"), after.bind("y", "y")])))
    let("y")
    await until_successful(handle, "first_and_rest")
    let("x")
    assert await handle.output() == "y x"


async def test_what_remains_can_be_the_value_itself(client: perdure.Client) -> None:
    let("x")
    handle = await client.start(hand_over.bind(perdure.wait([after.bind("x", "x"), after.bind("y", "y")])))
    await until_successful(handle, "hand_over")
    let("y")
    assert await handle.output() == "y"


async def test_a_time_out_gives_what_there_is(client: perdure.Client) -> None:
    handle = await client.start(count_of.bind(perdure.wait([after.bind("never", "n")], timeout=0.05)))
    assert await handle.output() == ([], 1)


async def test_a_wait_can_be_the_last_node(client: perdure.Client) -> None:
    let("a")
    handle = await client.start(perdure.wait([after.bind("a", "A"), after.options(task_id="slow").bind("b", "B")]))
    ready, remaining = await handle.output()
    assert ready == ["A"]
    assert [node.task_id for node in remaining] == ["slow"]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: perdure.wait([]), ValueError),
        (lambda: perdure.wait([1]), TypeError),
        (lambda: perdure.wait([join.bind()], num_returns=2), ValueError),
        (lambda: perdure.wait([join.bind()], num_returns=True), TypeError),
        (lambda: perdure.wait([join.bind()], timeout=-1), ValueError),
        (lambda: perdure.wait([NODE, NODE]), ValueError),
        (lambda: perdure.wait([NODE["part"]]), TypeError),
    ],
)
def test_waits_that_cannot_be(make: object, error: type[Exception]) -> None:
    assert callable(make)
    with pytest.raises(error, match=r"wait|num_returns|time"):
        make()


NODE = join.bind()


async def test_a_graph_that_names_a_task_of_another_run_fails_its_task_alone(client: perdure.Client) -> None:
    from perdure.graph import TaskNode

    with pytest.raises(errors.InvalidSpecError, match="not there"):
        await client.start(join.bind(TaskNode("elsewhere")))


# ------------------------------------------------------------------------------ checkpoint=False


@perdure.task
def note(path: str, name: str, *_: object) -> str:
    with Path(path).open("a") as file:
        file.write(name + "\n")
    return name


def lines(path: Path) -> list[str]:
    return path.read_text().split()


async def test_after_a_restart_only_what_is_needed_is_computed_again(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    loose = note.options(checkpoint=False)
    a = loose.options(task_id="a").bind(str(notes), "a")
    b = loose.options(task_id="b").bind(str(notes), "b", a)
    c = note.options(task_id="c").bind(str(notes), "c", b)
    d = loose.options(task_id="d").bind(str(notes), "d", c)
    e = note.options(task_id="e").bind(str(notes), "e", d, perdure.event("go"))
    settings = Settings(listen="127.0.0.1:0", storage=str(tmp_path / "storage"), executor="local")
    async with running_server(settings) as server, perdure.Client(server.address) as client:
        handle = await client.start(e, workflow_id="w")
        await handle.output("d")
        tasks = {task.task_id: task async for task in handle.tasks()}
        assert {name: task.checkpointed for name, task in tasks.items() if name in "abcd"} == {
            "a": False,
            "b": False,
            "c": True,
            "d": False,
        }
    assert lines(notes) == ["a", "b", "c", "d"]
    async with running_server(settings) as server, perdure.Client(server.address) as client:
        await client.send_event("w", "go")
        assert await client.handle("w").output() == "e"
        with pytest.raises(errors.OutputNotStoredError, match="'a'"):
            await client.handle("w").output("a")
    assert lines(notes) == ["a", "b", "c", "d", "d", "e"]


async def test_a_value_without_a_checkpoint_can_be_read_while_it_is_there(
    client: perdure.Client, server: RunningServer, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    a = note.options(checkpoint=False, task_id="a").bind(str(notes), "a")
    handle = await client.start(note.bind(str(notes), "b", a, perdure.event("go")))
    assert await handle.output("a") == "a"
    await handle.send_event("go")
    assert await handle.output() == "b"
