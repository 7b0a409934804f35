"""Checks the site: its programs run, its links lead somewhere, its tables are complete, and it builds."""

from __future__ import annotations

import asyncio
import base64
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

import perdure
import perdure.workflow
from perdure import errors, registry, testing
from perdure.cli.root import root
from perdure.service.app import running_server
from perdure.service.common.settings import Settings
from perdure.v1 import errors_pb2

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_PYTEST = "<!-- run by pytest -->"
_LINK = re.compile(r"\]\(([^)\s]+)\)")


HTTP = Settings(listen="127.0.0.1:0", http_listen="127.0.0.1:0", storage="memory:", executor="local")


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


# ------------------------------------------------------------------------------ programs


def program(page: Path) -> str:
    """The Python blocks of a page in a row, each at its lines, without those for pytest."""
    text = page.read_text()
    lines = [""] * (text.count("\n") + 1)
    for block in _BLOCK.finditer(text):
        before = text[: block.start()].rstrip("\n").rpartition("\n")[2]
        if before == _PYTEST:
            continue
        first = text.count("\n", 0, block.start("code"))
        for number, line in enumerate(block["code"].splitlines()):
            lines[first + number] = line
    return "\n".join(lines)


def runnable() -> list[Path]:
    return [page for page in PAGES if program(page).strip()]


def run_page(page: Path) -> None:
    """As a script: what it defines belongs to `__main__` and so travels with its code."""
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(page)}
    try:
        exec(compile(program(page), str(page), "exec"), names)
    finally:
        for value in names.values():
            if isinstance(value, perdure.SyncClient):
                value.close()


@pytest.mark.parametrize("page", runnable(), ids=name_of)
async def test_the_programs_of_a_page_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    async with testing.engine(threads=8) as engine:
        monkeypatch.setenv("PERDURE_ADDRESS", engine.address)
        await asyncio.to_thread(run_page, page)


