"""Arguments that clients in other languages send one by one: each is a value, which may be a blob."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc.aio

from integration.wire_calls import Stubs, call_node, graph, output_of, run_request
from perdure.service.common import limits
from perdure.v1 import actor_service_pb2, actor_service_pb2_grpc, blob_service_pb2, payload_pb2, spec_pb2

LARGE = ["x" * 1_000] * 2_000


class Kept:
    def __init__(self, first: list[str]) -> None:
        self.values = [first]

    def put(self, *, values: list[str]) -> list[int]:
        self.values.append(values)
        return [len(each) for each in self.values]


async def stored(stubs: Stubs, value: Any) -> payload_pb2.Payload:
    data = json.dumps(value).encode()
    assert len(data) > limits.INLINE_PAYLOAD_BYTES_MAX

    def requests() -> Iterator[blob_service_pb2.UploadBlobRequest]:
        yield blob_service_pb2.UploadBlobRequest(header=blob_service_pb2.UploadBlobHeader(size_bytes=len(data)))
        for offset in range(0, len(data), 256 * 1024):
            piece = payload_pb2.BlobChunk(offset=offset, data=data[offset : offset + 256 * 1024])
            yield blob_service_pb2.UploadBlobRequest(chunk=piece)

    answer = await stubs.blobs.UploadBlob(requests())
    return payload_pb2.Payload(encoding="json/plain", blob=answer.blob)


async def test_a_blob_is_an_argument_of_a_task_and_a_part_of_one(stubs: Stubs) -> None:
    large = spec_pb2.Arg(payload=await stored(stubs, LARGE))
    node = call_node("n", "operator:length_hint")
    node.task.args.append(large)
    parts = call_node("m", "operator:getitem")
    parts.task.args.add().list.items.extend([large, large])
    parts.task.args.append(spec_pb2.Arg(payload=payload_pb2.Payload(encoding="json/plain", data=b"1")))
    length = call_node("l", "operator:length_hint", {"node": "m"})
    both = call_node("sum", "operator:add", {"node": "n"}, {"node": "l"})
    await stubs.workflows.Run(run_request(graph(node, parts, length, both)))
    outcome = await output_of(stubs, "w")
    assert json.loads(outcome.output.data) == 2 * len(LARGE), outcome


async def test_a_blob_is_an_argument_of_a_method_and_of_a_constructor(stubs: Stubs, channel: grpc.aio.Channel) -> None:
    actors: Any = actor_service_pb2_grpc.ActorServiceStub(channel)
    large = await stored(stubs, LARGE)
    kept = actor_service_pb2.ActorClass(
        function=spec_pb2.FunctionRef(registered=spec_pb2.RegisteredFunction(name=f"{__name__}:Kept"))
    )
    made = actor_service_pb2.GetOrCreateActorRequest(
        actor_id="a", actor_class=kept, arguments=actor_service_pb2.MethodArguments(args=[large])
    )
    made.wait.FromSeconds(20)
    assert (await actors.GetOrCreateActor(made)).actor.status == actor_service_pb2.ACTOR_STATUS_READY
    call = actor_service_pb2.CallActorRequest(
        actor_id="a",
        method="put",
        arguments=actor_service_pb2.MethodArguments(kwargs={"values": large}),
        request_id="1",
    )
    call.wait.FromSeconds(20)
    answer = await actors.CallActor(call)
    assert json.loads(answer.outcome.output.data) == [len(LARGE)] * 2, answer
