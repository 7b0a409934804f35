"""ActorService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator

from perdure.service.api.actors import ActorCalls
from perdure.service.api.listing import ListCalls
from perdure.service.api.streaming import Method, Streams
from perdure.service.rpc.context import Context, RpcCaller, messages_of
from perdure.v1 import actor_service_pb2 as pb
from perdure.v1 import actor_service_pb2_grpc


class ActorServicer(actor_service_pb2_grpc.ActorServiceServicer):
    """A face of `api`: each method passes its request on, with what is known of the caller where that matters."""

    def __init__(self, actors: ActorCalls, lists: ListCalls, streams: Streams) -> None:
        self._actors = actors
        self._lists = lists
        self._streams = streams
        self._streamed = Method("CallActors", actors.call, pb.CallActorsResponse, pb.StreamedAnswer)

    async def GetOrCreateActor(
        self, request: pb.GetOrCreateActorRequest, context: Context
    ) -> pb.GetOrCreateActorResponse:
        return await self._actors.get_or_create(request, RpcCaller(context))

    async def GetActor(self, request: pb.GetActorRequest, context: Context) -> pb.GetActorResponse:
        return await self._actors.get(request, RpcCaller(context))

    async def CallActor(self, request: pb.CallActorRequest, context: Context) -> pb.CallActorResponse:
        return await self._actors.call(request, RpcCaller(context))

    async def CallActors(
        self, request_iterator: AsyncIterator[pb.CallActorsRequest], context: Context
    ) -> AsyncIterator[pb.CallActorsResponse]:
        async for answer in self._streams.serve(self._streamed, messages_of(request_iterator)):
            yield answer

    async def QueryActor(self, request: pb.QueryActorRequest, context: Context) -> pb.QueryActorResponse:
        return await self._actors.query(request, RpcCaller(context))

    async def GetActorCall(self, request: pb.GetActorCallRequest, context: Context) -> pb.GetActorCallResponse:
        return await self._actors.result(request, RpcCaller(context))

    async def ListActorCalls(self, request: pb.ListActorCallsRequest, context: Context) -> pb.ListActorCallsResponse:
        return await self._actors.calls(request)

    async def DropActorCall(self, request: pb.DropActorCallRequest, context: Context) -> pb.DropActorCallResponse:
        return await self._actors.drop(request, RpcCaller(context))

    async def ReplaceActorClass(
        self, request: pb.ReplaceActorClassRequest, context: Context
    ) -> pb.ReplaceActorClassResponse:
        return await self._actors.replace_class(request, RpcCaller(context))

    async def ListActors(self, request: pb.ListActorsRequest, context: Context) -> pb.ListActorsResponse:
        return await self._lists.actors(request)

    async def DeleteActor(self, request: pb.DeleteActorRequest, context: Context) -> pb.DeleteActorResponse:
        return await self._actors.delete(request, RpcCaller(context))
