"""Calls that list runs and tasks, page by page."""

from __future__ import annotations

from typing import Final

from perdure import wire
from perdure.service.api import answers, pages, requests
from perdure.service.api.filters import parse_filter, parse_order
from perdure.service.api.places import Place
from perdure.service.operations.queries import Queries
from perdure.storage.ports import ChangeStore
from perdure.storage.rows import RunQuery
from perdure.v1 import workflow_service_pb2 as pb

ROWS_AT_ONCE: Final = 250
"""Rows per read. They contain metadata, which may be large and which a listing does not return."""


class ListCalls:
    """Answers with pages. A page token is bound to its query: with another filter or order it is refused with
    InvalidPageTokenError."""

    def __init__(self, queries: Queries, store: ChangeStore) -> None:
        self._queries = queries
        self._store = store

    async def workflows(self, request: pb.ListWorkflowsRequest) -> pb.ListWorkflowsResponse:
        namespace, limit = requests.namespace(request.namespace), requests.page_size(request.page_size)
        question = (namespace, request.filter, request.order_by)
        order_by, descending = parse_order(request.order_by)
        kind = str if order_by == "workflow_id" else int
        place = requests.read_token(request.page_token, question, lambda place: requests.is_row(place, kind))
        where = parse_filter(request.filter)
        after = (place[0], place[1]) if place else None
        answer = pb.ListWorkflowsResponse(watch_token=Place(await self._store.last_change()).token())
        page = pages.Page(limit)
        while True:
            wanted = min(limit - page.count, ROWS_AT_ONCE)
            views = await self._queries.list_runs(RunQuery(namespace, wanted, where, order_by, descending, after))
            for view in views:
                workflow = answers.workflow(view)
                if not page.fits(workflow):
                    answer.next_page_token = requests.make_token(question, after)
                    return answer
                answer.workflows.append(workflow)
                after = (getattr(view.row, order_by), view.row.run_id)
            if len(views) < wanted:
                return answer
            if page.count == limit:
                answer.next_page_token = requests.make_token(question, after)
                return answer

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
