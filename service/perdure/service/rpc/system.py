"""SystemService over gRPC."""

from __future__ import annotations

from perdure.service.api.system import SystemCalls
from perdure.service.rpc.context import Context
from perdure.v1 import system_service_pb2 as pb
from perdure.v1 import system_service_pb2_grpc


class SystemServicer(system_service_pb2_grpc.SystemServiceServicer):
    """A face of `api.system`."""

    def __init__(self, system: SystemCalls) -> None:
        self._system = system

    async def GetSystemInfo(self, request: pb.GetSystemInfoRequest, context: Context) -> pb.GetSystemInfoResponse:
        return self._system.info()

    async def ListEngines(self, request: pb.ListEnginesRequest, context: Context) -> pb.ListEnginesResponse:
        return await self._system.engines()

    async def CollectBlobs(self, request: pb.CollectBlobsRequest, context: Context) -> pb.CollectBlobsResponse:
        return await self._system.collect_blobs()
