"""WorkflowService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator

from perdure.service.api.batch import BatchCalls
from perdure.service.api.events import EventCalls
from perdure.service.api.listing import ListCalls
from perdure.service.api.runs import RunCalls
from perdure.service.api.streaming import Method, Streams
from perdure.service.api.watch import Watcher
from perdure.service.rpc.context import Context, RpcCaller, messages_of
from perdure.v1 import workflow_service_pb2 as pb
from perdure.v1 import workflow_service_pb2_grpc


class WorkflowServicer(workflow_service_pb2_grpc.WorkflowServiceServicer):
    """A face of `api`: each method passes its request on, with what is known of the caller where that matters."""

    def __init__(
        self,
        runs: RunCalls,
        events: EventCalls,
        lists: ListCalls,
        batches: BatchCalls,
        watcher: Watcher,
        streams: Streams,
    ) -> None:
        self._runs = runs
        self._events = events
        self._lists = lists
        self._batches = batches
        self._watcher = watcher
        self._streams = streams
        self._streamed = Method("StreamRuns", runs.run, pb.StreamRunsResponse, pb.StreamedRunAnswer)

    async def Run(self, request: pb.RunRequest, context: Context) -> pb.RunResponse:
        return await self._runs.run(request, RpcCaller(context))

    async def StreamRuns(
        self, request_iterator: AsyncIterator[pb.StreamRunsRequest], context: Context
    ) -> AsyncIterator[pb.StreamRunsResponse]:
        async for answer in self._streams.serve(self._streamed, messages_of(request_iterator)):
            yield answer

    async def BatchRun(self, request: pb.BatchRunRequest, context: Context) -> pb.BatchRunResponse:
        return await self._batches.run(request, RpcCaller(context))

    async def Resume(self, request: pb.ResumeRequest, context: Context) -> pb.ResumeResponse:
        return await self._runs.resume(request, RpcCaller(context))

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        return await self._runs.cancel(request, RpcCaller(context))

    async def GetOutput(self, request: pb.GetOutputRequest, context: Context) -> pb.GetOutputResponse:
        return await self._runs.output(request, RpcCaller(context))

    async def BatchGetOutput(self, request: pb.BatchGetOutputRequest, context: Context) -> pb.BatchGetOutputResponse:
        return await self._batches.get_output(request, RpcCaller(context))

    async def SendEvent(self, request: pb.SendEventRequest, context: Context) -> pb.SendEventResponse:
        return await self._events.send(request, RpcCaller(context))

    async def BatchSendEvents(self, request: pb.BatchSendEventsRequest, context: Context) -> pb.BatchSendEventsResponse:
        return await self._batches.send_events(request, RpcCaller(context))

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        return await self._runs.status(request, RpcCaller(context))

    async def GetMetadata(self, request: pb.GetMetadataRequest, context: Context) -> pb.GetMetadataResponse:
        return await self._runs.metadata(request)

    async def ListWorkflows(self, request: pb.ListWorkflowsRequest, context: Context) -> pb.ListWorkflowsResponse:
        return await self._lists.workflows(request)

    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.ListTasksResponse:
        return await self._lists.tasks(request)

    async def DeleteWorkflow(self, request: pb.DeleteWorkflowRequest, context: Context) -> pb.DeleteWorkflowResponse:
        return await self._runs.delete(request, RpcCaller(context))

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        async for answer in self._watcher.watch(request):
            yield answer
