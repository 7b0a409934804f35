"""Requests of clients as values: runs to make, events to send."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import field

from perdure.model import BlobRef, Payload, frozen
from perdure.service.common.repeat import Repeat
from perdure.service.common.uses import names_of, use
from perdure.service.machines.source import RunSource
from perdure.storage.writes import Write


class Reuse(enum.Enum):
    """Whether the id of a final run may be used again."""

    REJECT = enum.auto()
    ALLOW_IF_UNSUCCESSFUL = enum.auto()
    ALLOW = enum.auto()


class Conflict(enum.Enum):
    """The policy for an id that belongs to a run that is not final."""

    FAIL = enum.auto()
    USE_EXISTING = enum.auto()
    CANCEL_EXISTING = enum.auto()


@frozen
class NewRun:
    """A request to run a graph. An empty `workflow_id` means the `request_id`, or the run id if that is empty too."""

    namespace: str
    workflow_id: str
    request_id: str
    source: RunSource
    inputs: Mapping[str, Payload] = field(default_factory=dict)
    reuse: Reuse = Reuse.REJECT
    conflict: Conflict = Conflict.FAIL
    metadata: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    repeat: Repeat | None = None

    def blobs(self) -> frozenset[BlobRef]:
        """The blobs of the graph and of the inputs."""
        if not self.inputs:
            return self.source.blobs
        return self.source.blobs.union(*(payload.blobs() for payload in self.inputs.values()))

    def uses(self, run_id: str) -> list[Write]:
        """The write that stores that the run uses the blobs of its inputs; none if there are none."""
        return use(run_id, names_of(blob for payload in self.inputs.values() for blob in payload.blobs()))


@frozen
class NewEvent:
    """A request to send an event."""

    workflow_id: str
    key: str
    event_id: str
    payload: Payload


@frozen
class SentEvent:
    """The result of sending an event."""

    run_id: str
    sequence: int
    is_duplicate: bool
    committed_ms: int
