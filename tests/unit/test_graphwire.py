"""Graphs, options and shapes on the wire: there and back, shared parts, and what is malformed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import graphwire, optionwire, wire
from perdure.model import (
    Call,
    Function,
    Index,
    InputRef,
    InvalidSpec,
    Key,
    NodeRef,
    Payload,
    Resources,
    RetryRule,
    Shape,
    Sleep,
    Spec,
    SpecNode,
    TaskOptions,
    TaskRef,
    Wait,
    WaitEvent,
)
from perdure.options import Options
from perdure.v1 import payload_pb2, spec_pb2

text = st.text(max_size=12)
names = st.text(min_size=1, max_size=12)
amounts = st.floats(0, 1e12)
resources = st.builds(
    Resources,
    st.none() | amounts,
    st.none() | amounts,
    st.none() | st.integers(0, 2**63 - 1),
    st.dictionaries(names, amounts, max_size=3).map(lambda found: tuple(sorted(found.items()))),
    text,
)
objects = st.sampled_from(["", '{"pip":["x"]}', '{"env_vars":{"A":"1"},"n":2.5}'])
payloads = st.builds(Payload, names, st.binary(max_size=20))
scheduling = (
    st.sampled_from(["", "DEFAULT", "SPREAD"])
    | text.map(lambda name: f"node:{name}")
    | text.map(lambda name: f"node?:{name}")
    | payloads
)
shapes = st.builds(Shape, resources, objects, scheduling)
durations = st.integers(0, 315_576_000_000_000)
retries = st.builds(
    RetryRule,
    st.just(-1) | st.integers(1, 2**31 - 1),
    durations,
    durations,
    st.floats(1, 1e300),
    st.floats(0, 1),
    st.booleans(),
    st.lists(text, max_size=2).map(tuple),
    st.lists(text, max_size=2).map(tuple),
)
options = st.just(TaskOptions()) | st.builds(
    TaskOptions,
    text,
    shapes,
    retries,
    st.none() | durations.filter(bool),
    st.booleans(),
    st.none() | st.booleans(),
    objects,
    allow_inplace=st.booleans(),
)
paths = st.lists(st.builds(Index, st.integers(-9, 9)) | st.builds(Key, text), max_size=2).map(tuple)
pickled = st.builds(
    lambda code, name: Function(hashlib.sha256(code).hexdigest(), name, Payload("python/pickle", code), "", "3.11"),
    st.binary(max_size=8),
    text,
)
registered = st.builds(lambda name, version: Function(f"{name}@{version}", name, None, version), names, text)
moments = st.integers(-62_135_596_800_000, 253_402_300_799_999)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Any graph: nodes refer to those before them."""
    nodes: list[SpecNode] = []
    functions = draw(st.lists(pickled | registered, min_size=1, max_size=3, unique_by=lambda function: function.key))
    for number in range(draw(st.integers(1, 6))):
        before = [node.id for node in nodes]
        some = st.lists(st.sampled_from(before), max_size=2, unique=True) if before else st.just([])
        refs: Any = st.builds(InputRef, names, paths) | st.builds(TaskRef, names, paths)
        if before:
            refs |= st.builds(NodeRef, st.sampled_from(before), paths)
        calls = st.builds(Call, st.sampled_from(functions), payloads, st.lists(refs, max_size=3).map(tuple))
        waits = st.builds(WaitEvent, names, st.none() | durations)
        waited: Any = st.builds(TaskRef, names) | (
            st.builds(NodeRef, st.sampled_from(before)) if before else st.nothing()
        )
        groups = st.lists(waited, min_size=1, max_size=3, unique=True).map(tuple)
        wait_fors = groups.flatmap(
            lambda group: st.builds(Wait, st.just(group), st.integers(1, len(group)), st.none() | durations)
        )
        sleeps = durations.map(lambda ms: Sleep(delay_ms=ms)) | moments.map(lambda ms: Sleep(until_ms=ms))
        action = draw(calls | waits | sleeps | wait_fors)
        after = () if isinstance(action, Wait) else tuple(draw(some))
        nodes.append(SpecNode(f"n{number}", action, after, draw(options)))
    callers = draw(st.lists(names, max_size=2).map(tuple))
    return Spec(tuple(nodes), draw(st.sampled_from(nodes)).id, callers)


