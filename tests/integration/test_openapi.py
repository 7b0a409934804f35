"""The OpenAPI document of the HTTP port: valid, complete, and true of real answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from google.protobuf import json_format
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

import perdure
from integration.connect_calls import RUNS, Web, serving
from integration.wire_calls import public_methods, run_request, sum_of
from perdure import registry


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with serving() as web:
        yield web


@pytest.fixture
async def document(web: Web) -> Any:
    answer = await web.ask("GET", "/openapi.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert (await web.ask("GET", "/openapi.json")).body == answer.body
    return answer.json


async def test_it_is_valid(document: Any) -> None:
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


async def test_it_has_every_method_with_one_request_and_one_answer(document: Any) -> None:
    unary = [method for method in public_methods() if not method.client_streaming and not method.server_streaming]
    methods = {f"/{method.containing_service.full_name}/{method.name}" for method in unary}
    assert document["paths"].keys() == methods | {"/v1/runs", "/v1/runs/{workflow_id}"}
    schemas = document["components"]["schemas"]
    for method in unary:
        call = document["paths"][f"/{method.containing_service.full_name}/{method.name}"]["post"]
        request = call["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        answer = call["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert (request, answer) == (method.input_type.full_name, method.output_type.full_name)
        assert schemas[request]["properties"].keys() == {field.json_name for field in method.input_type.fields}


async def test_real_messages_are_as_it_says(web: Web, document: Any) -> None:
    """Those that have messages, lists, maps, enums, bytes, numbers of 64 bits, durations and times."""

    def check(value: Any, name: str) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        Draft202012Validator(schema).validate(value)

    request = json_format.MessageToDict(run_request(sum_of(2, 3), wait={"seconds": 20}, labels={"a": "b"}))
    check(request, "perdure.v1.RunRequest")
    run = (await web.post(f"{RUNS}/Run", request)).json
    assert run["outcome"]["output"]["data"]
    check(run, "perdure.v1.RunResponse")
    for method in (f"{RUNS}/GetMetadata", f"{RUNS}/ListTasks", "SystemService/GetSystemInfo"):
        answer = (await web.post(method, {"workflowId": "w"} if method.startswith(RUNS) else {})).json
        assert answer
        check(answer, f"perdure.v1.{method.partition('/')[2]}Response")
    check((await web.post(f"{RUNS}/GetStatus", {"workflowId": "nobody"})).json, "connect.Error")


@dataclass
class Line:
    item: str
    count: int = 1


def ship(lines: list[Line], day: date) -> None:
    """Ship an order."""


async def test_it_has_what_functions_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    perdure.task(name="shop.ship")(ship)
    perdure.actor(name="shop.line")(Line)
    async with serving() as web:
        document = (await web.ask("GET", "/openapi.json")).json
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    (call,) = document["paths"]["/v1/runs"]["post"]["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert (call["title"], call["description"]) == ("shop.ship", "Ship an order.")
    validator = Draft202012Validator(call)
    assert validator.is_valid({"name": "shop.ship", "arguments": {"lines": [{"item": "tea"}], "day": "2026-01-02"}})
    assert not validator.is_valid({"name": "shop.ship", "arguments": {"lines": [{"count": 2}], "day": "2026-01-02"}})
    assert not validator.is_valid({"name": "shop.ship"})
