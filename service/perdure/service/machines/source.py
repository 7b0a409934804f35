"""The definition of new runs, with everything that is the same for all of them and is therefore computed once."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from perdure.engine.machine import Machine
from perdure.model import BlobRef, frozen
from perdure.service.common.aside import is_large
from perdure.service.common.uses import names_of
from perdure.service.machines.kinds import Kind

if TYPE_CHECKING:
    from hashlib import _Hash


@frozen
class RunSource:
    """A valid definition. `data` are its canonical bytes, `digest` is their SHA-256 and `key` the digest in
    hexadecimal. `name` is the default name of its runs, `inputs` are the names of the inputs that a run needs. `blobs`
    are the blobs that the definition refers to, and the one that contained it. `versions` are pairs of a Python version
    and the part of the definition that was made by it, as a text."""

    kind: Kind[Any]
    definition: Any
    data: bytes
    digest: _Hash
    key: str
    name: str
    inputs: frozenset[str]
    blobs: frozenset[BlobRef]
    versions: tuple[tuple[str, str], ...]
    blob_names: tuple[str, ...] = field(init=False)
    """The names of `blobs` in the store."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "blob_names", names_of(self.blobs))

    @property
    def is_large(self) -> bool:
        """Whether its runs are made aside."""
        return is_large(self.kind.size(self.definition))

    def begin(self) -> Machine:
        """The machine of a new run."""
        return self.kind.begin(self.definition)