def test_the_tests_of_the_page_about_testing_pass(tmp_path: Path) -> None:
    text = (DOCS / "how-to/testing.md").read_text()
    (code,) = [block["code"] for block in _BLOCK.finditer(text) if text[: block.start()].endswith(f"{_PYTEST}\n")]
    (tmp_path / "test_reminders.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.ray
@pytest.mark.usefixtures("own_ray")
@pytest.mark.parametrize("page", ["how-to/start.md", "concepts/ray.md", "migrating-from-ray-workflows.md"])
def test_the_programs_of_pages_about_ray_run_on_ray(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from perdure.workflow.engines import local_address

    monkeypatch.setenv("PERDURE_ADDRESS", local_address())
    monkeypatch.chdir(tmp_path)
    run_page(DOCS / page)


def test_most_pages_of_concepts_have_programs() -> None:
    concepts = [page for page in runnable() if page.parent.name == "concepts"]
    assert len(concepts) >= 10


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions that the pages about other languages call."""
    monkeypatch.setattr(registry, "_registered", {})

    def add(x: int, y: int) -> int:
        return x + y

    def mul(x: int, y: int) -> int:
        return x * y

    perdure.task(name="add")(add)
    perdure.task(name="mul")(mul)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_first_call_of_other_languages_runs(sums: None, tmp_path: Path) -> None:
    text = (DOCS / "how-to/other-languages.md").read_text()
    call = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0]
    assert call.count("\n") == 1
    async with running_server(HTTP) as server:
        assert json.loads(await in_shell(call.replace("127.0.0.1:7374", server.http_address), tmp_path))["output"] == 5


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_functions_of_their_page_run_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    text = (DOCS / "how-to/functions.md").read_text()
    (module,) = [block["code"] for block in _BLOCK.finditer(text)]
    (call,) = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "shop.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("shop")
    async with running_server(HTTP) as server, perdure.Client(server.address) as client:
        said = json.loads(await in_shell(call.replace("127.0.0.1:7374", server.http_address), tmp_path))
        assert said["output"] == {"item": "tea", "price": 20.0, "due": "2026-12-24"}
        assert [info.name async for info in client.functions()] == ["shop.charge", "shop.order"]
        order = {"name": "shop.order", "arguments": {"order": said["output"]}, "workflow_id": "order-7"}
        start = f"curl -s --json '{json.dumps(order)}' http://{server.http_address}/v1/runs"
        assert json.loads(await in_shell(start, tmp_path))["status"] == "RUNNING"
        await client.send_event("order-7", "approval", "yes")
        assert await client.handle("order-7").output() == "tea for 18.00 on 2026-12-24"


def test_programs_of_clients_are_their_examples() -> None:
    """Those are compiled by the tests of the clients."""
    text = (DOCS / "how-to/other-languages.md").read_text()
    for language, example in (("go", "go/examples/hello/main.go"), ("typescript", "typescript/examples/hello.ts")):
        (program,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        assert program == (ROOT / "clients" / example).read_text()


async def test_the_calls_of_other_languages_run(sums: None, tmp_path: Path) -> None:
    """Those of `buf curl`, which sends what any client sends."""
    text = (DOCS / "how-to/other-languages.md").read_text()
    (request,) = re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    _, single, calls, streamed = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "sums.json").write_text(request)
    async with testing.engine() as engine:
        out = await in_shell(single.replace("127.0.0.1:7373", engine.address), tmp_path)
        assert '"data": "NQ=="' in out
        assert '"argumentsSchema"' in out
        out = await in_shell(calls.replace("127.0.0.1:7373", engine.address), tmp_path)
        assert '"started": true' in out
        assert '"done": true' in out
        assert await engine.client.handle("sums-1").output() == 20
        answer = json.loads(await in_shell(streamed.replace("127.0.0.1:7373", engine.address), tmp_path))["answers"][0]
        assert (answer["token"], answer["answer"]["started"]) == ("7", True)
        assert answer["answer"]["outcome"]["output"]["data"] == "Mw=="


async def test_the_calls_of_actors_from_other_languages_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (DOCS / "virtual-actors.md").read_text()
    (module,) = [block["code"] for block in _BLOCK.finditer(text) if block["code"].startswith("# counters.py")]
    (calls,) = [found for found in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S) if found.startswith("buf")]
    (tmp_path / "counters.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_registered", {})
    importlib.import_module("counters")
    async with testing.engine() as engine:
        out = await in_shell(calls.replace("127.0.0.1:7373", engine.address), tmp_path)
        assert '"created": true' in out
        assert '"data": "NDI="' in out
        assert await engine.client.actors.call("plain-1", "read") == 42


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_calls_over_http_run(sums: None, tmp_path: Path) -> None:
    text = (DOCS / "how-to/http.md").read_text()
    (told,) = re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    async with running_server(HTTP) as server:
        short, run, waiting, event, output, status, watch, error, document = [
            await in_shell(calls.replace("127.0.0.1:7374", server.http_address), tmp_path)
            for calls in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        ]
    first, again = short.replace("}{", "}\n{").splitlines()
    assert json.loads(first) == json.loads(again)
    assert json.loads(first)["output"] == 5
    assert json.loads(run)["outcome"]["output"]["data"] == base64.b64encode(b"5").decode()
    assert json.loads(waiting)["started"] is True
    assert json.loads(event)["sequence"]
    assert json.loads(output)["done"] is True
    assert base64.b64decode(json.loads(output)["outcome"]["output"]["data"]) == b'{"by": "Ana"}'
    assert json.loads(status)["workflow"]["status"] == "WORKFLOW_STATUS_SUCCESSFUL"
    *messages, end = [json.loads(line[line.index("{") :]) for line in watch.splitlines() if "{" in line]
    assert [event["workflow"]["status"] for event in messages[-1]["events"]] == ["WORKFLOW_STATUS_SUCCESSFUL"]
    assert end == {}
    answer = json.loads(error)
    answer["details"][0]["value"] = "..."
    assert answer == json.loads(told)
    assert json.loads(document)["openapi"] == "3.1.0"


async def in_shell(commands: str, folder: Path) -> str:
    """What they print."""
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-euc", commands),
        cwd=folder,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await shell.communicate()
    assert shell.returncode == 0, error.decode()
    return out.decode()


# ------------------------------------------------------------------------------ generated parts


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_part_is_on_a_page_and_every_mark_has_a_part(generate: ModuleType) -> None:
    marks = [name for page in PAGES for name in re.findall(r"^<!-- generate: (\w+) -->$", page.read_text(), re.M)]
    assert sorted(marks) == sorted(generate.TEXTS)


def test_the_settings_are_complete(generate: ModuleType) -> None:
    rows = generate.on_page_markdown("<!-- generate: settings -->").splitlines()[2:]
    assert len(rows) == len(fields(Settings))
    for row, knob in zip(rows, fields(Settings), strict=True):
        assert f"`PERDURE_{knob.name.upper()}`" in row
        flag = knob.metadata["flag"] or knob.name.replace("_", "-")
        assert f"`--{flag}`" in row
        assert f"`{knob.default}`" in row or knob.default == ""


def test_the_errors_are_complete(generate: ModuleType) -> None:
    rows = generate.errors().splitlines()[2:]
    reasons = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert {row.split("`")[1] for row in rows} == reasons == errors.BY_REASON.keys()
    for row in rows:
        kind = errors.BY_REASON[row.split("`")[1]]
        assert f"`{kind.__name__}`" in row
        assert f"`{kind.status.name}`" in row
        assert re.search(r"[.;] \w", row.split("|")[4]), f"what is to be done about it? {row}"


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    for inner in getattr(command, "commands", {}).values():
        yield from commands(inner, f"{path} {inner.name}")


@pytest.mark.parametrize(("path", "command"), list(commands(root, "perdure")), ids=lambda given: str(given))
def test_a_command_is_described_with_all_its_options(generate: ModuleType, path: str, command: click.Command) -> None:
    (text,) = re.findall(rf"^## {path}$(.*?)(?=^## |\Z)", generate.commands(), re.MULTILINE | re.DOTALL)
    for parameter in command.get_params(click.Context(command)):
        for flag in parameter.opts if isinstance(parameter, click.Option) else ():
            assert flag in text


def test_the_grpc_page_has_every_method_message_and_comment(generate: ModuleType) -> None:
    text = generate.grpc()
    for proto in (ROOT / "protos/perdure/v1").glob("*.proto"):
        if proto.name in ("worker_service.proto", "errors.proto"):
            continue
        source = proto.read_text()
        for method in re.findall(r"^ +rpc (\w+)\(", source, re.MULTILINE):
            assert re.search(rf"^### {method} \{{ #.*\n\n.* → .*\n\n\w", text, re.MULTILINE), "it has no comment"
        for found in re.findall(r"^(?:message|enum) (\w+)", source, re.MULTILINE):
            assert f"### {found}\n" in text
        for found in re.findall(r"^ +(?:optional |repeated )?[\w.<>, ]+ (\w+) = \d+", source, re.MULTILINE):
            assert f"| `{found}` |" in text
    assert "WorkerService" not in text
    assert not re.search(r"\| +\|$", text, re.MULTILINE), "something has no comment"


@pytest.mark.parametrize(
    ("page", "module"), [("reference/perdure.md", "perdure"), ("reference/workflow.md", "perdure.workflow")]
)
def test_every_public_name_is_in_the_reference(page: str, module: str) -> None:
    text = (DOCS / page).read_text()
    missing = [name for name in vars(sys.modules[module])["__all__"] if not re.search(rf"\b{name}\b", text)]
    assert not missing


# ------------------------------------------------------------------------------ migrating

RAY_WORKFLOW = """
    init run run_async resume resume_async resume_all get_output get_output_async get_status get_metadata list_all
    cancel delete sleep wait_for_event continuation options event_listener exceptions http_event_provider
    EventListener TimerListener HTTPListener HTTPEventProvider WorkflowStatus WorkflowError WorkflowExecutionError
    WorkflowCancellationError WorkflowNotFoundError WorkflowNotResumableError WorkflowStillActiveError
    WorkflowRunningError WorkflowTaskNotRecoverableError WorkflowEventHandleError EventListenerType
    PENDING RUNNING RESUMABLE SUCCESSFUL FAILED CANCELED create wait
"""
"""What `ray.workflow` of Ray 2.0 to 2.47 has, in it and in its public submodules."""


def test_every_name_of_ray_workflow_is_mapped_and_exists() -> None:
    text = (DOCS / "migrating-from-ray-workflows.md").read_text()
    package = perdure.workflow
    places = [package, package.event_listener, package.exceptions, package.http_event_provider]
    for name in RAY_WORKFLOW.split():
        assert re.search(rf"`[^`]*\b{name}\b[^`]*`", text), f"{name} is not in the page"
        assert any(hasattr(place, name) for place in places), f"{name} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    known = dict(commands(root, "perdure"))
    text = page.read_text()
    lines = re.findall(r"^(?:ray job submit .*-- )?(perdure(?: .*)?)$", text, re.MULTILINE)
    for line in (*lines, *re.findall(r"`(perdure [^`]*)`", text)):
        words = line.replace("\\", " ").split(" #")[0].split()
        path = next(" ".join(words[:end]) for end in (3, 2, 1) if " ".join(words[:end]) in known)
        command = known[path]
        assert path != "perdure" or words[1:2] == ["--help"], f"there is no command {line!r}"
        flags = {flag for option in command.get_params(click.Context(command)) for flag in option.opts} | {"--help"}
        assert {word for word in words if word.startswith("--") and word != "--"} <= flags, line


# ------------------------------------------------------------------------------ links, site


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    for link in _LINK.findall(re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)):
        path = link.partition("#")[0]
        if path and "://" not in link:
            assert (page.parent / path).is_file(), f"{name_of(page)} links to {link}"


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"^ +- (?:.*: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert {name_of(page) for page in PAGES} == named


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    """With all anchors of links, and every name of the reference."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    page = (tmp_path / "site/reference/perdure.html").read_text()
    for name in perdure.__all__:
        assert f'id="perdure.{name}"' in page


def environment() -> dict[str, str]:
    """With the tools that are beside this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"NO_MKDOCS_2_WARNING": "1", "PATH": path}
