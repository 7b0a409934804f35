"""The API by the Connect protocol: the same answers and the same errors as over gRPC."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from google.protobuf import json_format, message_factory

from integration.connect_calls import RUNS, Web, details_of, details_over_grpc, path_of, recorded, serving
from integration.wire_calls import an_event, event_node, graph, public_methods, run_request, sum_of
from patience import PATIENCE_S
from perdure.service.api.runs import RunCalls
from perdure.service.common import limits
from perdure.service.common.repeat import Repeat
from perdure.service.http.connect.codecs import BYTES_AT_ONCE
from perdure.service.kernel import Kernel
from perdure.v1 import workflow_service_pb2 as pb
from services import free_port

UNARY = [method for method in public_methods() if not method.client_streaming and not method.server_streaming]
STATUS, OUTPUT = f"{RUNS}/GetStatus", f"{RUNS}/GetOutput"
INFO = "SystemService/GetSystemInfo"
PROTO = "application/proto"


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with serving() as web:
        yield web


def as_json(message: Any) -> Any:
    return json_format.MessageToDict(message)


# ------------------------------------------------------------------------------ as over gRPC


@pytest.mark.parametrize("method", UNARY, ids=lambda method: method.name)
async def test_every_method_answers_as_over_grpc(web: Web, method: Any) -> None:
    """To a request without any fields: the same value, or the same error with the same details."""
    answers = {
        "json": await web.post(path_of(method), {}),
        "proto": await web.post(path_of(method), b"", PROTO),
    }
    over_grpc = web.stubs.raw.unary_unary(f"/perdure.v1.{path_of(method)}")(b"")
    if await over_grpc.code() is grpc.StatusCode.OK:
        kind = message_factory.GetMessageClass(method.output_type)
        expected = kind.FromString(await over_grpc)
        assert json_format.Parse(answers["json"].body, kind()) == expected
        assert kind.FromString(answers["proto"].body) == expected
        for form, answer in answers.items():
            assert (answer.status, answer.headers["Content-Type"]) == (200, f"application/{form}")
        return
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await over_grpc
    for answer in answers.values():
        assert (answer.status, answer.json["code"]) == (400, caught.value.code().name.lower())
        assert answer.json["message"] == caught.value.details()
        assert details_of(answer.json) == details_over_grpc(caught.value)
        assert answer.headers["Content-Type"].startswith("application/json")


async def test_a_run_from_its_start_to_its_output(web: Web) -> None:
    started = await web.post(f"{RUNS}/Run", as_json(run_request(sum_of(2, 3))))
    assert (started.status, started.json["started"]) == (200, True)
    answer = await web.post(OUTPUT, {"workflowId": "w", "wait": "20s"})
    assert (answer.json["done"], answer.json["status"]) == (True, "WORKFLOW_STATUS_SUCCESSFUL")
    assert base64.b64decode(answer.json["outcome"]["output"]["data"]) == b"5"


async def test_an_event_by_both_ports_is_one(web: Web) -> None:
    await web.stubs.workflows.Run(run_request(graph(event_node("a", "k"))))
    await web.stubs.workflows.SendEvent(an_event())
    answer = await web.post(f"{RUNS}/SendEvent", as_json(an_event()))
    assert answer.json["duplicate"] is True


async def test_names_of_fields_may_be_those_of_the_proto(web: Web) -> None:
    assert (await web.post(STATUS, {"workflow_id": "nobody"})).refusal[2] == "WORKFLOW_NOT_FOUND"


async def test_large_messages_come_and_go(web: Web) -> None:
    """They are read and written in threads."""
    nodes = [event_node(f"n{number}", f"k{number}") for number in range(600)]
    request = as_json(run_request(graph(*nodes)))
    assert len(json.dumps(request)) > BYTES_AT_ONCE
    assert (await web.post(f"{RUNS}/Run", request)).json["started"] is True
    answer = await web.post(f"{RUNS}/ListTasks", {"workflowId": "w", "pageSize": 600})
    assert len(answer.body) > BYTES_AT_ONCE
    assert {task["taskId"] for task in answer.json["tasks"]} == {f"n{number}" for number in range(600)}


@pytest.mark.parametrize("kind", [RuntimeError, ConnectionResetError, TimeoutError])
async def test_a_bug_is_told_by_its_id_only(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_self: Any, _request: Any, _caller: Any) -> None:
        raise kind("secret")

    monkeypatch.setattr(RunCalls, "status", broken)
    async with serving() as web:
        answer = await web.post(STATUS, {"workflowId": "w"})
    status, code, reason, fields = answer.refusal
    assert (status, code, reason) == (500, "internal", "INTERNAL")
    assert b"secret" not in answer.body
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert (vars(record)["error_id"], vars(record)["method"]) == (fields["error_id"], f"/perdure.v1.{STATUS}")


async def test_values_of_a_megabyte(web: Web) -> None:
    event = an_event()
    event.payload.encoding, event.payload.data = "binary/plain", bytes(limits.INLINE_PAYLOAD_BYTES_MAX)
    await web.stubs.workflows.Run(run_request(graph(event_node("a", "k"))))
    assert (await web.post(f"{RUNS}/SendEvent", as_json(event))).status == 200
    answer = await web.post(OUTPUT, {"workflowId": "w", "wait": "20s"}, headers={"Accept-Encoding": "gzip"})
    output = json.loads(gzip.decompress(answer.body))["outcome"]["output"]
    assert base64.b64decode(output["data"]) == event.payload.data
    event.payload.data += b"1"
    assert (await web.post(f"{RUNS}/SendEvent", as_json(event))).refusal[2] == "PAYLOAD_TOO_LARGE"


# ------------------------------------------------------------------------------ callers


async def test_the_caller_is_known_by_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(RunCalls, "status", recorded(calls, pb.GetStatusResponse()))
    async with serving() as web:
        await web.post(STATUS, {})
        again = {"Perdure-Previous-Attempts": "1", "Perdure-Asked-Ms-Ago": "70", "Connect-Timeout-Ms": "90000000"}
        assert (await web.post(STATUS, {}, headers=again)).status == 200
    assert calls[0] == (None, None)
    assert 80_000 < calls[1][0] <= 90_000
    assert calls[1][1] == Repeat(70, 70)


@pytest.mark.parametrize("timeout", ["soon", "-1", "1.5", "", "1" * 11, "²"])
async def test_a_timeout_that_is_no_number(web: Web, timeout: str) -> None:
    assert (await web.post(STATUS, {}, headers={"Connect-Timeout-Ms": timeout})).wrong_field == "Connect-Timeout-Ms"


class Endless:
    """A call of `api` that ends only when it is cancelled."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ended = asyncio.Event()

    async def call(self, _request: Any, _caller: Any) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Endless:
    """In place of GetStatus."""
    endless = Endless()
    monkeypatch.setattr(RunCalls, "status", lambda _self, request, caller: endless.call(request, caller))
    return endless


