"""All public calls, as the composition root gives them to the transports."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.service.api.actors import ActorCalls
from perdure.service.api.batch import BatchCalls
from perdure.service.api.blobs import BlobCalls
from perdure.service.api.events import EventCalls
from perdure.service.api.functions import FunctionCalls
from perdure.service.api.listing import ListCalls
from perdure.service.api.runs import RunCalls
from perdure.service.api.system import SystemCalls
from perdure.service.api.watch import Watcher


@dataclass(frozen=True)
class Calls:
    """The calls by their subjects."""

    runs: RunCalls
    batches: BatchCalls
    events: EventCalls
    lists: ListCalls
    watcher: Watcher
    actors: ActorCalls
    blobs: BlobCalls
    functions: FunctionCalls
    system: SystemCalls
