"""What clients ask for, as values: runs to be made, events to be sent."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import field

from perdure.model import BlobRef, Payload, frozen
from perdure.service.common.graph_source import Source


class Reuse(enum.Enum):
    """Whether the id of a final run may be used again."""

    REJECT = enum.auto()
    ALLOW_IF_UNSUCCESSFUL = enum.auto()
    ALLOW = enum.auto()


class Conflict(enum.Enum):
    """What to do when the id belongs to a run that is not final."""

    FAIL = enum.auto()
    USE_EXISTING = enum.auto()
    CANCEL_EXISTING = enum.auto()


@frozen
class NewRun:
    """A request to run a graph. `workflow_id` "" takes the `request_id`, and without that a random id."""

    namespace: str
    workflow_id: str
    request_id: str
    source: Source
    inputs: Mapping[str, Payload] = field(default_factory=dict)
    reuse: Reuse = Reuse.REJECT
    conflict: Conflict = Conflict.FAIL
    metadata: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    first_asked_ms_ago: int | None = None
    """The caller may have made this very request before, so long ago, without hearing what became of it."""

    def blobs(self) -> frozenset[BlobRef]:
        """Those of the graph and of the inputs."""
        if not self.inputs:
            return self.source.blobs
        return self.source.blobs.union(*(payload.blobs() for payload in self.inputs.values()))


@frozen
class NewEvent:
    """A request to send an event."""

    workflow_id: str
    key: str
    event_id: str
    payload: Payload


@frozen
class SentEvent:
    """What became of an event that was sent."""

    run_id: str
    sequence: int
    is_duplicate: bool
    committed_ms: int
