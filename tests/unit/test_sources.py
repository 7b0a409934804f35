"""Graphs are decoded once for many runs, and forgotten in the order in which they were last asked for."""

from __future__ import annotations

import pytest

from perdure import graphwire
from perdure.model import Call, Function, InvalidSpec, Node, Payload, Sleep, Spec
from perdure.service.rpc import sources as sources_module
from perdure.service.rpc.sources import Sources
from perdure.service.source import source_of
from perdure.storage.memory_blobs import MemoryBlobStore
from perdure.v1 import payload_pb2, spec_pb2


def inline(delay_ms: int) -> spec_pb2.WorkflowSource:
    spec = Spec((Node("sleep", Sleep(delay_ms)),), "sleep")
    return spec_pb2.WorkflowSource(spec=graphwire.spec_to_proto(spec))


async def test_an_equal_graph_is_decoded_once() -> None:
    sources = Sources(MemoryBlobStore())
    first = await sources.read(inline(1))
    assert await sources.read(inline(1)) is first
    other = await sources.read(inline(2))
    assert (other.key, other.spec) != (first.key, first.spec)
    assert first.data == graphwire.encode_spec(first.spec)


async def test_a_graph_in_a_blob_is_read_once() -> None:
    blobs = MemoryBlobStore()
    data = inline(1).spec.SerializeToString(deterministic=True)
    blob = await blobs.put([data])
    message = spec_pb2.WorkflowSource(spec_blob=payload_pb2.BlobRef(sha256=blob.sha256, size_bytes=blob.size))
    sources = Sources(blobs)
    source = await sources.read(message)
    assert source.blobs == {blob}
    assert (await sources.read(inline(1))).blobs == frozenset()  # the same graph, which did not come in the blob
    await blobs.delete(blob.sha256)
    assert await sources.read(message) is source


async def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(inline(10).spec.SerializeToString(deterministic=True))
    monkeypatch.setattr(sources_module, "KNOWN_BYTES_MAX", 2 * size)
    sources = Sources(MemoryBlobStore())
    ten, eleven = await sources.read(inline(10)), await sources.read(inline(11))
    assert await sources.read(inline(10)) is ten
    await sources.read(inline(12))
    assert await sources.read(inline(10)) is ten
    assert await sources.read(inline(11)) is not eleven


async def test_what_is_wrong_is_not_kept() -> None:
    sources = Sources(MemoryBlobStore())
    message = inline(1)
    message.spec.output.node.node_id = "nobody"
    for _ in range(2):
        with pytest.raises(InvalidSpec, match="nobody"):
            await sources.read(message)


def test_what_a_source_knows_of_its_graph() -> None:
    def call(version: str) -> Call:
        return Call(Function("key", "module:name", python_version=version), Payload("binary/plain", b""))

    nodes = (Node("a", call("3.12")), Node("b", call("3.12")), Node("c", call("")), Node("d", call("3.11")))
    source = source_of(Spec(nodes, "d"), b"data")
    assert source.versions == (("3.12", "a"), ("3.11", "d"))
    assert source.name == "module:name"
    assert source.key == "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
