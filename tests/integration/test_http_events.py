"""Events over HTTP: what webhooks and shells send, and what they are told."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import struct
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

import perdure
from integration.engine_settings import settings_on
from perdure.service.app import RunningServer, running_server
from perdure.service.common.settings import Settings, SettingsError

pytestmark = pytest.mark.storages("sqlite")
"""Checks of the HTTP layer, made before the storage is asked."""


@perdure.task
def pair(*values: Any) -> Any:
    return list(values)


@dataclass
class Web:
    server: RunningServer
    client: perdure.Client
    session: aiohttp.ClientSession

    async def post(
        self, workflow_id: str, body: object, *, headers: dict[str, str] | None = None, query: str = ""
    ) -> tuple[int, Any]:
        """A text is sent as it is, anything else as JSON."""
        data = body if isinstance(body, str | bytes) else json.dumps(body)
        sent = io.BytesIO(data if isinstance(data, bytes) else data.encode())
        path = f"/event/send_event/{quote(workflow_id, safe='')}{query}"
        headers = {"Content-Type": "application/json"} | (headers or {})
        async with self.session.post(path, data=sent, headers=headers) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(path) as answer:
            return answer.status, await answer.json()

    async def waiting(self, workflow_id: str, *keys: str) -> perdure.Handle:
        keys = keys or ("k",)
        return await self.client.start(pair.bind(*(perdure.event(key) for key in keys)), workflow_id=workflow_id)


@pytest.fixture
async def web(storage: str) -> AsyncIterator[Web]:
    settings = settings_on(storage, http_listen="127.0.0.1:0")
    async with (
        running_server(settings) as server,
        perdure.Client(server.address, patience=2.0) as client,
        aiohttp.ClientSession(f"http://{server.http_address}") as session,
    ):
        yield Web(server, client, session)


def event(payload: object = None, key: str = "k") -> dict[str, object]:
    return {"event_key": key, "event_payload": payload}


@pytest.mark.parametrize(
    "payload",
    [None, True, 0, -1.5, 2**80, "text", "日本 \u0000 \"'", [], [1, [2, {"a": None}]], {"b": 1, "a": {"": []}}],
    ids=repr,
)
async def test_the_payload_arrives_as_it_was_sent(web: Web, payload: object) -> None:
    handle = await web.waiting("w")
    status, answer = await web.post("w", event(payload))
    assert status == 200
    assert answer["sequence"] > 0
    assert answer["duplicate"] is False
    assert await handle.output() == [payload]


async def test_an_event_that_comes_early_is_kept(web: Web) -> None:
    gate = await web.client.start(pair.bind(perdure.event("first"), perdure.event("second")), workflow_id="w")
    assert (await web.post("w", event("b", "second")))[0] == 200
    assert (await web.post("w", event("a", "first")))[0] == 200
    assert await gate.output() == ["a", "b"]


async def test_the_same_idempotency_key_is_one_event(web: Web) -> None:
    handle = await web.client.start(pair.bind(perdure.event("k"), perdure.event("k")), workflow_id="w")
    first = await web.post("w", event(1), headers={"Idempotency-Key": "id-1"})
    again = await web.post("w", event(1), headers={"Idempotency-Key": "id-1"})
    assert (first[1]["duplicate"], again[1]["duplicate"]) == (False, True)
    assert first[1]["sequence"] == again[1]["sequence"]
    assert (await web.post("w", event(2), headers={"Idempotency-Key": "id-2"}))[1]["duplicate"] is False
    assert sorted(await handle.output()) == [1, 2]


async def test_without_one_every_request_is_an_event(web: Web) -> None:
    handle = await web.client.start(pair.bind(perdure.event("k"), perdure.event("k")), workflow_id="w")
    await asyncio.gather(*(web.post("w", event("same")) for _ in range(2)))
    assert await handle.output() == ["same", "same"]


@pytest.mark.parametrize("name", ["a/b", "a b?c#d", "ünï/cödé", "%2F", "a" * 256])
async def test_ids_of_any_kind(web: Web, name: str) -> None:
    handle = await web.waiting(name)
    assert (await web.post(name, event("v")))[0] == 200
    assert await handle.output() == ["v"]


async def test_namespaces(web: Web) -> None:
    async with perdure.Client(web.server.address, namespace="other") as other:
        handle = await other.start(pair.bind(perdure.event("k")), workflow_id="w")
        assert (await web.post("w", event(1)))[0] == 404
        assert (await web.post("w", event(1), query="?namespace=other"))[0] == 200
        assert await handle.output() == [1]


async def test_unknown_and_finished_workflows(web: Web) -> None:
    status, answer = await web.post("nobody", event())
    assert status == 404
    assert answer["error"]["reason"] == "WORKFLOW_NOT_FOUND"
    assert answer["error"]["fields"]["workflow_id"] == "nobody"
    assert "nobody" in answer["error"]["message"]
    handle = await web.waiting("w")
    await handle.cancel()
    status, answer = await web.post("w", event())
    assert (status, answer["error"]["reason"]) == (409, "WORKFLOW_ALREADY_FINAL")
    assert answer["error"]["fields"]["status"] == "CANCELED"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("", "body"),
        ("{", "body"),
        ("[" * 100_000, "body"),
        (b"\xff\xfe", "body"),
        ([], "body"),
        ({"event_key": "k"}, "body"),
        ({"event_payload": 1}, "event_key"),
        ({"event_key": None, "event_payload": 1}, "event_key"),
        ({"event_key": "", "event_payload": 1}, "event_key"),
        ({"event_key": "k" * 257, "event_payload": 1}, "event_key"),
        ({"event_key": "a\nb", "event_payload": 1}, "event_key"),
        ('{"event_key": "k", "event_payload": 1e999}', "event_payload"),
        ('{"event_key": "k", "event_payload": NaN}', "event_payload"),
        ('{"event_key": "k", "event_payload": "\\ud800"}', "event_payload"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_bad_bodies_are_refused_and_nothing_is_stored(web: Web, body: object, field: str) -> None:
    handle = await web.waiting("w")
    status, answer = await web.post("w", body)
    assert (status, answer["error"]["reason"]) == (400, "INVALID_FIELD")
    assert answer["error"]["fields"]["field"] == field
    await web.post("w", event("good"))
    assert await handle.output() == ["good"]


async def test_bad_ids_and_types(web: Web) -> None:
    await web.waiting("w")
    status, answer = await web.post("w", event(), headers={"Content-Type": "text/plain"})
    assert (status, answer["error"]["fields"]["field"]) == (400, "Content-Type")
    for key in ("x" * 129, ""):
        status, answer = await web.post("w", event(), headers={"Idempotency-Key": key})
        assert (status, answer["error"]["fields"]["field"]) == (400, "Idempotency-Key")
    status, answer = await web.post("a" * 257, event())
    assert (status, answer["error"]["fields"]["field"]) == (400, "workflow_id")
    status, answer = await web.post("w", event(), query="?namespace=" + "n" * 64)
    assert (status, answer["error"]["fields"]["field"]) == (400, "namespace")


async def test_a_body_may_have_a_megabyte(web: Web) -> None:
    handle = await web.waiting("w")
    status, answer = await web.post("w", event("x" * (1024 * 1024)))
    assert (status, answer["error"]["reason"]) == (413, "PAYLOAD_TOO_LARGE")
    text = "x" * (1024 * 1024 - 100)
    assert (await web.post("w", event(text)))[0] == 200
    assert await handle.output() == [text]


async def test_other_paths_and_methods(web: Web) -> None:
    assert (await web.get("/"))[0] == 404
    async with web.session.get("/event/send_event/w") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "POST"
        assert (await answer.json())["error"]["message"]


async def test_health_and_draining(web: Web) -> None:
    assert await web.get("/healthz") == (200, {"status": "alive"})
    assert await web.get("/readyz") == (200, {"status": "ready"})
    await web.waiting("w")
    await web.server.drain()
    assert (await web.get("/healthz"))[0] == 200
    for status, answer in (await web.get("/readyz"), await web.post("w", event())):
        assert (status, answer["error"]["reason"]) == (503, "DRAINING")
    async with web.session.get("/readyz") as answer:
        assert answer.headers["Retry-After"] == "1"


async def test_the_address_is_told(web: Web) -> None:
    assert (await web.client.info()).http_address == web.server.http_address
    assert web.server.http_address.startswith("127.0.0.1:")


async def test_there_is_no_http_unless_it_is_asked_for(server: RunningServer, client: perdure.Client) -> None:
    assert server.http_address == (await client.info()).http_address == ""


async def test_an_address_in_use_is_said_clearly() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = Settings(listen="127.0.0.1:0", http_listen=address, storage="memory:", executor="local")
        with pytest.raises(SettingsError, match=f"cannot listen on {address}"):
            async with running_server(settings):
                pass


# ------------------------------------------------------------------------------ hostile requests

GOOD = json.dumps({"event_key": "k", "event_payload": "v"}).encode()
LINE = b"POST /event/send_event/w HTTP/1.1\r\nHost: h\r\n"
HEAD = LINE + b"Content-Type: application/json\r\n"


def packed(body: bytes, wbits: int) -> bytes:
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "wbits"), [("gzip", 31), ("GZIP", 31), ("deflate", 15), ("deflate", -15), ("identity", 0)]
)
async def test_compressed_bodies(web: Web, encoding: str, wbits: int) -> None:
    handle = await web.waiting("w")
    body = packed(GOOD, wbits) if wbits else GOOD
    assert (await web.post("w", body, headers={"Content-Encoding": encoding}))[0] == 200
    assert await handle.output() == ["v"]


@pytest.mark.parametrize(
    ("encoding", "body", "field"),
    [
        ("gzip", GOOD, "body"),
        ("gzip", b"", "body"),
        ("gzip", packed(GOOD, 31)[:-9], "body"),
        ("gzip", packed(GOOD, 31)[:-4] + b"\0\0\0\0", "body"),
        ("gzip", packed(GOOD, 31) + b"more", "body"),
        ("deflate", b"\xff" * 20, "body"),
        ("br", GOOD, "Content-Encoding"),
        ("gzip, gzip", packed(packed(GOOD, 31), 31), "Content-Encoding"),
        ("ünknown", GOOD, "Content-Encoding"),
    ],
    ids=str,
)
async def test_broken_compression_is_the_senders_fault(web: Web, encoding: str, body: bytes, field: str) -> None:
    await web.waiting("w")
    status, answer = await web.post("w", body, headers={"Content-Encoding": encoding})
    assert (status, answer["error"]["fields"]["field"]) == (400, field)


async def test_a_deflate_bomb_is_not_unpacked(web: Web) -> None:
    await web.waiting("w")
    bomb = packed(bytes(256 * 1024 * 1024), 31)
    assert len(bomb) < 1024 * 1024
    tracemalloc.start()
    try:
        status, answer = await web.post("w", bomb, headers={"Content-Encoding": "gzip"})
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert (status, answer["error"]["reason"]) == (413, "PAYLOAD_TOO_LARGE")


async def test_a_payload_that_grows_when_it_is_written_is_bounded(web: Web) -> None:
    await web.waiting("w")
    numbers = ",".join(["1e15"] * 200_000)
    status, answer = await web.post("w", f'{{"event_key": "k", "event_payload": [{numbers}]}}')
    assert (status, answer["error"]["fields"]["field"]) == (413, "event_payload")


@pytest.mark.parametrize("path", [b"/event/send_event/w", b"/other"])
async def test_a_client_is_told_to_close_a_connection_on_which_a_body_was_refused(web: Web, path: bytes) -> None:
    await web.waiting("w")
    host, _, port = web.server.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 4000000\r\n\r\n" % path
    writer.write(head + b"x" * 2_000_000)  # and not the rest
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 4")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    writer.close()


async def raw_answer(web: Web, request: bytes) -> bytes:
    """All that the server says to these bytes and the end of the sender's side."""
    host, _, port = web.server.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


