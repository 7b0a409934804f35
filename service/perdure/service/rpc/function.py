"""FunctionService over gRPC."""

from __future__ import annotations

from perdure.service.api.functions import FunctionCalls
from perdure.service.rpc.context import Context
from perdure.v1 import function_service_pb2 as pb
from perdure.v1 import function_service_pb2_grpc


class FunctionServicer(function_service_pb2_grpc.FunctionServiceServicer):
    """A face of `api.functions`."""

    def __init__(self, functions: FunctionCalls) -> None:
        self._functions = functions

    async def ListFunctions(self, request: pb.ListFunctionsRequest, context: Context) -> pb.ListFunctionsResponse:
        return await self._functions.list(request)

    async def GetFunction(self, request: pb.GetFunctionRequest, context: Context) -> pb.GetFunctionResponse:
        return await self._functions.get(request)
