"""Calls that list runs and tasks, page by page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeVar

from google.protobuf.message import Message

from perdure import wire
from perdure.service.api import answers, pages, requests
from perdure.service.api.filters import ACTORS, parse_filter, parse_order
from perdure.service.api.places import Place
from perdure.service.operations.queries import Queries
from perdure.service.runs.views import RunView
from perdure.storage.ports import ChangeStore
from perdure.storage.queries import RunQuery
from perdure.v1 import actor_service_pb2 as actors_pb
from perdure.v1 import workflow_service_pb2 as pb

M = TypeVar("M", bound=Message)

ROWS_AT_ONCE: Final = 250
"""Rows per read. They contain metadata, which may be large and which a listing does not return."""


class ListCalls:
    """Answers with pages. A page token is bound to its query: with another filter or order it is refused with
    InvalidPageTokenError."""

    def __init__(self, queries: Queries, store: ChangeStore) -> None:
        self._queries = queries
        self._store = store

    async def workflows(self, request: pb.ListWorkflowsRequest) -> pb.ListWorkflowsResponse:
        namespace = requests.namespace(request.namespace)
        question = (namespace, request.filter, request.order_by)
        order_by, descending = parse_order(request.order_by)
        query = RunQuery(namespace, 0, parse_filter(request.filter), order_by, descending)
        answer = pb.ListWorkflowsResponse(watch_token=Place(await self._store.last_change()).token())
        found, answer.next_page_token = await self._page(request, question, query, answers.workflow)
        answer.workflows.extend(found)
        return answer

    async def actors(self, request: actors_pb.ListActorsRequest) -> actors_pb.ListActorsResponse:
        namespace = requests.namespace(request.namespace)
        question = (namespace, request.filter, "actors")
        query = RunQuery(namespace, 0, parse_filter(request.filter, ACTORS), of_actors=True)
        found, token = await self._page(request, question, query, lambda view: answers.actor(view.row))
        return actors_pb.ListActorsResponse(actors=found, next_page_token=token)

    async def _page(
        self,
        request: pb.ListWorkflowsRequest | actors_pb.ListActorsRequest,
        question: tuple[str, ...],
        query: RunQuery,
        answer: Callable[[RunView], M],
    ) -> tuple[list[M], str]:
        """The messages of one page, and the token of the next one."""
        limit = requests.page_size(request.page_size)
        kind = str if query.order_by == "workflow_id" else int
        place = requests.read_token(request.page_token, question, lambda place: requests.is_row(place, kind))
        after = (place[0], place[1]) if place else None
        page, found = pages.Page(limit), list[M]()
        while True:
            wanted = min(limit - page.count, ROWS_AT_ONCE)
            views = await self._queries.list_runs(replace(query, limit=wanted, after=after))
            for view in views:
                message = answer(view)
                if not page.fits(message):
                    return found, requests.make_token(question, after)
                found.append(message)
                after = (getattr(view.row, query.order_by), view.row.run_id)
            if len(views) < wanted:
                return found, ""
            if page.count == limit:
                return found, requests.make_token(question, after)

    async def tasks(self, request: pb.ListTasksRequest) -> pb.ListTasksResponse:
        namespace, workflow_id = requests.named(request)
        if unknown := [number for number in request.statuses if number not in wire.TASK_STATUS_BACK]:
            raise requests.invalid("statuses", f"has the unknown state {unknown[0]}")
        wanted = {wire.TASK_STATUS_BACK[number] for number in request.statuses}
        run = await self._queries.row(namespace, workflow_id)
        question = (namespace, run.run_id, sorted(request.statuses))  # pages are of one run
        start = requests.read_token(request.page_token, question, requests.is_number) or 0
        limit = requests.page_size(request.page_size)
        tasks = await self._queries.tasks(
            namespace, workflow_id, run.run_id, statuses=wanted, start=start, limit=limit + 1
        )
        page, answer = pages.Page(limit), pb.ListTasksResponse()
        for position, view in tasks:
            task = answers.task(view)
            if not page.fits(task):
                answer.next_page_token = requests.make_token(question, position)
                break
            answer.tasks.append(task)
        return answer
