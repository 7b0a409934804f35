"""Invalid filters, orders and page tokens."""

from __future__ import annotations

import base64

import grpc
import grpc.aio
import pytest

from integration import wire_calls
from integration.wire_calls import Stubs, event_node, graph, refused, run_request, sum_of
from perdure.v1 import workflow_service_pb2 as pb

Code = grpc.StatusCode
pytestmark = pytest.mark.usefixtures("goes_on_serving")


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("status", 6),
        ("status = FLYING", 9),
        ("status < FAILED", 9),
        ("flavour = sweet", 0),
        ("priority = high", 11),
        ("priority = 99999999999999999999", 11),
        ("create_time > yesterday", 14),
        ("create_time > 2026-01-01", 14),
        ("(status = FAILED", 16),
        ("status = FAILED AND", 19),
        ("status = FAILED OR OR", 21),
        ("status = FAILED status = FAILED", 16),
        ("status : FAI", 0),
        ('name = "open', 7),
        ("(" * 20 + "status = FAILED" + ")" * 20, 16),
        ("name = " + "x" * 5_000, 4_000),
        ("= 1", 0),
    ],
)
async def test_filters_that_do_not_parse(stubs: Stubs, text: str, position: int) -> None:
    refusal = await refused(
        stubs.workflows.ListWorkflows(pb.ListWorkflowsRequest(filter=text)), Code.INVALID_ARGUMENT, "INVALID_FILTER"
    )
    assert refusal.metadata == {"position": str(position)}
    call = stubs.workflows.Watch(pb.WatchRequest(filter=text))
    await refused(wire_calls.events_of(call), Code.INVALID_ARGUMENT, "INVALID_FILTER")


@pytest.mark.parametrize("text", ["flavour", "create_time up", "create_time desc asc", "create_time;"])
async def test_orders_that_there_are_not(stubs: Stubs, text: str) -> None:
    request = pb.ListWorkflowsRequest(order_by=text)
    await refused(stubs.workflows.ListWorkflows(request), Code.INVALID_ARGUMENT, "INVALID_FILTER")


async def test_filters_are_data(stubs: Stubs) -> None:
    for value in ("'; DROP TABLE runs; --", '\\" OR 1=1', "%", "\\\\"):
        text = f'workflow_id = "{value}" OR labels.x = "{value}"'
        assert not (await stubs.workflows.ListWorkflows(pb.ListWorkflowsRequest(filter=text))).workflows
        run = run_request(sum_of(1, 1), value)
        await stubs.workflows.Run(run)
        await wire_calls.output_of(stubs, value)


def forged(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


TOKENS = ["x", "????", "ü", forged("5"), forged("null"), forged("[]"), forged('{"a": 1, "b": 2}'), forged("[" * 9_999)]


@pytest.mark.parametrize("token", [*TOKENS, forged('["0123456789abcdef", 1]')], ids=range(len(TOKENS) + 1))
async def test_invalid_page_tokens_are_refused(stubs: Stubs, token: str) -> None:
    ask = stubs.workflows
    await ask.Run(run_request(graph(event_node("wait", "k"))))
    for call in (
        ask.ListWorkflows(pb.ListWorkflowsRequest(page_token=token)),
        ask.ListTasks(pb.ListTasksRequest(workflow_id="w", page_token=token)),
        wire_calls.events_of(ask.Watch(pb.WatchRequest(resume_token=token))),
    ):
        await refused(call, Code.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_page_tokens_of_another_question(stubs: Stubs) -> None:
    ask = stubs.workflows
    for name in ("a", "b", "c"):
        await ask.Run(run_request(sum_of(1, 1), name))
    page = await ask.ListWorkflows(pb.ListWorkflowsRequest(page_size=1))
    token = page.next_page_token
    assert len((await ask.ListWorkflows(pb.ListWorkflowsRequest(page_size=5, page_token=token))).workflows) == 2
    for call in (
        ask.ListWorkflows(pb.ListWorkflowsRequest(page_token=token, filter="status = FAILED")),
        ask.ListWorkflows(pb.ListWorkflowsRequest(page_token=token, order_by="create_time")),
        ask.ListWorkflows(pb.ListWorkflowsRequest(page_token=token, namespace="other")),
        ask.ListTasks(pb.ListTasksRequest(workflow_id="a", page_token=token)),
        wire_calls.events_of(ask.Watch(pb.WatchRequest(resume_token=token))),
    ):
        await refused(call, Code.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")