@given(specs())
@settings(max_examples=60)
def test_graphs_come_back(spec: Spec) -> None:
    data = graphwire.encode_spec(spec)
    back = graphwire.decode_spec(data)
    assert back == spec
    assert graphwire.encode_spec(back) == data


@given(shapes)
def test_shapes_come_back(shape: Shape) -> None:
    assert optionwire.shape_from_proto(optionwire.shape_to_proto(shape)) == shape


@given(resources)
def test_resources_come_back(found: Resources) -> None:
    assert optionwire.resources_from_proto(optionwire.resources_to_proto(found)) == found


@given(pickled | registered)
def test_functions_come_back(function: Function) -> None:
    assert wire.function_from_proto(wire.function_to_proto(function)) == function


@given(st.binary(max_size=100))
def test_any_bytes_are_a_graph_or_an_error(data: bytes) -> None:
    with pytest.raises(InvalidSpec):
        graphwire.decode_spec(data)


def test_what_is_equal_is_shared() -> None:
    function = Function("m:f@", "m:f")
    busy = TaskOptions(retry=RetryRule(max_attempts=9))
    nodes = tuple(SpecNode(f"n{number}", Call(function, Payload("x")), (), busy) for number in range(50))
    message = graphwire.spec_to_proto(Spec(nodes, "n0"))
    assert len(message.functions) == 1
    back = graphwire.spec_from_proto(message)
    assert len({id(node.options) for node in back.nodes}) == 1
    assert len({id(node.action.function) for node in back.nodes if isinstance(node.action, Call)}) == 1


# ------------------------------------------------------------------------------ what other languages send


def call(**fields: Any) -> spec_pb2.TaskNode:
    function = spec_pb2.FunctionRef(registered=spec_pb2.RegisteredFunction(name="m:f"))
    return spec_pb2.TaskNode(function=function, **fields)


def graph_of(*nodes: spec_pb2.Node, output: str = "a", **fields: Any) -> spec_pb2.WorkflowSpec:
    return spec_pb2.WorkflowSpec(nodes=nodes, output=spec_pb2.Arg(node=spec_pb2.NodeRef(node_id=output)), **fields)


def json_arg(value: object) -> spec_pb2.Arg:
    return spec_pb2.Arg(payload=payload_pb2.Payload(encoding="json/plain", data=json.dumps(value).encode()))


def node_arg(name: str) -> spec_pb2.Arg:
    return spec_pb2.Arg(node=spec_pb2.NodeRef(node_id=name))


def test_composed_arguments_are_numbered_in_a_fixed_order() -> None:
    entries = spec_pb2.ArgMap(entries={"y": node_arg("c"), "x": node_arg("b")})
    task = call(
        args=[json_arg(1), spec_pb2.Arg(list=spec_pb2.ArgList(items=[node_arg("d"), json_arg(2)]))],
        kwargs={"z": spec_pb2.Arg(input=spec_pb2.InputRef(name="i")), "m": spec_pb2.Arg(map=entries)},
    )
    leaves = [spec_pb2.Node(id=name, task=call()) for name in "bcd"]
    spec = graphwire.spec_from_proto(graph_of(*leaves, spec_pb2.Node(id="a", task=task)))
    action = spec.nodes[-1].action
    assert isinstance(action, Call)
    assert action.refs == (NodeRef("d"), NodeRef("b"), NodeRef("c"), InputRef("i"))
    assert graphwire.decode_spec(graphwire.encode_spec(spec)) == spec


def test_default_options_are_those_of_nodes_that_say_nothing() -> None:
    usual = spec_pb2.TaskOptions(checkpoint=False, retry=spec_pb2.RetryPolicy(max_attempts=2), task_id="ignored")
    own = spec_pb2.TaskOptions(catch_exceptions=True, task_id="mine")
    spec = graphwire.spec_from_proto(
        graph_of(
            spec_pb2.Node(id="a", task=call()),
            spec_pb2.Node(id="b", task=call(), options=own),
            default_options=usual,
        )
    )
    first, second = (node.options for node in spec.nodes)
    assert (first.checkpoint, first.retry.max_attempts, first.catch_exceptions) == (False, 2, False)
    assert (second.checkpoint, second.retry.max_attempts, second.catch_exceptions) == (False, 2, True)
    assert second.task_id == "mine"


