"""The API by the Connect protocol: the same answers and the same errors as over gRPC."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import grpc
import grpc.aio
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pb2 import MethodOptions

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
NEEDS_GRPC = [method for method in public_methods() if method.client_streaming]
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


async def test_a_bug_is_told_by_its_id_only(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_self: Any, _request: Any, _caller: Any) -> None:
        raise RuntimeError("secret")

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


# ------------------------------------------------------------------------------ wrong requests


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"workflowId": "w", "color": "red"}, "color"),
        ({"source": {"spec": {"nodes": [{}, {"task": {"fun": {}}}]}}}, "source.spec.nodes[1].task.fun"),
        ({"inputs": {"a": {"encodin": "json/plain"}}}, "inputs['a'].encodin"),
        ({"inputs": {"a": {"data": "{not base64}"}}}, "inputs['a'].data"),
        ({"workflowId": "v", "workflow_id": "w"}, "workflow_id"),
        ({"source": []}, "source"),
        ({"source": {"spec": {"nodes": ["a"]}}}, "source.spec.nodes[0]"),
        ({"metadata": {"a": float("nan")}}, "body"),
        ({"\ud800": 1}, "\\ud800"),
    ],
    ids=str,
)
async def test_the_wrong_field_is_named(web: Web, request_: Any, field: str) -> None:
    assert (await web.post(f"{RUNS}/Run", request_)).wrong_field == field


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"null",
        b'{"workflowId": 7}',
        b'{"workflowId": "w", "workflowId": "v"}',
        b'{"workflowId": "\\ud800"}',
        b'{"workflowId": "\xff"}',
        b'{"priority": 1e400}',
        b'{"priority": %b}' % (b"9" * 5_000),
        b'{"idReusePolicy": "NEVER"}',
        b'{"wait": "-"}',
        b'{"metadata": NaN}',
        b'{"inputs": [], "labels": 7}',
        b"[" * 100_000,
        b'{"metadata":' + b'{"a":' * 100_000,
        b'{"metadata":' + b'{"a":' * 300 + b"1" + b"}" * 301,
    ],
    ids=lambda body: body[:40],
)
async def test_what_is_no_request_is_the_callers_fault(web: Web, body: bytes) -> None:
    status, code, reason, _ = (await web.post(f"{RUNS}/Run", body)).refusal
    assert (status, code, reason) == (400, "invalid_argument", "INVALID_FIELD")


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x02\xff\xfe", b"\x22\x06" * 500], ids=repr)
async def test_bytes_that_are_no_message(web: Web, body: bytes) -> None:
    assert (await web.post(f"{RUNS}/Run", body, PROTO)).wrong_field == ""


@pytest.mark.parametrize(
    "kind", ["text/plain", "", "multipart/form-data", "application/json; charset=latin-1", "application/connect+json"]
)
async def test_other_content_types(web: Web, kind: str) -> None:
    answer = await web.post(STATUS, {}, kind)
    assert (answer.status, answer.headers["Accept-Post"]) == (415, "application/json, application/proto")
    assert (await web.post(INFO, {}, "application/json; charset=UTF-8")).status == 200


async def test_other_methods_and_paths(web: Web) -> None:
    for verb, method, allowed in (("GET", "Run", "POST"), ("PUT", "GetStatus", "GET, POST"), ("GET", "Watch", "POST")):
        answer = await web.ask(verb, f"/perdure.v1.{RUNS}/{method}")
        assert (answer.status, answer.headers["Allow"]) == (405, allowed)
    for method in (f"{RUNS}/Nothing", "NoService/Run", "WorkerService/FetchValues"):
        answer = await web.post(method, {})
        assert (answer.status, answer.json["code"]) == (404, "unimplemented")
    assert (
        await web.post(STATUS, {}, headers={"Connect-Protocol-Version": "2"})
    ).wrong_field == "Connect-Protocol-Version"
    assert (await web.post(INFO, {}, headers={"Connect-Protocol-Version": "1"})).status == 200


@pytest.mark.parametrize("method", NEEDS_GRPC, ids=lambda method: method.name)
async def test_methods_that_take_streams_need_grpc(web: Web, method: Any) -> None:
    answer = await web.post(path_of(method), {})
    assert (answer.status, answer.json["code"]) == (505 if method.server_streaming else 415, "unimplemented")
    assert "call it over gRPC" in answer.json["message"]


# ------------------------------------------------------------------------------ sizes, compression


async def test_a_body_has_at_most_the_size_of_a_message(web: Web) -> None:
    async def too_large() -> AsyncIterator[bytes]:  # its length is not told
        for _ in range(9):
            yield bytes(1024 * 1024)

    told = await web.post(STATUS, bytes(limits.MESSAGE_BYTES_MAX + 1))
    untold = await web.ask("POST", f"/perdure.v1.{STATUS}", data=too_large(), headers={"Content-Type": PROTO})
    for answer in (told, untold):
        assert answer.refusal[:3] == (400, "invalid_argument", "PAYLOAD_TOO_LARGE")
        assert answer.headers["Connection"] == "close"


async def test_compressed_requests(web: Web) -> None:
    body = gzip.compress(b'{"workflowId": "nobody"}')
    assert (await web.post(STATUS, body, headers={"Content-Encoding": "gzip"})).refusal[2] == "WORKFLOW_NOT_FOUND"
    answer = await web.post(STATUS, body, headers={"Content-Encoding": "br"})
    assert (answer.status, answer.json["code"]) == (501, "unimplemented")
    for broken in (body[:-1], body + b"x", b"{}"):
        assert (await web.post(STATUS, broken, headers={"Content-Encoding": "gzip"})).wrong_field == "body"


async def test_a_gzip_bomb_is_not_unpacked(web: Web) -> None:
    bomb = gzip.compress(bytes(256 * 1024 * 1024), 1)
    tracemalloc.start()
    try:
        answer = await web.post(STATUS, bomb, PROTO, {"Content-Encoding": "gzip"})
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert answer.refusal[2] == "PAYLOAD_TOO_LARGE"


@pytest.mark.parametrize(
    ("accepted", "is_packed"), [("gzip", True), ("br, gzip;q=0.5", True), ("gzip;q=0", False), ("x-gzip-not", False)]
)
async def test_large_answers_are_compressed_if_that_is_accepted(web: Web, accepted: str, is_packed: bool) -> None:
    nodes = [event_node(f"n{number}", f"k{number}") for number in range(400)]
    await web.stubs.workflows.Run(run_request(graph(*nodes)))
    headers = {"Accept-Encoding": accepted}
    answer = await web.post(f"{RUNS}/ListTasks", {"workflowId": "w", "pageSize": 400}, headers=headers)
    assert answer.headers.get("Content-Encoding") == ("gzip" if is_packed else None)
    body = gzip.decompress(answer.body) if is_packed else answer.body
    assert len(json.loads(body)["tasks"]) == 400
    small = await web.post(INFO, b"", PROTO, headers)
    assert "Content-Encoding" not in small.headers


# ------------------------------------------------------------------------------ GET


async def got(web: Web, method: str, query: str) -> Any:
    return await web.ask("GET", f"/perdure.v1.{method}?{query}")


async def test_reads_by_get(web: Web) -> None:
    await web.stubs.workflows.Run(run_request(sum_of(2, 3), "w/ü ?&=+"))
    request = pb.GetOutputRequest(workflow_id="w/ü ?&=+")
    request.wait.seconds = 20
    text, data = json_format.MessageToJson(request).encode(), request.SerializeToString()
    safe = base64.urlsafe_b64encode
    for query in (
        f"encoding=json&message={quote(text)}",
        f"encoding=json&connect=v1&base64=1&message={quote(safe(text))}",
        f"encoding=json&compression=gzip&base64=1&message={safe(gzip.compress(text)).decode().rstrip('=')}",
    ):
        answer = await got(web, OUTPUT, query)
        assert (answer.status, answer.json["done"]) == (200, True)
    answer = await got(web, OUTPUT, f"encoding=proto&message={quote(data)}")
    assert pb.GetOutputResponse.FromString(answer.body).done
    assert answer.headers["Content-Type"] == PROTO


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "encoding"),
        ("encoding=xml&message=a", "encoding"),
        ("encoding=json", "message"),
        ("encoding=json&message={}&connect=v2", "connect"),
        ("encoding=json&message=%ff", "body"),
        ("encoding=json&base64=1&message=!", "message"),
        ("encoding=json&compression=gzip&message={}", "body"),
    ],
)
async def test_wrong_queries(web: Web, query: str, field: str) -> None:
    assert (await got(web, OUTPUT, query)).wrong_field == field


@pytest.mark.parametrize("method", UNARY, ids=lambda method: method.name)
async def test_methods_without_side_effects_and_no_others_are_read_by_get(web: Web, method: Any) -> None:
    answer = await got(web, path_of(method), "encoding=json&message={}")
    is_safe = method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    assert answer.status in ((200, 400) if is_safe else (405,))


async def test_an_event_by_both_ports_is_one(web: Web) -> None:
    await web.stubs.workflows.Run(run_request(graph(event_node("a", "k"))))
    await web.stubs.workflows.SendEvent(an_event())
    answer = await web.post(f"{RUNS}/SendEvent", as_json(an_event()))
    assert answer.json["duplicate"] is True
