"""Large values in pieces: what is stored is exactly what was sent, or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import grpc
import pytest

import perdure
from integration.wire_calls import Stubs, refused
from perdure.model import INLINE_BYTES_MAX
from perdure.service.app import RunningServer
from perdure.service.common import limits
from perdure.v1 import blob_service_pb2 as pb
from perdure.v1 import payload_pb2, workflow_service_pb2

Code = grpc.StatusCode

STEP = 256 * 1024


def content(size: int) -> bytes:
    """Bytes that differ from place to place, so that a piece in the wrong one shows."""
    return b"".join(index.to_bytes(8, "big") for index in range(size // 8 + 1))[:size]


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def upload(
    data: bytes, *, size: int | None = None, sha256: str = "", step: int = STEP
) -> Iterator[pb.UploadBlobRequest]:
    announced = len(data) if size is None else size
    yield pb.UploadBlobRequest(header=pb.UploadBlobHeader(size_bytes=announced, sha256=sha256))
    for offset in range(0, len(data), step):
        yield chunk(offset, data[offset : offset + step])


def chunk(offset: int, data: bytes) -> pb.UploadBlobRequest:
    return pb.UploadBlobRequest(chunk=payload_pb2.BlobChunk(offset=offset, data=data))


async def download(stubs: Stubs, sha256: str, offset: int = 0, limit: int = 0, chunk_bytes: int = 0) -> bytes:
    request = pb.DownloadBlobRequest(sha256=sha256, offset=offset, limit=limit, chunk_bytes=chunk_bytes)
    data = b""
    async for answer in stubs.blobs.DownloadBlob(request):
        if answer.chunk.data:
            assert answer.chunk.offset == offset + len(data)
            assert len(answer.chunk.data) <= (chunk_bytes or STEP)
        data += answer.chunk.data
    return data


async def is_missing(stubs: Stubs, data: bytes) -> bool:
    refusal = await refused(
        stubs.blobs.GetBlob(pb.GetBlobRequest(sha256=sha256_of(data))), Code.NOT_FOUND, "BLOB_NOT_FOUND"
    )
    return refusal.metadata == {"sha256": sha256_of(data)}


@pytest.mark.parametrize("size", [0, 1, STEP, STEP + 1, 16 * 1024 * 1024], ids=["0", "1", "chunk", "more", "16M"])
async def test_what_goes_up_comes_down(stubs: Stubs, size: int) -> None:
    data = content(size)
    answer = await stubs.blobs.UploadBlob(upload(data))
    assert (answer.blob.sha256, answer.blob.size_bytes, answer.existed) == (sha256_of(data), size, False)
    assert await download(stubs, answer.blob.sha256) == data
    assert (await stubs.blobs.GetBlob(pb.GetBlobRequest(sha256=answer.blob.sha256))).blob == answer.blob


async def test_the_same_blob_twice_is_one(stubs: Stubs) -> None:
    data = content(1_000_000)
    first = await stubs.blobs.UploadBlob(upload(data))
    again = await stubs.blobs.UploadBlob(upload(data))
    assert again.blob == first.blob
    named = await stubs.blobs.UploadBlob(upload(data, sha256=sha256_of(data)))
    assert (named.blob, named.existed) == (first.blob, True)
    header_only = await stubs.blobs.UploadBlob(upload(b"", size=len(data), sha256=sha256_of(data)))
    assert (header_only.blob, header_only.existed) == (first.blob, True)
    assert await download(stubs, first.blob.sha256) == data


async def test_ranges(stubs: Stubs) -> None:
    data = content(300_000)
    sha256 = (await stubs.blobs.UploadBlob(upload(data))).blob.sha256
    for offset, limit, chunk_bytes in (
        (0, 0, 0), (5, 10, 0), (100_000, 0, 4_096), (299_999, 1, 0), (0, 299_999, 65_536), (7, 10**9, 1_048_576),
    ):  # fmt: skip
        expected = data[offset : offset + limit] if limit else data[offset:]
        assert await download(stubs, sha256, offset, limit, chunk_bytes) == expected
    answers = [answer async for answer in stubs.blobs.DownloadBlob(pb.DownloadBlobRequest(sha256=sha256))]
    assert [answer.size_bytes for answer in answers] == [300_000, 0]
    assert await download(stubs, sha256, 300_000) == b""
    for offset in (300_001, -1):
        refusal = await refused(download(stubs, sha256, offset), Code.OUT_OF_RANGE, "OFFSET_OUT_OF_RANGE")
        assert refusal.metadata == {"size": "300000"}


async def test_other_bytes_than_announced(stubs: Stubs) -> None:
    data = content(100_000)
    other = sha256_of(b"other")
    for requests in (
        upload(data, sha256=other),
        upload(data, size=len(data) + 1),
        upload(data, size=len(data) - 1),
        upload(b"", size=1),
        upload(data, size=0),
    ):
        refusal = await refused(stubs.blobs.UploadBlob(requests), Code.INVALID_ARGUMENT, "BLOB_HASH_MISMATCH")
        assert "expected" in refusal.metadata
        assert await is_missing(stubs, data)
    assert await is_missing(stubs, b"")
    refusal = await refused(
        stubs.blobs.UploadBlob(upload(data, sha256=other)), Code.INVALID_ARGUMENT, "BLOB_HASH_MISMATCH"
    )
    assert refusal.metadata == {"expected": other, "actual": sha256_of(data)}
    assert not (await stubs.blobs.UploadBlob(upload(data))).existed


async def test_streams_that_are_no_upload(stubs: Stubs) -> None:
    data = content(1_000)
    header = pb.UploadBlobRequest(header=pb.UploadBlobHeader(size_bytes=len(data)))
    large = bytes(limits.CHUNK_BYTES_MAX + 1)
    for requests, field in (
        ([], "header"),
        ([pb.UploadBlobRequest()], "header"),
        ([chunk(0, data)], "header"),
        ([header, header], "chunk"),
        ([header, pb.UploadBlobRequest()], "chunk"),
        ([header, chunk(0, b"")], "chunk"),
        ([header, chunk(1, data)], "chunk.offset"),
        ([header, chunk(0, data[:10]), chunk(20, data[20:])], "chunk.offset"),
        ([header, chunk(0, data[:10]), chunk(0, data[:10])], "chunk.offset"),
        ([pb.UploadBlobRequest(header=pb.UploadBlobHeader(size_bytes=1, sha256="XYZ"))], "sha256"),
        ([pb.UploadBlobRequest(header=pb.UploadBlobHeader(size_bytes=len(large))), chunk(0, large)], "chunk.data"),
    ):
        refusal = await refused(stubs.blobs.UploadBlob(iter(requests)), Code.INVALID_ARGUMENT, "INVALID_FIELD")
        assert refusal.metadata == {"field": field}
    assert await is_missing(stubs, data)
    for size in (-1, limits.BLOB_BYTES_MAX + 1):
        refusal = await refused(
            stubs.blobs.UploadBlob(upload(b"", size=size)), Code.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE"
        )
        assert refusal.metadata["field"] == "size_bytes"
    raw = stubs.raw.stream_unary("/perdure.v1.BlobService/UploadBlob")
    refusal = await refused(raw(iter([b"\xff\xff"])), Code.INVALID_ARGUMENT, "INVALID_FIELD")
    for call in (
        stubs.blobs.GetBlob(pb.GetBlobRequest(sha256="../../etc/passwd")),
        download(stubs, "A" * 64),
        download(stubs, ""),
    ):
        refusal = await refused(call, Code.INVALID_ARGUMENT, "INVALID_FIELD")
        assert refusal.metadata == {"field": "sha256"}
    await refused(download(stubs, sha256_of(data)), Code.NOT_FOUND, "BLOB_NOT_FOUND")


async def test_an_upload_that_breaks_off_leaves_nothing(stubs: Stubs, server: RunningServer) -> None:
    data = content(100_000)
    call = stubs.blobs.UploadBlob()
    for request in upload(data[:50_000], size=len(data)):
        await call.write(request)
    call.cancel()
    assert await is_missing(stubs, data)
    assert await is_missing(stubs, data[:50_000])
    assert (await stubs.blobs.UploadBlob(upload(data))).blob.sha256 == sha256_of(data)


@perdure.task
def repeat(data: bytes, times: int) -> bytes:
    return data * times


@perdure.task
def length(data: bytes) -> int:
    return len(data)


async def test_large_outputs_go_by_blob(client: perdure.Client, stubs: Stubs) -> None:
    large = await client.start(repeat.bind(b"0123456789", 300_000))
    assert await large.output() == b"0123456789" * 300_000
    request = workflow_service_pb2.GetOutputRequest(workflow_id=large.workflow_id)
    output = (await stubs.workflows.GetOutput(request)).outcome.output
    assert output.WhichOneof("body") == "blob"
    assert output.blob.size_bytes > 3_000_000
    assert len(await download(stubs, output.blob.sha256)) == output.blob.size_bytes
    small = await client.start(repeat.bind(b"0123456789", 3))
    await small.output()
    request = workflow_service_pb2.GetOutputRequest(workflow_id=small.workflow_id)
    output = (await stubs.workflows.GetOutput(request)).outcome.output
    assert output.WhichOneof("body") == "data"
    assert len(output.data) < INLINE_BYTES_MAX


async def test_large_values_between_tasks_inputs_and_events(client: perdure.Client) -> None:
    data = content(400_000)
    assert await client.run(length.bind(repeat.bind(perdure.input("x"), 2)), inputs={"x": data}) == 800_000
    handle = await client.start(length.bind(perdure.event("k")))
    await handle.send_event("k", data)
    assert await handle.output() == 400_000
    assert await client.run(length.bind(data)) == 400_000