@pytest.mark.parametrize(
    ("message", "are_retried"),
    [
        (None, False),
        (spec_pb2.RetryPolicy(max_attempts=5), False),
        (spec_pb2.RetryPolicy(retry_application_errors=True), True),
        (spec_pb2.RetryPolicy(retryable_types=["builtins.OSError"]), True),
        (spec_pb2.RetryPolicy(non_retryable_types=["builtins.OSError"]), True),
        (spec_pb2.RetryPolicy(retryable_types=["builtins.OSError"], retry_application_errors=False), False),
    ],
)
def test_errors_of_user_code_are_retried_only_when_asked(
    message: spec_pb2.RetryPolicy | None, are_retried: bool
) -> None:
    """The same default as that of `@perdure.task`."""
    options = spec_pb2.TaskOptions(retry=message) if message is not None else spec_pb2.TaskOptions()
    spec = graphwire.spec_from_proto(graph_of(spec_pb2.Node(id="a", task=call(), options=options)))
    assert spec.nodes[0].options.retry.application_errors is are_retried
    assert not Options().to_model().retry.application_errors


def test_a_retry_policy_that_says_little_means_the_usual() -> None:
    message = spec_pb2.RetryPolicy(initial_interval=Duration(seconds=2))
    spec = graphwire.spec_from_proto(
        graph_of(spec_pb2.Node(id="a", task=call(), options=spec_pb2.TaskOptions(retry=message)))
    )
    assert spec.nodes[0].options.retry == RetryRule(initial_interval_ms=2_000, max_interval_ms=200_000)


def deep(levels: int) -> spec_pb2.Arg:
    arg = json_arg(1)
    for _ in range(levels):
        arg = spec_pb2.Arg(list=spec_pb2.ArgList(items=[arg]))
    return arg


