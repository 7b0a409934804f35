"""Requests by the Connect protocol: wrong ones, compressed ones, and reads by GET."""

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

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import MethodOptions

from integration.connect_calls import RUNS, Web, path_of, serving
from integration.wire_calls import event_node, graph, public_methods, run_request, sum_of
from perdure.service.common import limits
from perdure.v1 import workflow_service_pb2 as pb

UNARY = [method for method in public_methods() if not method.client_streaming and not method.server_streaming]
NEEDS_GRPC = [method for method in public_methods() if method.client_streaming]
STATUS, OUTPUT = f"{RUNS}/GetStatus", f"{RUNS}/GetOutput"
INFO = "SystemService/GetSystemInfo"
PROTO = "application/proto"


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with serving() as web:
        yield web


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


@pytest.mark.parametrize("method", [STATUS, f"{RUNS}/Watch"])
async def test_a_client_that_vanishes_leaves_no_word_in_the_log(
    web: Web, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    host, _, port = web.server.http_address.rpartition(":")
    kind = "application/json" if method == STATUS else "application/connect+json"
    head = f"POST /perdure.v1.{method} HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nExpect: 100-continue\r\n"
    for _ in range(5):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + b"Content-Length: 200\r\n\r\n{")
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"  # it waits for the body now
        writer.close()
    assert (await web.post(INFO, {})).status == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info] == []


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
