"""`perdure actor` against `perdure serve` as a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure.cli.root import run
from services import Service, running

MODULE = """
import asyncio

import perdure


class Box:
    def __repr__(self) -> str:
        return "<box>"


@perdure.actor
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    @perdure.method
    def incr(self, by: int = 1, *, times: int = 1) -> int:
        self.value += by * times
        return self.value

    @perdure.method
    def fail(self) -> None:
        raise ValueError("no good")

    @perdure.method
    def box(self) -> Box:
        return Box()

    @perdure.method
    async def wait(self) -> None:
        await asyncio.Event().wait()

    @perdure.readonly
    def read(self, plus: int = 0) -> int:
        return self.value + plus
"""

Cli = Callable[..., Coroutine[Any, Any, tuple[int, str, str]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "actors_of_cli.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    service = Service(folder, "--executor", "local", cwd=folder)
    with running(service):
        service.up()
        yield service.address


@pytest.fixture
def counter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The class of the actors."""
    monkeypatch.syspath_prepend(str(folder))
    import actors_of_cli

    yield actors_of_cli.Counter
    sys.modules.pop("actors_of_cli")


@pytest.fixture
async def client(address: str, counter: Any) -> AsyncIterator[perdure.Client]:
    """Of an engine with one actor, c, whose value is 5."""
    async with perdure.Client(address) as client:
        assert await client.actor(counter, "c", 5).read() == 5
        yield client
        for actor_id in ("c", "labelled"):
            await client.actors.delete(actor_id, allow_missing=True)


