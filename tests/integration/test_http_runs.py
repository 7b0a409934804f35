"""Runs of registered functions over HTTP, with plain JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

import perdure
from integration.engine_settings import settings_on
from perdure import registry
from perdure.service.app import running_server

Web = Any


def add(x: int, y: int = 1) -> int:
    return x + y


def fail(text: str) -> None:
    raise ValueError(text)


def large(size: int) -> str:
    return "x" * size


def waits() -> Any:
    return perdure.event("go")


def thing() -> Any:
    return object


@pytest.fixture
async def web(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Web]:
    monkeypatch.setattr(registry, "_registered", {})
    for function in (add, fail, large, waits, thing):
        perdure.task(name=function.__name__, max_retries=0)(function)
    async with (
        running_server(settings_on("memory:", http_listen="127.0.0.1:0")) as server,
        aiohttp.ClientSession(f"http://{server.http_address}") as session,
    ):
        yield session


async def post(web: Web, body: Any, status: int = 200, **headers: str) -> Any:
    data = body if isinstance(body, (str, bytes)) else json.dumps(body)
    async with web.post("/v1/runs", data=data, headers={"Content-Type": "application/json", **headers}) as answer:
        said = await answer.json()
        assert answer.status == status, said
        return said


async def get(web: Web, path: str, status: int = 200) -> Any:
    async with web.get(path) as answer:
        said = await answer.json()
        assert answer.status == status, said
        return said


async def test_a_function_runs_and_its_output_is_in_the_answer(web: Web) -> None:
    said = await post(web, {"name": "add", "arguments": {"x": 2, "y": 3}, "workflow_id": "sum", "wait": "20s"})
    assert said == {"workflow_id": "sum", "run_id": said["run_id"], "status": "SUCCESSFUL", "output": 5}
    assert await get(web, "/v1/runs/sum") == said


async def test_a_run_that_goes_on_is_looked_at_later(web: Web) -> None:
    said = await post(web, {"name": "waits", "workflow_id": "w", "labels": {"team": "a"}}, 202)
    assert said["status"] == "RUNNING"
    assert (await get(web, "/v1/runs/w?wait=0.01s", 202))["run_id"] == said["run_id"]
    event = json.dumps({"event_key": "go", "event_payload": {"by": "Ana"}})
    async with web.post("/event/send_event/w", data=event, headers={"Content-Type": "application/json"}) as sent:
        assert sent.status == 200
    assert (await get(web, "/v1/runs/w?wait=20s"))["output"] == {"by": "Ana"}


async def test_a_failure_is_an_answer(web: Web) -> None:
    said = await post(web, {"name": "fail", "arguments": {"text": "no"}, "wait": 20})
    assert said["status"] == "FAILED"
    assert said["failure"] == {"type": "builtins.ValueError", "message": "no", "task_id": "fail"}


async def test_the_same_key_is_the_same_run(web: Web) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = await post(web, {"name": "add", "arguments": {"x": 1}, "wait": "20s"}, **key)
    assert await post(web, {"name": "add", "arguments": {"x": 1}, "wait": "20s"}, **key) == first
    other = await post(web, {"name": "add", "arguments": {"x": 2}, "wait": "20s"}, 400, **key)
    assert other["error"]["reason"] == "REQUEST_ID_REUSED"
    again = await post(web, {"name": "add", "arguments": {"x": 1}, "wait": "20s"})
    assert again["run_id"] != first["run_id"]


@pytest.mark.parametrize(("size", "is_inline"), [(2_000_000, True), (9_000_000, False)])
async def test_a_large_output_is_a_value_or_named(web: Web, size: int, is_inline: bool) -> None:
    said = await post(web, {"name": "large", "arguments": {"size": size}, "wait": "20s"})
    if is_inline:
        assert said["output"] == "x" * size
    else:
        assert said["output_blob"]["size_bytes"] == size + 2


async def test_an_output_that_is_no_json_comes_as_it_is(web: Web) -> None:
    said = await post(web, {"name": "thing", "wait": "20s"})
    assert said["output_payload"]["encoding"].startswith("python/pickle")


@pytest.mark.parametrize(
    ("body", "reason", "field"),
    [
        ({"name": "add", "arguments": {"x": "2"}}, "INVALID_ARGUMENTS", ""),
        ({"name": "add", "arguments": [1]}, "INVALID_FIELD", "arguments"),
        ({"name": "add", "argument": {}}, "INVALID_FIELD", "argument"),
        ({"name": 7}, "INVALID_FIELD", "name"),
        ({}, "INVALID_FIELD", "source.entrypoint.name"),
        ({"name": "add", "wait": "soon"}, "INVALID_FIELD", "wait"),
        ({"name": "add", "wait": True}, "INVALID_FIELD", "wait"),
        ({"name": "add", "wait": 1e300}, "INVALID_FIELD", "wait"),
        ({"name": "\ud800"}, "INVALID_FIELD", "name"),
        ({"name": "add", "labels": {"a": 1}}, "INVALID_FIELD", "labels"),
        ('{"name": "add", "arguments": {"x": NaN}}', "INVALID_FIELD", "arguments"),
        ("[" * 100_000, "INVALID_FIELD", "body"),
        ("[]", "INVALID_FIELD", "body"),
    ],
)
async def test_what_is_wrong_is_refused(web: Web, body: Any, reason: str, field: str) -> None:
    error = (await post(web, body, 400))["error"]
    assert error["reason"] == reason
    assert error["fields"].get("field", "") == field


async def test_an_unknown_function_or_run_is_not_found(web: Web) -> None:
    assert (await post(web, {"name": "nothing"}, 404))["error"]["reason"] == "FUNCTION_NOT_FOUND"
    assert (await get(web, "/v1/runs/nobody", 404))["error"]["reason"] == "WORKFLOW_NOT_FOUND"


async def test_a_form_of_a_foreign_page_is_refused(web: Web) -> None:
    async with web.post("/v1/runs", data='{"name": "add"}', headers={"Content-Type": "text/plain"}) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["fields"] == {"field": "Content-Type"}
