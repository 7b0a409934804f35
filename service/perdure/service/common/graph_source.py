"""Graphs that runs are made of: what is the same for all runs of one graph is found out once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from perdure import graphwire
from perdure.model import ID_CHARS_MAX, BlobRef, Call, Spec, frozen

if TYPE_CHECKING:
    from hashlib import _Hash


@frozen
class Source:
    """A graph that was found good. `data` are its canonical bytes, `digest` their SHA-256 and `key` what that says;
    `name` is what its runs are called if nobody calls them anything; `inputs` are the names of those that a run has
    to be given, `blobs` those that it mentions or came in, and `versions` the nodes by the Python that made them."""

    spec: Spec
    data: bytes
    digest: _Hash
    key: str
    name: str
    inputs: frozenset[str]
    blobs: frozenset[BlobRef]
    versions: tuple[tuple[str, str], ...]


def source_of(spec: Spec, data: bytes, *, blob: BlobRef | None = None) -> Source:
    """`blob` is the one that the graph came in, if it did."""
    digest = hashlib.sha256(data)
    versions: dict[str, str] = {}
    for node in spec.nodes:
        if isinstance(node.action, Call) and (version := node.action.function.python_version):
            versions.setdefault(version, node.id)
    output = next(node for node in spec.nodes if node.id == spec.output)
    name = output.action.function.name if isinstance(output.action, Call) else output.id
    blobs = frozenset(graphwire.blobs_of_spec(spec)) | ({blob} if blob is not None else set())
    inputs = frozenset(spec.inputs())
    return Source(spec, data, digest, digest.hexdigest(), name[:ID_CHARS_MAX], inputs, blobs, tuple(versions.items()))
