"""Requests and graphs of any shape: what is not good is refused by an error of ours, and nothing else is raised."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from messages import mutated
from perdure import errors, graphwire, wire
from perdure.engine.graph_run.run import Run
from perdure.model import InvalidSpec
from perdure.service.api import requests
from perdure.service.api.filters import parse_filter, parse_order
from perdure.service.machines.graphs import source_of
from perdure.service.machines.source import RunSource
from perdure.v1 import payload_pb2, spec_pb2
from perdure.v1 import workflow_service_pb2 as pb

SHA256 = "ab" * 32
PACKAGE = f"perdure-blob://{SHA256}/1/x.zip"
TEXTS = st.one_of(
    st.sampled_from(["a", "b", "c", "", "\0", "a\nb", "json/plain", "perdure/arguments", "working_dir", "py_modules"]),
    st.sampled_from(
        [SHA256, PACKAGE, "perdure-blob://", f"perdure-blob://{SHA256}/x/y", f"perdure-blob://{SHA256}/²/y"]
    ),
    st.text(max_size=4),
)
MANY = settings(max_examples=200, suppress_health_check=list(HealthCheck))

NULL = payload_pb2.Payload(encoding="binary/null")
LEN = spec_pb2.FunctionRef(registered=spec_pb2.RegisteredFunction(name="builtins:len"))
CODE = spec_pb2.FunctionRef(pickled=spec_pb2.PickledFunction(code=NULL, qualified_name="f"))


def ref(node_id: str) -> spec_pb2.Ref:
    return spec_pb2.Ref(node=spec_pb2.NodeRef(node_id=node_id))


def graph(node: spec_pb2.Node, **about: Any) -> spec_pb2.WorkflowSpec:
    """The node is "b", and comes after "a"."""
    first = spec_pb2.Node(id="a", event=spec_pb2.EventNode(event_key="k"))
    node.id = "b"
    return spec_pb2.WorkflowSpec(nodes=[node, first], output=spec_pb2.Arg(node=spec_pb2.NodeRef(node_id="b")), **about)


def optioned(**options: Any) -> spec_pb2.TaskOptions:
    made = spec_pb2.TaskOptions(task_id="t")
    for name, value in options.items():
        getattr(made, name).update(value)
    return made


GRAPHS = [
    graph(spec_pb2.Node(task=spec_pb2.TaskNode(function=LEN, args=[spec_pb2.Arg(node=spec_pb2.NodeRef(node_id="a"))]))),
    graph(spec_pb2.Node(task=spec_pb2.TaskNode(function=CODE, arguments=NULL, refs=[ref("a")]))),
    graph(spec_pb2.Node(task=spec_pb2.TaskNode(function={"shared": 0}, arguments=NULL)), functions=[LEN]),
    graph(spec_pb2.Node(timer=spec_pb2.TimerNode(delay={"seconds": 1}), after=["a"])),
    graph(
        spec_pb2.Node(
            task=spec_pb2.TaskNode(function=LEN),
            options=spec_pb2.TaskOptions(retry={"initial_interval": {"seconds": 4_000_000_000}}),
        )
    ),
    graph(spec_pb2.Node(wait=spec_pb2.WaitNode(refs=[ref("a")], num_returns=1))),
    graph(
        spec_pb2.Node(
            task=spec_pb2.TaskNode(function=LEN),
            options=optioned(metadata={"m": [1, "x"]}, runtime_env={"working_dir": PACKAGE, "py_modules": [PACKAGE]}),
        )
    ),
]


def source(message: spec_pb2.WorkflowSpec) -> RunSource:
    """As the service makes it of a request."""
    spec = requests.spec(message)
    requests.check_payloads(spec)
    return source_of(spec, message.SerializeToString(deterministic=True))


@pytest.mark.parametrize("message", GRAPHS)
def test_the_graphs_to_begin_with_are_good(message: spec_pb2.WorkflowSpec) -> None:
    source(message)


@MANY
@given(mutated(GRAPHS, TEXTS))
def test_a_graph_is_good_or_refused(message: spec_pb2.WorkflowSpec) -> None:
    try:
        found = source(message)
        Run(found.definition).start(0)
    except (InvalidSpec, errors.PerdureError):
        return
    assert graphwire.decode_spec(graphwire.encode_spec(found.definition)) == found.definition


ENVIRONMENTS = st.recursive(
    st.one_of(TEXTS, st.floats(allow_nan=False), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(TEXTS, inner, max_size=2)),
    max_leaves=4,
)


@MANY
@given(st.dictionaries(st.sampled_from(["working_dir", "py_modules", "env_vars"]), ENVIRONMENTS))
def test_a_runtime_environment_is_good_or_refused(environment: dict[str, Any]) -> None:
    node = spec_pb2.Node(task=spec_pb2.TaskNode(function=LEN), options=optioned(runtime_env=environment))
    with suppress(InvalidSpec, errors.PerdureError):
        source(graph(node))


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x02\x0a\x00"])
def test_composed_arguments_are_read_when_the_graph_comes(data: bytes) -> None:
    """The encoding is that of arguments in which no language is needed: what it names is looked for in them."""
    arguments = payload_pb2.Payload(encoding=wire.ARGUMENTS, data=data)
    with pytest.raises(InvalidSpec, match="node 'b'"):
        source(graph(spec_pb2.Node(task=spec_pb2.TaskNode(function=LEN, arguments=arguments))))


RUN = pb.RunRequest(workflow_id="w", request_id="r", inputs={"a": NULL}, labels={"l": "v"})
ITEM = pb.RunItem(workflow_id="w", request_id="r", inputs={"a": NULL}, labels={"l": "v"})
EVENT = pb.SendEventRequest(workflow_id="w", event_key="k", event_id="e", payload=NULL)
EVENT_ITEM = pb.EventItem(workflow_id="w", event_key="k", event_id="e", payload=NULL)
LIST = pb.ListWorkflowsRequest(filter="status = RUNNING", order_by="create_time")


@pytest.mark.parametrize(
    ("good", "read"),
    [
        (RUN, lambda request: requests.run(request, "default", source(GRAPHS[0]))),
        (ITEM, lambda request: requests.run(request, "default", source(GRAPHS[0]))),
        (EVENT, requests.event),
        (EVENT_ITEM, requests.event),
        (LIST, lambda request: (parse_filter(request.filter), parse_order(request.order_by))),
    ],
    ids=["run", "run item", "event", "event item", "list"],
)
def test_a_request_is_good_or_refused(good: Any, read: Any) -> None:
    read(good)

    @MANY
    @given(mutated([good], TEXTS))
    def look(request: Any) -> None:
        with suppress(errors.PerdureError):
            read(request)

    look()