HOSTILE = {
    "chunk without a size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "chunk with a size beyond all": HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\nx",
    "chunk with a negative size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx",
    "chunk longer than said": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n",
    "chunks that never end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "length that is no number": HEAD + b"Content-Length: x\r\n\r\n{}",
    "body shorter than said": HEAD + b"Content-Length: 200\r\n\r\n{",
    "huge header": HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
    "many headers": HEAD + b"".join(b"X%d: y\r\n" % number for number in range(5_000)) + b"\r\n",
    "header without a colon": HEAD + b"nothing\r\n\r\n",
    "NUL in a header": HEAD + b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
    "bytes that are no text": HEAD + b"Idempotency-Key: \xff\xfe\r\nContent-Length: %d\r\n\r\n%b" % (len(GOOD), GOOD),
    "media type that is none": LINE + b"Content-Type: ;;=\r\nContent-Length: 2\r\n\r\n{}",
    "path that is no text": b"POST /event/send_event/%ff%fe%00 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no protocol": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
    "nothing": b"",
}


@pytest.mark.parametrize("request_bytes", HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_requests_are_refused_without_a_traceback(
    web: Web, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await web.waiting("w")
    answer = await raw_answer(web, request_bytes)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4") or answer.startswith(b"HTTP/1.0 4")
    assert (await web.post("w", GOOD))[0] == 200
    assert await handle.output() == ["v"]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info] == []


@pytest.mark.parametrize("how", ["reset", "closed"])
@pytest.mark.parametrize("framing", [b"Content-Length: 200\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"])
async def test_a_client_that_vanishes_leaves_no_word_in_the_log(
    web: Web, how: str, framing: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await web.waiting("w")
    host, _, port = web.server.http_address.rpartition(":")
    for _ in range(5):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(HEAD + b"Expect: 100-continue\r\n" + framing)
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"  # it waits for the body now
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()
    assert (await web.post("w", GOOD))[0] == 200
    assert await handle.output() == ["v"]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info] == []


async def test_the_last_of_two_equal_keys_is_taken(web: Web) -> None:
    handle = await web.waiting("w")
    assert (await web.post("w", '{"event_key": "no", "event_key": "k", "event_payload": 1, "event_payload": 2}'))[
        0
    ] == 200
    assert await handle.output() == [2]
