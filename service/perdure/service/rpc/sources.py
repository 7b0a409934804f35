"""Graphs as they come, and the blobs that requests name."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from perdure import errors
from perdure.model import BlobRef, Spec
from perdure.service import limits
from perdure.service.rpc import requests
from perdure.storage.ports import BlobStore
from perdure.v1 import spec_pb2


class Sources:
    """Reads graphs and sees to it that blobs are there."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def read(self, source: spec_pb2.WorkflowSource) -> tuple[Spec, bytes]:
        """The graph and its canonical bytes, from the message or from a blob."""
        match source.WhichOneof("kind"):
            case "spec":
                return requests.spec(source.spec), source.spec.SerializeToString(deterministic=True)
            case "spec_blob":
                if source.spec_blob.size_bytes > limits.SPEC_BYTES_MAX:
                    raise errors.InvalidSpecError(f"a graph has at most {limits.SPEC_BYTES_MAX} bytes")
                data = bytes(await self._blobs.get(source.spec_blob.sha256))
                try:
                    return requests.spec(spec_pb2.WorkflowSpec.FromString(data)), data
                except DecodeError as error:
                    raise errors.InvalidSpecError("the blob is not a serialized WorkflowSpec") from error
            case _:
                raise requests.invalid("source", "is required")

    async def check_blobs(self, blobs: Iterable[BlobRef]) -> None:
        """A run with a blob that is not there would fail later, and less clearly. Those that are there stay
        until their use is stored: they count as put now."""
        for blob in blobs:
            size = await self._blobs.renew(blob.sha256)
            if size is None:
                raise errors.BlobNotFoundError(f"there is no blob {blob.sha256}; upload it first", sha256=blob.sha256)
            if size != blob.size:
                raise errors.BlobHashMismatchError(
                    f"blob {blob.sha256} has {size} bytes, not {blob.size}", expected=str(blob.size), actual=str(size)
                )