NOT_A_NUMBER = float("nan")
MALFORMED: list[tuple[spec_pb2.WorkflowSpec, str]] = [
    (spec_pb2.WorkflowSpec(), "the output of a graph is a node, without a path"),
    (spec_pb2.WorkflowSpec(output=json_arg(1)), "the output of a graph is a node, without a path"),
    (
        spec_pb2.WorkflowSpec(
            output=spec_pb2.Arg(node=spec_pb2.NodeRef(node_id="a", path=[spec_pb2.PathStep(index=0)]))
        ),
        "the output of a graph is a node, without a path",
    ),
    (graph_of(), "the output names the node 'a'"),
    (graph_of(spec_pb2.Node(id="a")), "a node is a task, an event"),
    (graph_of(spec_pb2.Node(task=call())), "a node id has 1 to 256 characters"),
    (graph_of(spec_pb2.Node(id="a", task=call()), spec_pb2.Node(id="a", task=call())), "two nodes have the id 'a'"),
    (graph_of(spec_pb2.Node(id="a", task=call(), after=["b"])), "needs 'b'"),
    (graph_of(spec_pb2.Node(id="a", task=call(), after=["a"])), "cycle"),
    (graph_of(spec_pb2.Node(id="a", task=spec_pb2.TaskNode())), "a function is registered or pickled"),
    (graph_of(spec_pb2.Node(id="a", task=call()), functions=[spec_pb2.FunctionRef()]), "registered or pickled"),
    (
        graph_of(spec_pb2.Node(id="a", task=spec_pb2.TaskNode(function=spec_pb2.FunctionRef(shared=0)))),
        "the graph has no shared function 0",
    ),
    (
        graph_of(
            spec_pb2.Node(
                id="a",
                task=spec_pb2.TaskNode(
                    function=spec_pb2.FunctionRef(registered=spec_pb2.RegisteredFunction(version="1"))
                ),
            )
        ),
        "a registered function has a name",
    ),
    (
        graph_of(
            spec_pb2.Node(
                id="a",
                task=spec_pb2.TaskNode(function=spec_pb2.FunctionRef(pickled=spec_pb2.PickledFunction())),
            )
        ),
        "a payload names its encoding",
    ),
    (graph_of(spec_pb2.Node(id="a", task=call(args=[spec_pb2.Arg()]))), "an argument is a payload, a node, an input"),
    (graph_of(spec_pb2.Node(id="a", task=call(args=[deep(33)]))), "arguments may be nested 32 deep"),
    (
        graph_of(spec_pb2.Node(id="a", task=call(arguments=payload_pb2.Payload(encoding="x"), args=[json_arg(1)]))),
        "a task has args and kwargs, or arguments and refs, not both",
    ),
    (
        graph_of(spec_pb2.Node(id="a", task=call(arguments=payload_pb2.Payload(encoding="x"), refs=[spec_pb2.Ref()]))),
        "a reference is to a node",
    ),
    (graph_of(spec_pb2.Node(id="a", event=spec_pb2.EventNode())), "an event key has 1 to 256 characters"),
    (graph_of(functions=[spec_pb2.FunctionRef(shared=0)]), "a function of the graph is registered or pickled"),
    (graph_of(spec_pb2.Node(id="a", timer=spec_pb2.TimerNode())), "a timer has a delay or a time"),
    (
        graph_of(spec_pb2.Node(id="a", timer=spec_pb2.TimerNode(delay=Duration(seconds=-1)))),
        "a duration must be between 0 and 10,000 years",
    ),
    (
        graph_of(spec_pb2.Node(id="a", timer=spec_pb2.TimerNode(time=Timestamp(seconds=2**62)))),
        "a time must be between the years 1 and 9999",
    ),
    *(
        (graph_of(spec_pb2.Node(id="a", task=call(), options=bad)), what)
        for bad, what in (
            (spec_pb2.TaskOptions(attempt_timeout=Duration()), "attempt_timeout must be above 0"),
            (spec_pb2.TaskOptions(retry=spec_pb2.RetryPolicy(max_attempts=-2)), "max_attempts is 1 or more"),
            (spec_pb2.TaskOptions(retry=spec_pb2.RetryPolicy(jitter=2)), "jitter must be between 0 and 1"),
            (spec_pb2.TaskOptions(retry=spec_pb2.RetryPolicy(backoff_coefficient=0.5)), "backoff_coefficient"),
            (spec_pb2.TaskOptions(retry=spec_pb2.RetryPolicy(backoff_coefficient=NOT_A_NUMBER)), "backoff_coefficient"),
            (spec_pb2.TaskOptions(retry=spec_pb2.RetryPolicy(backoff_coefficient=float("inf"))), "backoff_coefficient"),
            (spec_pb2.TaskOptions(resources=spec_pb2.Resources(num_cpus=-1)), "num_cpus must be 0 or more"),
            (spec_pb2.TaskOptions(resources=spec_pb2.Resources(custom={"x": NOT_A_NUMBER})), "resource 'x' must be"),
            (spec_pb2.TaskOptions(resources=spec_pb2.Resources(custom={"x": float("inf")})), "resource 'x' must be"),
            (
                spec_pb2.TaskOptions(scheduling=spec_pb2.SchedulingStrategy(name="PACK")),
                "a scheduling strategy is named",
            ),
        )
    ),
]


@pytest.mark.parametrize(("message", "what"), MALFORMED, ids=[what for _, what in MALFORMED])
def test_a_malformed_graph_is_refused_with_the_reason(message: spec_pb2.WorkflowSpec, what: str) -> None:
    for read in (graphwire.spec_from_proto, lambda sent: graphwire.decode_spec(sent.SerializeToString())):
        with pytest.raises(InvalidSpec) as info:
            read(message)
        assert what in str(info.value)


def test_the_node_that_is_malformed_is_named() -> None:
    good, bad = spec_pb2.Node(id="a", task=call()), spec_pb2.Node(id="bad", event=spec_pb2.EventNode())
    with pytest.raises(InvalidSpec) as info:
        graphwire.spec_from_proto(graph_of(good, bad))
    assert info.value.node_id == "bad"
    assert str(info.value).startswith("node 'bad': ")


def test_malformed_options_of_all_nodes_are_refused() -> None:
    usual = spec_pb2.TaskOptions(attempt_timeout=Duration())
    with pytest.raises(InvalidSpec, match="attempt_timeout must be above 0"):
        graphwire.spec_from_proto(graph_of(spec_pb2.Node(id="a", task=call()), default_options=usual))


def test_a_scheduling_strategy_of_nothing_is_none() -> None:
    assert optionwire.scheduling_from_proto(spec_pb2.SchedulingStrategy()) == ""