async def test_a_call_ends_at_its_deadline(endless: Endless) -> None:
    async with serving() as web:
        answer = await web.post(STATUS, {}, headers={"Connect-Timeout-Ms": "50"})
        assert (answer.status, answer.json["code"]) == (504, "deadline_exceeded")
        assert "details" not in answer.json
        assert endless.ended.is_set()


async def test_a_client_that_hangs_up_ends_its_call(endless: Endless, caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as web:
        asked = asyncio.ensure_future(web.post(STATUS, {}))
        await asyncio.wait_for(endless.began.wait(), PATIENCE_S)
        asked.cancel()
        await asyncio.wait_for(endless.ended.wait(), PATIENCE_S)
        assert (await web.post(INFO, {})).status == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info] == []


async def test_draining(web: Web) -> None:
    await web.server.drain()
    answer = await web.post(STATUS, {"workflowId": "w"})
    assert answer.refusal[:3] == (503, "unavailable", "DRAINING")
    assert answer.headers["Retry-After"] == "1"
    assert [kind for kind, _ in details_of(answer.json)] == ["google.rpc.ErrorInfo", "google.rpc.RetryInfo"]
    assert (await web.post(INFO, {})).status == 200


async def test_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    start = Kernel.start
    told = []

    async def asked_before(self: Kernel, **given: Any) -> None:
        async with aiohttp.ClientSession(f"http://{address}") as session:
            for method in (STATUS, INFO):
                async with session.post(f"/perdure.v1.{method}", json={}) as answer:
                    told.append((answer.status, (await answer.json()).get("code")))
        await start(self, **given)

    monkeypatch.setattr(Kernel, "start", asked_before)
    async with serving(address) as web:
        assert told == [(503, "unavailable"), (200, None)]
        assert (await web.post(STATUS, {"workflowId": "w"})).status == 404
