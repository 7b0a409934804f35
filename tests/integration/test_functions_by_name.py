"""Functions that clients call by registered names: over raw gRPC, as other languages do."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import perdure
from integration.engine_settings import settings_on
from integration.wire_calls import Stubs, refused
from perdure import registry
from perdure.service.app import RunningServer, running_server
from perdure.v1 import (
    actor_service_pb2,
    actor_service_pb2_grpc,
    function_service_pb2,
    function_service_pb2_grpc,
    spec_pb2,
    workflow_pb2,
    workflow_service_pb2,
)

WAIT = Duration(seconds=25)


@dataclasses.dataclass
class Order:
    id: str
    amount: float
    due: datetime.date
    raw: bytes = b""


ORDER = {"id": "o-1", "amount": 1.5, "due": "2026-01-02", "raw": "-_8="}


def charge(order: Order, note: str = "") -> Order:
    """Charge an order."""
    assert isinstance(order, Order)
    return Order(order.id + note, order.amount * 2, order.due + datetime.timedelta(1), order.raw)


def both(order: Order) -> Any:
    made = perdure.task(charge)
    return made.bind(made.bind(order, "a"), note="b")


def today() -> Any:
    return datetime.date(2026, 1, 2)


def numbered(version: int) -> Any:
    def number() -> int:
        return version

    return number


def fail(text: str) -> None:
    raise ValueError(text)


def obscure() -> Any:
    return object


def echo(value: Any) -> Any:
    return value


def join(*texts: str, by: str = "") -> str:
    return by.join(texts)


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start

    def incr(self, by: int = 1) -> int:
        self.n += by
        return self.n

    def due(self, day: datetime.date) -> datetime.date:
        assert isinstance(day, datetime.date)
        return day + datetime.timedelta(self.n)

    @perdure.readonly
    def peek(self) -> int:
        return self.n


@pytest.fixture(autouse=True)
def functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    perdure.task(name="charge", version="3", max_retries=0)(charge)
    perdure.task(name="both")(both)
    perdure.task(name="today")(today)
    perdure.task(name="fail", max_retries=0)(fail)
    perdure.task(name="obscure")(obscure)
    perdure.task(name="echo")(echo)
    perdure.task(name="join")(join)
    for version in (9, 10):
        perdure.task(name="number", version=str(version))(numbered(version))
    perdure.actor(name="counter", max_pending_calls=5)(Counter)


@pytest.fixture
async def stubs(server: RunningServer) -> Any:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield Stubs.on(channel)


def entry(name: str, arguments: Mapping[str, Any] | str = "", version: str = "") -> spec_pb2.WorkflowSource:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return spec_pb2.WorkflowSource(entrypoint=spec_pb2.Entrypoint(name=name, version=version, arguments=text))


def request(source: spec_pb2.WorkflowSource, workflow_id: str = "w") -> workflow_service_pb2.RunRequest:
    return workflow_service_pb2.RunRequest(workflow_id=workflow_id, source=source, wait=WAIT)


async def run(stubs: Stubs, *named: Any, workflow_id: str = "w", **more: Any) -> workflow_pb2.Outcome:
    answer = await stubs.workflows.Run(request(entry(*named, **more), workflow_id))
    outcome: workflow_pb2.Outcome = answer.outcome
    return outcome


def value(outcome: workflow_pb2.Outcome) -> Any:
    assert outcome.WhichOneof("kind") == "output", outcome
    if outcome.output.encoding == "binary/null":
        return None
    assert outcome.output.encoding == "json/plain"
    return json.loads(outcome.output.data)


# ------------------------------------------------------------------------------ one call


async def test_a_function_is_called_with_json_and_answers_with_json(stubs: Stubs) -> None:
    outcome = await run(stubs, "charge", {"order": ORDER})
    assert value(outcome) == {"id": "o-1", "amount": 3.0, "due": "2026-01-03", "raw": "-_8="}


async def test_a_function_that_returns_a_graph_is_a_workflow(stubs: Stubs) -> None:
    assert value(await run(stubs, "both", {"order": ORDER})) == {
        "id": "o-1ab",
        "amount": 6.0,
        "due": "2026-01-04",
        "raw": "-_8=",
    }


async def test_without_hints_the_output_is_json_where_it_can_be(stubs: Stubs) -> None:
    assert value(await run(stubs, "today")) == "2026-01-02"
    outcome = await run(stubs, "obscure", workflow_id="w2")
    assert outcome.output.encoding.startswith("python/pickle")


async def test_the_name_of_the_run_is_that_of_the_function(stubs: Stubs) -> None:
    await run(stubs, "today")
    status = await stubs.workflows.GetStatus(workflow_service_pb2.GetStatusRequest(workflow_id="w"))
    assert status.workflow.name == "today"
    tasks = await stubs.workflows.ListTasks(workflow_service_pb2.ListTasksRequest(workflow_id="w"))
    assert [task.task_id for task in tasks.tasks] == ["today"]


async def test_a_failure_is_an_answer(stubs: Stubs) -> None:
    outcome = await run(stubs, "fail", {"text": "no money"})
    assert outcome.failure.type == "builtins.ValueError"
    assert outcome.failure.message == "no money"


async def test_options_of_the_function_apply_unless_a_node_sets_its_own(stubs: Stubs) -> None:
    await run(stubs, "charge", {"order": ORDER})
    metadata = await stubs.workflows.GetMetadata(
        workflow_service_pb2.GetMetadataRequest(workflow_id="w", task_id="charge")
    )
    assert json_format.MessageToDict(metadata)["metadata"]["taskOptions"]["max_retries"] == 0


async def test_a_repeated_request_is_the_same_although_another_version_came(stubs: Stubs) -> None:
    first = workflow_service_pb2.RunRequest(request_id="r", source=entry("number"), wait=WAIT)
    assert value((await stubs.workflows.Run(first)).outcome) == 10
    perdure.task(name="number", version="11")(numbered(11))
    answer = await stubs.workflows.Run(first)
    assert not answer.started
    assert value(answer.outcome) == 10
    assert value(await run(stubs, "number", workflow_id="w2")) == 11
    assert value(await run(stubs, "number", "", "9", workflow_id="w3")) == 9


async def test_a_repeated_request_is_answered_although_its_arguments_would_not_fit_now(stubs: Stubs) -> None:
    first = workflow_service_pb2.RunRequest(request_id="r", source=entry("number"), wait=WAIT)
    attached = workflow_service_pb2.RunRequest(
        workflow_id="r", request_id="a", source=entry("number"), wait=WAIT, id_conflict_policy=2
    )
    assert value((await stubs.workflows.Run(first)).outcome) == 10
    graph_of = graph({"nodes": [{"id": "n", **call("number")}], "output": {"node": {"nodeId": "n"}}})
    again = workflow_service_pb2.RunRequest(request_id="g", source=graph_of, wait=WAIT)
    await stubs.workflows.Run(again)

    def number(least: int) -> int:
        return least

    perdure.task(name="number", version="11")(number)
    for repeated in (first, again):
        answer = await stubs.workflows.Run(repeated)
        assert not answer.started
        assert value(answer.outcome) == 10
    other = workflow_service_pb2.RunRequest(request_id="r", source=entry("number", {"least": "x"}))
    await refused(stubs.workflows.Run(other), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENTS")
    await refused(stubs.workflows.Run(attached), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENTS")


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("arguments", "pointer"),
    [
        ({}, "/order"),
        ({"order": {**ORDER, "due": "tomorrow"}}, "/order/due"),
        ({"order": ORDER, "note": 7}, "/note"),
        ({"order": ORDER, "more": 7}, "/more"),
        ("[]", ""),
        ("{", ""),
        ('{"order": NaN}', ""),
        ('{"order": {"id": "a", "amount": 1e999, "due": "2026-01-02"}}', "/order"),
        ('{"\\ud800": 1}', "/"),
        ({"order": {**ORDER, "\ud800": 1}}, "/order"),
        ("[" * 50_000, ""),
        ({"order": ORDER, "note": "\ud800"}, "/note"),
    ],
)
async def test_wrong_arguments_are_refused_before_anything_runs(stubs: Stubs, arguments: Any, pointer: str) -> None:
    refusal = await refused(
        stubs.workflows.Run(request(entry("charge", arguments))),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_ARGUMENTS",
    )
    assert refusal.metadata["pointer"] == pointer
    assert refusal.fields == (f"arguments{pointer}",)
    status = workflow_service_pb2.GetStatusRequest(workflow_id="w")
    await refused(stubs.workflows.GetStatus(status), grpc.StatusCode.NOT_FOUND, "WORKFLOW_NOT_FOUND")


@pytest.mark.parametrize(
    ("name", "version"), [("nothing", ""), ("charge", "4"), ("builtins.eval", ""), ("charge", "x" * 64)]
)
async def test_an_unknown_function_is_refused(stubs: Stubs, name: str, version: str) -> None:
    refusal = await refused(
        stubs.workflows.Run(request(entry(name, {}, version))), grpc.StatusCode.NOT_FOUND, "FUNCTION_NOT_FOUND"
    )
    assert refusal.metadata["function"] == name


@pytest.mark.parametrize(("name", "version"), [("", ""), ("a\n", ""), ("operator:add", ""), ("charge", "x" * 65)])
async def test_what_is_no_name_is_refused(stubs: Stubs, name: str, version: str) -> None:
    call = stubs.workflows.Run(request(entry(name, {}, version)))
    await refused(call, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_arguments_have_the_size_of_an_inline_value_at_most(stubs: Stubs) -> None:
    text = json.dumps({"value": "x" * 1_048_576})
    call = stubs.workflows.Run(request(entry("echo", text)))
    await refused(call, grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE")


async def test_a_class_of_actors_is_no_task(stubs: Stubs) -> None:
    call = stubs.workflows.Run(request(entry("counter")))
    await refused(call, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SPEC")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(arguments=JSON | st.fixed_dictionaries({"order": JSON | st.just(ORDER)}, optional={"note": JSON}))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_arguments_are_taken_or_refused(server: RunningServer, arguments: Any) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        text = json.dumps(arguments)
        request_id = hashlib.sha256(text.encode()).hexdigest()
        fuzzed = workflow_service_pb2.RunRequest(request_id=request_id, source=entry("charge", text), wait=WAIT)
        code = grpc.StatusCode.OK
        try:
            answer = await Stubs.on(channel).workflows.Run(fuzzed)
            value(answer.outcome)
        except grpc.aio.AioRpcError as error:
            code = error.code()
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)


# ------------------------------------------------------------------------------ graphs of other languages


def graph(text: Mapping[str, Any]) -> spec_pb2.WorkflowSource:
    return spec_pb2.WorkflowSource(spec=json_format.ParseDict(text, spec_pb2.WorkflowSpec()))


def payload(data: Any) -> dict[str, Any]:
    return {"payload": {"encoding": "json/plain", "data": base64.b64encode(json.dumps(data).encode()).decode()}}


def call(name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"task": {"function": {"registered": {"name": name}}, "args": list(args), "kwargs": kwargs}}


async def test_values_between_registered_functions_have_their_types(stubs: Stubs) -> None:
    source = graph(
        {
            "nodes": [
                {"id": "first", **call("charge", payload(ORDER))},
                {"id": "second", **call("charge", order={"node": {"nodeId": "first"}}, note=payload("!"))},
                {"id": "all", **call("echo", {"list": {"items": [{"node": {"nodeId": "second"}}, payload(7)]}})},
            ],
            "output": {"node": {"nodeId": "all"}},
        }
    )
    answer = await stubs.workflows.Run(request(source))
    second, seven = value(answer.outcome)
    assert second == {"id": "o-1!", "amount": 6.0, "due": "2026-01-04", "raw": "-_8="}
    assert seven == 7


async def test_any_number_of_arguments_by_position(stubs: Stubs) -> None:
    node = {"id": "a", **call("join", payload("x"), payload("y"), payload("z"), by=payload("-"))}
    source = graph({"nodes": [node], "output": {"node": {"nodeId": "a"}}})
    assert value((await stubs.workflows.Run(request(source))).outcome) == "x-y-z"


@pytest.mark.parametrize(
    ("node", "pointer"),
    [
        (call("charge", payload({})), "/order"),
        (call("charge", payload(ORDER), order=payload(ORDER)), "/order"),
        (call("charge", payload(ORDER), payload("a"), payload("b")), ""),
        (call("charge", {"list": {"items": [payload(1)]}}), "/order"),
        (call("charge", {"map": {"entries": {"id": payload(1)}}}), "/order"),
        (call("charge"), "/order"),
    ],
)
async def test_wrong_arguments_in_a_graph_name_the_node(stubs: Stubs, node: Any, pointer: str) -> None:
    source = graph({"nodes": [{"id": "only", **node}], "output": {"node": {"nodeId": "only"}}})
    refusal = await refused(stubs.workflows.Run(request(source)), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENTS")
    assert refusal.metadata["pointer"] == pointer
    assert refusal.metadata["node_id"] == "only"


async def test_an_argument_that_only_the_worker_sees_fails_the_task(stubs: Stubs) -> None:
    source = graph(
        {
            "nodes": [
                {"id": "first", **call("echo", payload({"id": 7}))},
                {"id": "second", **call("charge", {"node": {"nodeId": "first"}})},
            ],
            "output": {"node": {"nodeId": "second"}},
        }
    )
    outcome = (await stubs.workflows.Run(request(source))).outcome
    assert outcome.failure.type == "perdure.InvalidArguments"
    assert "/order/" in outcome.failure.message


@pytest.mark.parametrize("name", ["math:sqrt", "builtins:eval", "os:system"])
async def test_functions_that_nobody_registered_need_permission(stubs: Stubs, name: str) -> None:
    source = graph({"nodes": [{"id": "a", **call(name, payload("1"))}], "output": {"node": {"nodeId": "a"}}})
    await refused(stubs.workflows.Run(request(source)), grpc.StatusCode.NOT_FOUND, "FUNCTION_NOT_FOUND")


async def test_modules_that_are_allowed_never_give_builtins() -> None:
    allowing = settings_on("memory:", allow_modules="operator, builtins")
    async with running_server(allowing) as server, grpc.aio.insecure_channel(server.address) as channel:
        stubs = Stubs.on(channel)
        nodes = {"nodes": [{"id": "a", **call("operator:neg", payload(7))}], "output": {"node": {"nodeId": "a"}}}
        assert value((await stubs.workflows.Run(request(graph(nodes)))).outcome) == -7
        nodes["nodes"] = [{"id": "a", **call("builtins:eval", payload("1"))}]
        again = stubs.workflows.Run(request(graph(nodes), "w2"))
        await refused(again, grpc.StatusCode.NOT_FOUND, "FUNCTION_NOT_FOUND")


# ------------------------------------------------------------------------------ actors


async def test_an_actor_is_made_by_the_name_of_its_class(server: RunningServer) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = actor_service_pb2_grpc.ActorServiceStub(channel)
        named = spec_pb2.FunctionRef(registered=spec_pb2.RegisteredFunction(name="counter"))
        made = actor_service_pb2.GetOrCreateActorRequest(
            actor_id="c", actor_class=actor_service_pb2.ActorClass(function=named), wait=WAIT
        )
        made.arguments.kwargs["start"].encoding = "json/plain"
        made.arguments.kwargs["start"].data = b'"many"'
        refusal = await refused(stub.GetOrCreateActor(made), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENTS")
        assert refusal.metadata["pointer"] == "/start"
        made.arguments.kwargs["start"].data = b"40"
        answer = await stub.GetOrCreateActor(made)
        assert list(answer.actor.readonly_methods) == ["peek"]
        called = actor_service_pb2.CallActorRequest(actor_id="c", method="incr", request_id="1", wait=WAIT)
        called.arguments.kwargs["by"].encoding = "json/plain"
        called.arguments.kwargs["by"].data = b"2"
        assert json.loads((await stub.CallActor(called)).outcome.output.data) == 42
        called = actor_service_pb2.CallActorRequest(actor_id="c", method="due", request_id="2", wait=WAIT)
        called.arguments.args.add(encoding="json/plain", data=b'"2026-01-01"')
        assert json.loads((await stub.CallActor(called)).outcome.output.data) == "2026-02-12"
        called.request_id, called.arguments.args[0].data = "3", b'"soon"'
        failure = (await stub.CallActor(called)).outcome.failure
        assert failure.type == "perdure.InvalidArguments"
        assert "/day" in failure.message
        peek = actor_service_pb2.QueryActorRequest(actor_id="c", method="peek")
        assert json.loads((await stub.QueryActor(peek)).outcome.output.data) == 42
        named.registered.name = "charge"
        made.actor_class.function.CopyFrom(named)
        await refused(stub.GetOrCreateActor(made), grpc.StatusCode.NOT_FOUND, "FUNCTION_NOT_FOUND")


# ------------------------------------------------------------------------------ what there is


async def test_functions_are_listed_with_what_they_take(server: RunningServer) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = function_service_pb2_grpc.FunctionServiceStub(channel)
        pb = function_service_pb2
        listed = await stub.ListFunctions(pb.ListFunctionsRequest())
        names = [(info.name, info.version) for info in listed.functions]
        assert names == [
            ("both", ""),
            ("charge", "3"),
            ("counter", ""),
            ("echo", ""),
            ("fail", ""),
            ("join", ""),
            ("number", "10"),
            ("obscure", ""),
            ("today", ""),
        ]
        found: list[str] = []
        token = ""
        while True:
            page = await stub.ListFunctions(
                pb.ListFunctionsRequest(name_prefix="number", all_versions=True, page_size=1, page_token=token)
            )
            found += [info.version for info in page.functions]
            if not (token := page.next_page_token):
                break
        assert found == ["10", "9"]
        info = (await stub.GetFunction(pb.GetFunctionRequest(name="charge"))).function
        assert info.description == "Charge an order."
        assert info.kind == pb.FUNCTION_KIND_TASK
        assert info.is_served
        assert json.loads(info.arguments_schema)["required"] == ["order"]
        assert "Order" in json.loads(info.result_schema)["$defs"]
        counter = (await stub.GetFunction(pb.GetFunctionRequest(name="counter"))).function
        methods = [(method.name, method.readonly) for method in counter.methods]
        assert methods == [("due", False), ("incr", False), ("peek", True)]
        missing = stub.GetFunction(pb.GetFunctionRequest(name="charge", version="4"))
        await refused(missing, grpc.StatusCode.NOT_FOUND, "FUNCTION_NOT_FOUND")
        wrong = stub.ListFunctions(pb.ListFunctionsRequest(page_token="wrong"))
        await refused(wrong, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_functions_stay_known_without_workers(storage: str) -> None:
    if storage == "memory:":
        pytest.skip("keeps nothing")
    pb = function_service_pb2
    async with running_server(settings_on(storage)) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = function_service_pb2_grpc.FunctionServiceStub(channel)
        await stub.GetFunction(pb.GetFunctionRequest(name="charge"))
    registry._registered.clear()
    async with running_server(settings_on(storage)) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = function_service_pb2_grpc.FunctionServiceStub(channel)
        assert not (await stub.GetFunction(pb.GetFunctionRequest(name="charge"))).function.is_served
        stubs = Stubs.on(channel)
        wrong = stubs.workflows.Run(request(entry("charge", {})))
        await refused(wrong, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENTS")
