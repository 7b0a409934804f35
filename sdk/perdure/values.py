"""Encodes values and graphs for the service, with uploads of large parts, and decodes values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from perdure import codec, graphwire, rayobjects, runtimeenv
from perdure.arguments import encode_arguments
from perdure.blobs import Blobs, BlockingBlobs
from perdure.conversion import large_parts, to_spec, with_stored
from perdure.graph import refuse_node
from perdure.model import INLINE_BYTES_MAX, Payload, Spec
from perdure.transport import Transport
from perdure.v1 import payload_pb2, spec_pb2

SPEC_BYTES_MAX: Final = 1024 * 1024
"""A larger graph is uploaded as a blob."""
UPLOADS_MAX: Final = 16
"""Parts of a graph that are uploaded at a time."""

Decode = Callable[[Payload, bytes | memoryview | None, codec.Objects | None], Any]
"""Decodes a payload, from the bytes of its blob if it has one, and the objects of Ray. `codec.decode` is one."""


class Values:
    """Values of one client. `names_modules`: see `perdure.conversion.to_spec`."""

    def __init__(self, transport: Transport, *, names_modules: bool | None = None) -> None:
        self.transport = transport
        self.blobs = Blobs(transport)
        self.objects = rayobjects.AsyncObjects(self.blobs.upload, self.blobs.load, self.blobs.has)
        self._modules = names_modules

    async def payload(self, value: Any) -> Payload:
        """Encode a value. A value that is too large to travel inline is uploaded."""

        def encode(objects: codec.Objects | None) -> codec.Encoded | Payload:
            if codec.is_object(value):  # stands for its contents, as an argument does
                return codec.known(objects).store(value)
            return codec.encode_value(value, objects)

        encoded = await self.objects.apply(encode)
        if isinstance(encoded, Payload):
            return encoded
        if encoded.size <= INLINE_BYTES_MAX:
            return encoded.inline()
        return encoded.stored(await self.blobs.upload(encoded.chunks))

    async def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
        """Encode the arguments of a call that is made now. TypeError for a node, which has no value yet."""
        encode = partial(encode_arguments, args, kwargs, refuse_node)
        payload, _ = await self.objects.apply(encode)
        if payload.size <= INLINE_BYTES_MAX:
            return payload
        return replace(payload, data=b"", blob=await self.blobs.upload((payload.data,)))

    async def spec_of(self, graph: object) -> Spec:
        """As `source_of`, before it becomes a message."""
        return await self._snapshot(await self._spec(graph))

    async def value_of(self, payload: Payload, decode: Decode = codec.decode) -> Any:
        """Decode a payload, with a download of its blob if it has one. Objects of Ray in it become objects of the
        cluster to which this process is connected; CodecError if there is none."""
        data = None if payload.blob is None else await self.blobs.load(payload.blob)
        return await self.objects.apply(lambda objects: decode(payload, data, objects))

    async def source_of(self, graph: object, callers: tuple[str, ...] = ()) -> spec_pb2.WorkflowSource:
        """Convert a graph for the service, and upload its large parts and its local code. Takes a spec, or an argument
        of `perdure.conversion.to_spec`, and raises its errors. `callers` wait for the run."""
        spec = graphwire.spec_to_proto(await self.spec_of(graph))
        if callers:
            spec.callers[:] = callers
        if spec.ByteSize() <= SPEC_BYTES_MAX:
            return spec_pb2.WorkflowSource(spec=spec)
        blob = await self.blobs.upload((spec.SerializeToString(deterministic=True),))
        return spec_pb2.WorkflowSource(spec_blob=payload_pb2.BlobRef(sha256=blob.sha256, size_bytes=blob.size))

    async def _spec(self, graph: object) -> Spec:
        def convert(objects: codec.Objects | None) -> Spec:
            return to_spec(graph, objects, names_modules=self._modules)

        spec = graph if isinstance(graph, Spec) else await self.objects.apply(convert)
        parts = list(large_parts(spec, INLINE_BYTES_MAX))
        stored: dict[Payload, Payload] = {}
        for start in range(0, len(parts), UPLOADS_MAX):
            some = parts[start : start + UPLOADS_MAX]
            blobs = await asyncio.gather(*[self.blobs.upload((part.data,)) for part in some])
            stored |= {part: replace(part, data=b"", blob=blob) for part, blob in zip(some, blobs, strict=True)}
        return with_stored(spec, stored)

    async def _snapshot(self, spec: Spec) -> Spec:
        """The graph with the local code of its runtime environments stored. A thread packs the code."""
        base = runtimeenv.of_this_process()
        if not runtimeenv.is_needed(spec, base):
            return spec
        if not base and (known := runtimeenv.snapshot_known(spec, self.blobs.has_for_sure)) is not None:
            return known
        return await asyncio.to_thread(runtimeenv.snapshot, spec, base, BlockingBlobs(self.blobs))
