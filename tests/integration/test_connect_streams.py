"""Streams of answers by the Connect protocol, and how they end."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from google.protobuf import json_format

from integration.connect_calls import RUNS, Web, details_of, details_over_grpc, envelope, envelopes, path_of, serving
from integration.wire_calls import event_node, graph, public_methods, run_request, sum_of
from patience import PATIENCE_S
from perdure.service.api.watch import Watcher
from perdure.v1 import blob_service_pb2, workflow_pb2
from perdure.v1 import workflow_service_pb2 as pb

WATCH, DOWNLOAD = f"{RUNS}/Watch", "BlobService/DownloadBlob"
STREAMS = [method for method in public_methods() if method.server_streaming and not method.client_streaming]


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with serving() as web:
        yield web


@pytest.mark.parametrize("form", ["json", "proto"])
@pytest.mark.parametrize("method", STREAMS, ids=lambda method: method.name)
async def test_every_stream_is_reachable_and_ends_with_a_typed_error(web: Web, method: Any, form: str) -> None:
    if method.name == "Watch":  # that of all runs has no end
        request = pb.WatchRequest(workflow_ids=["nobody"])
    else:
        request = blob_service_pb2.DownloadBlobRequest()
    body = request.SerializeToString() if form == "proto" else json_format.MessageToDict(request)
    streamed = await web.stream(path_of(method), body, form)
    assert streamed.messages == []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await web.stubs.raw.unary_stream(f"/perdure.v1.{path_of(method)}")(request.SerializeToString()).read()
    assert streamed.end["error"]["code"] == caught.value.code().name.lower()
    assert details_of(streamed.end["error"]) == details_over_grpc(caught.value)


@pytest.mark.parametrize("form", ["json", "proto"])
async def test_a_run_is_watched_until_its_end(web: Web, form: str) -> None:
    await web.stubs.workflows.Run(run_request(sum_of(2, 3)))
    request = pb.WatchRequest(workflow_ids=["w"], until_final=True)
    body = request.SerializeToString() if form == "proto" else json_format.MessageToDict(request)
    streamed = await web.stream(WATCH, body, form)
    assert streamed.end == {}
    read = pb.WatchResponse.FromString if form == "proto" else lambda data: json_format.Parse(data, pb.WatchResponse())
    states = [event.workflow.status for data in streamed.messages for event in read(data).events]
    assert states[-1] == workflow_pb2.WORKFLOW_STATUS_SUCCESSFUL


async def test_a_blob_comes_in_chunks(web: Web) -> None:
    data = bytes(range(256)) * 100
    digest = hashlib.sha256(data).hexdigest()
    header = blob_service_pb2.UploadBlobHeader(size_bytes=len(data), sha256=digest)
    chunk = blob_service_pb2.UploadBlobRequest()
    chunk.chunk.data = data
    await web.stubs.blobs.UploadBlob(iter([blob_service_pb2.UploadBlobRequest(header=header), chunk]))
    request = blob_service_pb2.DownloadBlobRequest(sha256=digest, chunk_bytes=4096)
    streamed = await web.stream(DOWNLOAD, request.SerializeToString(), "proto")
    answers = [blob_service_pb2.DownloadBlobResponse.FromString(message) for message in streamed.messages]
    assert b"".join(answer.chunk.data for answer in answers) == data
    assert (len(answers), streamed.end) == (7, {})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0",
        envelope({}) + b"x",
        envelope({}) * 2,
        envelope({})[:-1],
        envelope({}, 2),
        envelope({}, 1),
        envelope(b"{"),
        b"\0\xff\xff\xff\xff{}",
    ],
    ids=repr,
)
async def test_what_is_no_envelope_is_the_callers_fault(web: Web, body: bytes) -> None:
    answer = await web.post(WATCH, body, "application/connect+json")
    messages, end = envelopes(answer.body)
    assert (answer.status, messages, end["error"]["code"]) == (200, [], "invalid_argument")


async def test_compressed_messages(web: Web) -> None:
    body = envelope(gzip.compress(b'{"workflowIds": ["nobody"]}'), 1)
    for encoding, code in (("gzip", "not_found"), ("br", "unimplemented"), ("identity", "invalid_argument")):
        headers = {"Connect-Content-Encoding": encoding}
        _, end = envelopes((await web.post(WATCH, body, "application/connect+json", headers)).body)
        assert end["error"]["code"] == code


async def test_a_refused_body_that_was_not_read_closes_the_connection(web: Web) -> None:
    answer = await web.post(WATCH, bytes(9 * 1024 * 1024), "application/connect+proto")
    assert envelopes(answer.body)[1]["error"]["code"] == "invalid_argument"
    assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize("kind", ["application/json", "application/proto", "application/connect+xml"])
async def test_other_content_types(web: Web, kind: str) -> None:
    answer = await web.post(WATCH, {}, kind)
    assert (answer.status, answer.headers["Accept-Post"]) == (
        415,
        "application/connect+json, application/connect+proto",
    )


async def test_an_upload_needs_grpc(web: Web) -> None:
    streamed = await web.stream("BlobService/UploadBlob", {"header": {"sizeBytes": 1}})
    assert streamed.end["error"]["code"] == "unimplemented"
    assert "call it over gRPC" in streamed.end["error"]["message"]


async def test_a_stream_ends_at_its_deadline(web: Web) -> None:
    streamed = await web.stream(WATCH, {}, headers={"Connect-Timeout-Ms": "100"})
    assert streamed.end["error"]["code"] == "deadline_exceeded"


async def test_draining(web: Web) -> None:
    """A stream under way ends, and no other one begins."""
    await web.stubs.workflows.Run(run_request(graph(event_node("a", "k"))))
    async with web.session.post(
        f"/perdure.v1.{WATCH}", data=envelope({}), headers={"Content-Type": "application/connect+json"}
    ) as answer:
        began = await answer.content.readexactly(5)
        await web.server.drain()
        _, end = envelopes(began + await answer.content.read())
    assert end["error"]["details"][0]["debug"]["reason"] == "DRAINING"
    assert (await web.stream(WATCH, {})).refusal == ("unavailable", "DRAINING")


class Watched:
    """In place of Watch: one message, and then nothing."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def watch(self, _request: Any) -> AsyncIterator[pb.WatchResponse]:
        try:
            yield pb.WatchResponse(resume_token="first")
            await asyncio.Event().wait()
        finally:
            self.ended.set()


async def test_a_client_that_hangs_up_ends_its_stream(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched()
    monkeypatch.setattr(Watcher, "watch", lambda _self, request: watched.watch(request))
    async with serving() as web:
        answer = await web.session.post(
            f"/perdure.v1.{WATCH}", data=envelope({}), headers={"Content-Type": "application/connect+json"}
        )
        assert b"first" in await answer.content.readany()
        assert not watched.ended.is_set()
        answer.close()
        await asyncio.wait_for(watched.ended.wait(), PATIENCE_S)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info] == []


@pytest.mark.parametrize("kind", [RuntimeError, ConnectionResetError, TimeoutError])
async def test_a_bug_is_told_by_its_id_only(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_self: Any, _request: Any) -> AsyncIterator[pb.WatchResponse]:
        yield pb.WatchResponse()
        raise kind("secret")

    monkeypatch.setattr(Watcher, "watch", broken)
    async with serving() as web:
        streamed = await web.stream(WATCH, {})
    assert (len(streamed.messages), streamed.refusal) == (1, ("internal", "INTERNAL"))
    assert "secret" not in str(streamed.end)
