"""Reads the graphs of requests, and checks the blobs that requests name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

from google.protobuf.message import DecodeError

from perdure import errors, snapshots
from perdure.bounded import Bounded
from perdure.model import BlobRef
from perdure.service.api import requests
from perdure.service.api.naming import Naming, names_functions, spec_of
from perdure.service.common import limits
from perdure.service.common.aside import aside, is_large
from perdure.service.common.clocks import elapsed_s as since_some_moment_s
from perdure.service.machines.graphs import source_of
from perdure.service.machines.source import RunSource
from perdure.storage.ports import BlobStore
from perdure.v1 import spec_pb2

NODE_TAG: Final = spec_pb2.WorkflowSpec.NODES_FIELD_NUMBER << 3 | 2
KNOWN_BYTES_MAX: Final = 16 << 20
"""Size of the cache of decoded and checked graphs."""
RENEWED_MAX: Final = 10_000
RENEWED_SHARE: Final = 10
"""A blob that was renewed within a tenth of the grace period is not renewed again: a run with it has nine tenths left
to be stored. Programs name the same package of modules in every run."""


class Sources:
    """Reads graphs and checks that blobs exist. `grace_s`: the time that a blob without a use is kept."""

    def __init__(
        self,
        blobs: BlobStore,
        naming: Naming,
        *,
        grace_s: float = 0,
        elapsed_s: Callable[[], float] = since_some_moment_s,
    ) -> None:
        self._blobs = blobs
        self._naming = naming
        self._known = Bounded[bytes | BlobRef, RunSource](KNOWN_BYTES_MAX, lambda source: len(source.data))
        self._renewed = Bounded[BlobRef, float](RENEWED_MAX)
        self._renewed_for_s = grace_s / RENEWED_SHARE
        self._elapsed_s = elapsed_s

    async def read(self, message: spec_pb2.WorkflowSource) -> RunSource:
        """The graph, from the message or from a blob."""
        match message.WhichOneof("kind"):
            case "spec":
                data = message.spec.SerializeToString(deterministic=True)
                return self._known.get(data) or await self._read(message.spec, data)
            case "entrypoint":
                spec = spec_of(message.entrypoint)
                return await self._read(spec, spec.SerializeToString(deterministic=True))
            case "spec_blob":
                blob = requests.blob(message.spec_blob, "source.spec_blob")
                if blob.size > limits.SPEC_BYTES_MAX:
                    raise errors.InvalidSpecError(f"a graph has at most {limits.SPEC_BYTES_MAX} bytes")
                if (known := self._known.get(blob)) is not None:
                    return known
                await self.check_blobs((blob,))  # before it is read: it may be larger than it is said to be
                view = await self._blobs.get(blob.sha256)
                spec = await aside(partial(_parsed, view))
                return await self._read(spec, bytes(view), blob)
            case _:
                raise requests.invalid("source", "is required")

    async def unresolved(self, message: spec_pb2.WorkflowSource) -> RunSource:
        """The graph as it came, without the versions of the functions that it names. It is not to be run: its digest
        tells whether an earlier request asked for the same."""
        spec = spec_of(message.entrypoint) if message.WhichOneof("kind") == "entrypoint" else message.spec
        return await _decoded(spec, spec.SerializeToString(deterministic=True), None)

    async def _read(self, spec: spec_pb2.WorkflowSpec, data: bytes, blob: BlobRef | None = None) -> RunSource:
        """The source of a graph with these bytes, which may be those of a blob. One that names functions is kept as the
        graph with their versions: what the request asks for depends on what workers have."""
        if names_functions(spec):
            resolved = await self._naming.resolved(spec)
            stored = resolved.SerializeToString(deterministic=True)
            known = self._known.get(stored) or self._keep(stored, await _decoded(resolved, stored, blob))
            return replace(known, digest=hashlib.sha256(data))
        return self._keep(data if blob is None else blob, await _decoded(spec, data, blob))

    def _keep(self, key: bytes | BlobRef, source: RunSource) -> RunSource:
        if (known := self._known.get(key)) is not None:  # two have read it at once
            return known
        self._known.keep(key, source)
        return source

    async def check_package(self, uri: str) -> None:
        """Raise an error unless `uri` is that of a stored package of modules."""
        try:
            await self.check_blobs((snapshots.package_of(uri),))
        except ValueError as error:
            raise requests.invalid("modules", f"is the URI of a stored package: {error}") from error

    async def check_blobs(self, blobs: Iterable[BlobRef]) -> None:
        """Raise an error unless all blobs exist. Otherwise the run would fail later, and less clearly. Their grace
        period begins anew, so they stay until their use is stored."""
        for blob in blobs:
            now_s = self._elapsed_s()
            if now_s < (self._renewed.get(blob) or 0.0):
                continue
            size = await self._blobs.renew(blob.sha256)
            if size is None:
                raise errors.BlobNotFoundError(f"there is no blob {blob.sha256}; upload it first", sha256=blob.sha256)
            if size != blob.size:
                raise errors.BlobHashMismatchError(
                    f"blob {blob.sha256} has {size} bytes, not {blob.size}", expected=str(blob.size), actual=str(size)
                )
            self._renewed.keep(blob, now_s + self._renewed_for_s)


def _parsed(view: memoryview) -> spec_pb2.WorkflowSpec:
    if count_nodes(view, limits.NODES_MAX + 1) > limits.NODES_MAX:
        raise errors.InvalidSpecError(f"the graph has more than {limits.NODES_MAX} nodes")
    try:
        return spec_pb2.WorkflowSpec.FromString(bytes(view))
    except DecodeError as error:
        raise errors.InvalidSpecError("the blob is not a serialized WorkflowSpec") from error


def count_nodes(data: bytes | memoryview, most: int) -> int:
    """The number of nodes in a serialized WorkflowSpec, up to `most`, counted without decoding it. In a malformed
    message, only the nodes before the fault are counted."""
    view = memoryview(data).cast("B")
    position = count = 0
    try:
        while position < len(view) and count < most:
            tag, position = _varint(view, position)
            match tag & 7:
                case 0:
                    _, position = _varint(view, position)
                case 1:
                    position += 8
                case 2:
                    size, position = _varint(view, position)
                    position += size
                    count += tag == NODE_TAG
                case 5:
                    position += 4
                case _:
                    break
    except IndexError:  # it ends inside of a number
        pass
    return count


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """A number of protobuf, and where it ends."""
    value = shift = 0
    while True:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 or shift > 63:
            return value, position
        shift += 7


async def _decoded(message: spec_pb2.WorkflowSpec, data: bytes, blob: BlobRef | None) -> RunSource:
    decode = partial(_decoded_now, message, data, blob)
    return await aside(decode) if is_large(len(message.nodes)) else decode()


def _decoded_now(message: spec_pb2.WorkflowSpec, data: bytes, blob: BlobRef | None) -> RunSource:
    spec = requests.spec(message)
    requests.check_payloads(spec)
    return source_of(spec, data, blob=blob)
