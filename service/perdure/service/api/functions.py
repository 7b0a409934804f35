"""Calls about registered functions."""

from __future__ import annotations

from perdure.service.api import pages, requests
from perdure.service.catalogue.catalogue import Catalogue
from perdure.service.common import limits
from perdure.v1 import function_service_pb2 as pb


class FunctionCalls:
    """Reads; every call may be repeated."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def list(self, request: pb.ListFunctionsRequest) -> pb.ListFunctionsResponse:
        """Functions by name, then from the newest version to the oldest."""
        prefix = requests.text(request.name_prefix, "name_prefix", required=False)
        question = (prefix, request.all_versions)
        start = requests.read_token(request.page_token, question, requests.is_number) or 0
        limit = requests.page_size(request.page_size)
        found = await self._catalogue.list(prefix, all_versions=request.all_versions)
        page, answer = pages.Page(limit), pb.ListFunctionsResponse()
        for position, info in enumerate(found[start:], start):
            told = self._told(info)
            if not page.fits(told):
                answer.next_page_token = requests.make_token(question, position)
                break
            answer.functions.append(told)
        return answer

    async def get(self, request: pb.GetFunctionRequest) -> pb.GetFunctionResponse:
        """A function. Raises FunctionNotFoundError."""
        name = requests.text(request.name, "name")
        version = requests.text(request.version, "version", limit=limits.ID_CHARS_MAX, required=False)
        return pb.GetFunctionResponse(function=self._told(await self._catalogue.find(name, version)))

    def _told(self, info: pb.FunctionInfo) -> pb.FunctionInfo:
        told = pb.FunctionInfo()
        told.CopyFrom(info)
        told.is_served = self._catalogue.is_served(info)
        return told
