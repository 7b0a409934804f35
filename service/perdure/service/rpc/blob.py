"""BlobService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator

from perdure.service.api.blobs import BlobCalls
from perdure.service.rpc.context import Context
from perdure.v1 import blob_service_pb2 as pb
from perdure.v1 import blob_service_pb2_grpc


class BlobServicer(blob_service_pb2_grpc.BlobServiceServicer):
    """A face of `api.blobs`."""

    def __init__(self, blobs: BlobCalls) -> None:
        self._blobs = blobs

    async def UploadBlob(
        self, request_iterator: AsyncIterator[pb.UploadBlobRequest], context: Context
    ) -> pb.UploadBlobResponse:
        return await self._blobs.upload(request_iterator)

    async def DownloadBlob(
        self, request: pb.DownloadBlobRequest, context: Context
    ) -> AsyncIterator[pb.DownloadBlobResponse]:
        async for answer in self._blobs.download(request):
            yield answer

    async def GetBlob(self, request: pb.GetBlobRequest, context: Context) -> pb.GetBlobResponse:
        return await self._blobs.find(request)
