"""The methods of the API that are served over HTTP, and the call of `api` behind each.

A new service is one entry of the table. Methods that take a stream of requests have no entry: they need gRPC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message

from perdure.model import frozen
from perdure.service.api.caller import Caller
from perdure.service.api.calls import Calls

Call: TypeAlias = Callable[[Any, Caller], Any]
"""Gives an awaitable of the answer, or an asynchronous iterator of answers."""
PACKAGE: Final = "perdure.v1"


@frozen
class Method:
    """A method of the API. `call` is None if it takes a stream."""

    path: str
    descriptor: MethodDescriptor
    request: type[Message]
    call: Call | None

    @property
    def gives_stream(self) -> bool:
        return self.descriptor.server_streaming

    @property
    def is_streaming(self) -> bool:
        return self.call is None or self.gives_stream

    @property
    def verbs(self) -> tuple[str, ...]:
        """Those of HTTP by which it is called."""
        is_safe = self.descriptor.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
        return ("GET", "POST") if is_safe and not self.is_streaming else ("POST",)


def methods(calls: Calls) -> dict[str, Method]:
    """All methods, by path."""
    pool = descriptor_pool.Default()
    found = {}
    for name, of_service in _table(calls).items():
        for descriptor in pool.FindServiceByName(f"{PACKAGE}.{name}").methods:
            path = f"/{PACKAGE}.{name}/{descriptor.name}"
            call = None if descriptor.client_streaming else of_service[descriptor.name]
            found[path] = Method(path, descriptor, message_factory.GetMessageClass(descriptor.input_type), call)
    return found


def _table(calls: Calls) -> Mapping[str, Mapping[str, Call]]:
    runs, batches, lists, actors, blobs, system = (
        calls.runs,
        calls.batches,
        calls.lists,
        calls.actors,
        calls.blobs,
        calls.system,
    )
    return {
        "WorkflowService": {
            "Run": runs.run,
            "BatchRun": batches.run,
            "Resume": runs.resume,
            "Cancel": runs.cancel,
            "GetOutput": runs.output,
            "BatchGetOutput": batches.get_output,
            "SendEvent": calls.events.send,
            "BatchSendEvents": batches.send_events,
            "GetStatus": runs.status,
            "GetMetadata": _of_anybody(runs.metadata),
            "ListWorkflows": _of_anybody(lists.workflows),
            "ListTasks": _of_anybody(lists.tasks),
            "DeleteWorkflow": runs.delete,
            "Watch": _of_anybody(calls.watcher.watch),
        },
        "ActorService": {
            "GetOrCreateActor": actors.get_or_create,
            "GetActor": actors.get,
            "CallActor": actors.call,
            "QueryActor": actors.query,
            "GetActorCall": actors.result,
            "ListActorCalls": _of_anybody(actors.calls),
            "DropActorCall": actors.drop,
            "ReplaceActorClass": actors.replace_class,
            "ListActors": _of_anybody(lists.actors),
            "DeleteActor": actors.delete,
        },
        "BlobService": {
            "DownloadBlob": _of_anybody(blobs.download),
            "GetBlob": _of_anybody(blobs.find),
        },
        "FunctionService": {
            "ListFunctions": _of_anybody(calls.functions.list),
            "GetFunction": _of_anybody(calls.functions.get),
        },
        "SystemService": {
            "GetSystemInfo": _at_once(system.info),
            "ListEngines": _of_anybody(lambda _request: system.engines()),
            "CollectBlobs": _of_anybody(lambda _request: system.collect_blobs()),
        },
    }


def _of_anybody(call: Callable[[Any], Any]) -> Call:
    """A call for which nothing matters of its caller."""
    return lambda request, _caller: call(request)


def _at_once(answer: Callable[[], Message]) -> Call:
    """A call that is answered without waiting."""

    async def call(_request: Any, _caller: Caller) -> Message:
        return answer()

    return call
