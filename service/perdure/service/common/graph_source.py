"""A decoded graph, with everything that is the same for all of its runs and is therefore computed once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from perdure import graphwire
from perdure.model import ID_CHARS_MAX, BlobRef, Call, Spec, frozen
from perdure.service.common.aside import is_large

if TYPE_CHECKING:
    from hashlib import _Hash


@frozen
class Source:
    """A valid graph. `data` are its canonical bytes, `digest` is their SHA-256 and `key` the digest in hexadecimal.
    `name` is the default name of its runs, `inputs` are the names of the inputs that a run needs. `blobs` are the
    blobs that the graph refers to, and the one that contained it. `versions` are pairs of a Python version and a node
    made by it."""

    spec: Spec
    data: bytes
    digest: _Hash
    key: str
    name: str
    inputs: frozenset[str]
    blobs: frozenset[BlobRef]
    versions: tuple[tuple[str, str], ...]

    @property
    def is_large(self) -> bool:
        """Whether its runs are made aside."""
        return is_large(len(self.spec.nodes))


def source_of(spec: Spec, data: bytes, *, blob: BlobRef | None = None) -> Source:
    """`blob` is the blob that contained the graph, if any."""
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