@pytest.fixture
def cli(
    client: perdure.Client, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Cli:
    """Runs a command line in a thread; what it prints is what a process would."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PERDURE_ADDRESS", client.address)

    async def call(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(run, arguments)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def as_json(answer: tuple[int, str, str]) -> Any:
    code, out, err = answer
    assert (code, err) == (0, "")
    return json.loads(out)


async def test_call_takes_json_arguments_and_prints_the_value(cli: Cli) -> None:
    assert await cli("actor", "call", "c", "incr") == (0, "6\n", "")
    assert await cli("actor", "call", "c", "incr", "10") == (0, "16\n", "")
    assert await cli("actor", "call", "c", "incr", "--", "-6") == (0, "10\n", "")
    assert await cli("actor", "call", "c", "incr", "2", "--input", '{"times": 3}') == (0, "16\n", "")
    assert await cli("actor", "call", "c", "box") == (0, "<box>\n", "")
    assert as_json(await cli("-o", "json", "actor", "call", "c", "incr")) == {"output": 17}


async def test_call_with_a_used_request_id_prints_the_first_value(cli: Cli) -> None:
    once = ("actor", "call", "c", "incr", "--request-id", "once")
    assert [await cli(*once), await cli(*once)] == [(0, "6\n", "")] * 2
    assert await cli("actor", "query", "c", "read") == (0, "6\n", "")


async def test_query_calls_readonly_methods_alone(cli: Cli) -> None:
    assert await cli("actor", "query", "c", "read", "1") == (0, "6\n", "")
    assert await cli("actor", "query", "c", "read", "--input", '{"plus": 2}', "--min-revision", "1") == (0, "7\n", "")
    assert as_json(await cli("-o", "json", "actor", "query", "c", "read")) == {"output": 5}
    code, out, err = await cli("actor", "query", "c", "incr")
    assert (code, out) == (1, "")
    assert "perdure.NotReadonly" in err
    assert as_json(await cli("-o", "json", "actor", "calls", "c")) == []


async def test_failed_call_exits_with_1_and_shows_the_remote_traceback(cli: Cli) -> None:
    code, out, err = await cli("actor", "call", "c", "fail")
    assert (code, out) == (1, "")
    assert err.startswith("perdure: fail of actor 'c' failed: builtins.ValueError: no good\n")
    assert "in fail\n    raise ValueError" in err
    assert "root.py" not in err
    code, _, err = await cli("actor", "call", "c", "incr", "--expected-revision", "7")
    assert code == 1
    assert "perdure.ActorRevisionMismatch" in err


async def test_call_that_does_not_end_can_be_looked_at_and_dropped(cli: Cli, client: perdure.Client) -> None:
    assert await cli("actor", "call", "c", "incr", "--request-id", "before") == (0, "6\n", "")
    assert await cli("actor", "call", "c", "wait", "--request-id", "stuck", "--no-wait") == (0, "stuck\n", "")
    code, out, err = await cli("actor", "call", "c", "incr", "--request-id", "after", "--timeout", "0")
    assert (code, out) == (4, "")
    assert "'after' of actor 'c' had no result in time; it goes on" in err
    while "RUNNING" not in (await cli("actor", "calls", "c", "--pending"))[1]:
        await asyncio.sleep(0.01)
    head, *rows = (await cli("actor", "calls", "c"))[1].splitlines()
    assert head.split() == ["status", "call", "method", "attempts", "started", "took", "why"]
    assert [row.split()[:2] for row in rows] == [["SUCCESSFUL", "before"], ["RUNNING", "stuck"], ["WAITING", "after"]]
    pending = as_json(await cli("-o", "json", "actor", "calls", "c", "--pending"))
    assert [(call["call_id"], call["method"]) for call in pending] == [("stuck", "wait"), ("after", "incr")]
    assert await cli("actor", "drop", "c", "stuck") == (0, "dropped stuck\n", "")
    assert await client.actors.output("c", "after") == 7
    assert as_json(await cli("-o", "json", "actor", "drop", "c", "stuck")) == {"dropped": False}
    assert "nothing to drop" in (await cli("actor", "drop", "c", "nothing"))[1]


async def test_actors_are_listed_and_shown(cli: Cli, client: perdure.Client, counter: Any) -> None:
    await client.actors.get_or_create(counter.definition, "labelled", labels={"team": "pay"}, waits=True)
    code, out, _ = await cli("actor", "list")
    assert code == 0
    head, *rows = out.splitlines()
    assert head.split() == ["actor", "status", "class", "created"]
    assert [row.split()[:2] for row in rows] == [["labelled", "READY"], ["c", "READY"]]
    found = as_json(await cli("-o", "json", "actor", "list", "--filter", 'labels.team = "pay"'))
    assert [info["actor_id"] for info in found] == ["labelled"]
    assert len(as_json(await cli("-o", "json", "actor", "list", "--limit", "1"))) == 1
    code, out, _ = await cli("actor", "get", "labelled")
    assert code == 0
    assert out.startswith("labelled  READY  ")
    assert "revision 1  pending calls 0" in out
    assert "readonly: read\n" in out
    assert "label team: pay\n" in out
    state = as_json(await cli("-o", "json", "actor", "get", "c"))
    assert (state["status"], state["revision"], state["readonly_methods"]) == ("READY", 1, ["read"])
    assert "labelled" not in (await cli("list"))[1]


async def test_deleted_actor_is_gone(cli: Cli) -> None:
    assert await cli("actor", "delete", "c") == (0, "deleted c\n", "")
    for command in (("get", "c"), ("call", "c", "incr"), ("query", "c", "read"), ("calls", "c"), ("delete", "c")):
        code, out, err = await cli("actor", *command)
        assert (code, out) == (3, "")
        assert err.count("\n") == 1
        assert "[ACTOR_NOT_FOUND]" in err


async def test_arguments_that_are_no_json_exit_with_2(cli: Cli) -> None:
    for arguments, text in [
        (("incr", "ten"), "argument 1 is not JSON"),
        (("incr", "1", "{"), "argument 2 is not JSON"),
        (("incr", "--input", "[1]"), "--input is a JSON object"),
        (("incr", "--input", "{"), "--input is not JSON"),
    ]:
        code, out, err = await cli("actor", "call", "c", *arguments)
        assert (code, out) == (2, "")
        assert text in err
