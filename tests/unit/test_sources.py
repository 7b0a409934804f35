"""Graphs are decoded once for many runs, and forgotten in the order in which they were last asked for."""

from __future__ import annotations

import pytest

from catalogues import naming_of
from perdure import errors, graphwire
from perdure.model import BlobRef, Call, Function, InvalidSpec, Payload, Sleep, Spec, SpecNode
from perdure.service.api import sources as sources_module
from perdure.service.api.sources import Sources, count_nodes
from perdure.service.machines.graphs import source_of
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.v1 import payload_pb2, spec_pb2


def inline(delay_ms: int) -> spec_pb2.WorkflowSource:
    spec = Spec((SpecNode("sleep", Sleep(delay_ms)),), "sleep")
    return spec_pb2.WorkflowSource(spec=graphwire.spec_to_proto(spec))


async def test_an_equal_graph_is_decoded_once() -> None:
    sources = Sources(MemoryBlobStore(), naming_of())
    first = await sources.read(inline(1))
    assert await sources.read(inline(1)) is first
    other = await sources.read(inline(2))
    assert (other.key, other.definition) != (first.key, first.definition)
    assert first.data == graphwire.encode_spec(first.definition)


async def test_a_graph_in_a_blob_is_read_once() -> None:
    blobs = MemoryBlobStore()
    data = inline(1).spec.SerializeToString(deterministic=True)
    blob = await blobs.put([data])
    message = spec_pb2.WorkflowSource(spec_blob=payload_pb2.BlobRef(sha256=blob.sha256, size_bytes=blob.size))
    sources = Sources(blobs, naming_of())
    source = await sources.read(message)
    assert source.blobs == {blob}
    assert (await sources.read(inline(1))).blobs == frozenset()  # the same graph, which did not come in the blob
    await blobs.delete(blob.sha256)
    assert await sources.read(message) is source


async def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(inline(10).spec.SerializeToString(deterministic=True))
    monkeypatch.setattr(sources_module, "KNOWN_BYTES_MAX", 2 * size)
    sources = Sources(MemoryBlobStore(), naming_of())
    ten, eleven = await sources.read(inline(10)), await sources.read(inline(11))
    assert await sources.read(inline(10)) is ten
    await sources.read(inline(12))
    assert await sources.read(inline(10)) is ten
    assert await sources.read(inline(11)) is not eleven


async def test_what_is_wrong_is_not_kept() -> None:
    sources = Sources(MemoryBlobStore(), naming_of())
    message = inline(1)
    message.spec.output.node.node_id = "nobody"
    for _ in range(2):
        with pytest.raises(InvalidSpec, match="nobody"):
            await sources.read(message)


def test_what_a_source_knows_of_its_graph() -> None:
    def call(version: str) -> Call:
        return Call(Function("key", "module:name", python_version=version), Payload("binary/plain", b""))

    nodes = (
        SpecNode("a", call("3.12")),
        SpecNode("b", call("3.12")),
        SpecNode("c", call("")),
        SpecNode("d", call("3.11")),
    )
    source = source_of(Spec(nodes, "d"), b"data")
    assert source.versions == (("3.12", "node 'a'"), ("3.11", "node 'd'"))
    assert source.name == "module:name"
    assert source.key == "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"


async def test_the_real_size_of_a_graph_is_looked_at_before_it_is_read() -> None:
    blobs = MemoryBlobStore()
    stored = await blobs.put([bytes(1000)])
    reads: list[str] = []

    async def get(sha256: str) -> memoryview:
        reads.append(sha256)
        raise AssertionError

    blobs.get = get  # type: ignore[method-assign]
    claimed = spec_pb2.WorkflowSource(spec_blob=payload_pb2.BlobRef(sha256=stored.sha256, size_bytes=1))
    with pytest.raises(errors.BlobHashMismatchError):
        await Sources(blobs, naming_of()).read(claimed)
    assert reads == []


def test_nodes_are_counted_in_serialized_graphs() -> None:
    spec = spec_pb2.WorkflowSpec(output=spec_pb2.Arg(node=spec_pb2.NodeRef(node_id="n1")))
    for number in range(300):
        spec.nodes.add(id=f"n{number}", after=["x" * number])
    data = spec.SerializeToString()
    assert count_nodes(data, 1000) == 300
    assert count_nodes(data, 10) == 10
    for end in (0, 1, 2, 5, len(data) - 1):
        assert count_nodes(data[:end], 1000) <= 300
    assert count_nodes(b"\xff" * 100, 1000) == 0


async def test_a_blob_is_renewed_once_in_a_share_of_its_grace_period() -> None:
    class Counting(MemoryBlobStore):
        renewals = 0

        async def renew(self, sha256: str) -> int | None:
            self.renewals += 1
            return await super().renew(sha256)

    blobs, now_s = Counting(), 0.0
    sources = Sources(blobs, naming_of(), grace_s=600, elapsed_s=lambda: now_s)
    with pytest.raises(errors.BlobNotFoundError):
        await sources.check_blobs([BlobRef("0" * 64, 1)])
    blob = await blobs.put([b"package"])
    with pytest.raises(errors.BlobHashMismatchError):
        await sources.check_blobs([BlobRef(blob.sha256, blob.size + 1)])
    blobs.renewals = 0
    for moment_s in (0.0, 59.0, 60.0, 119.0):
        now_s = moment_s
        await sources.check_blobs([blob])
    assert blobs.renewals == 2
    await blobs.delete(blob.sha256)
    now_s = 120.0
    with pytest.raises(errors.BlobNotFoundError):
        await sources.check_blobs([blob])
