"""Graphs of Python functions: how they are bound, and the spec that they become."""

from __future__ import annotations

import functools
import operator
from datetime import UTC, datetime, timedelta
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perdure
from perdure import codec, conversion, functions, graph
from perdure.arguments import decode_arguments
from perdure.conversion import to_spec
from perdure.model import Attribute, Call, Index, InputRef, Key, NodeRef, Sleep, Spec, SpecNode, WaitEvent


@perdure.task
def one() -> int:
    """Gives one."""
    return 1


@perdure.task
def add(left: int, right: int = 0, *, scale: int = 1) -> int:
    return (left + right) * scale


@perdure.task
def gather(*parts: Any, **named: Any) -> Any:
    return parts, named


def call_of(spec: Spec, node_id: str) -> Call:
    (node,) = [node for node in spec.nodes if node.id == node_id]
    assert isinstance(node.action, Call)
    return node.action


def arguments_of(call: Call) -> tuple[Any, Any]:
    return decode_arguments(call.arguments, lambda index, nested: call.refs[index])


def output_of(spec: Spec) -> SpecNode:
    (node,) = [node for node in spec.nodes if node.id == spec.output]
    return node


# ------------------------------------------------------------------------------ tasks


def test_a_task_is_its_function_when_called() -> None:
    assert add(1, 2, scale=2) == 6
    assert one.__name__ == "one"
    assert one.__doc__ == "Gives one."
    assert one.__wrapped__ is one.function


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "add(): missing a required argument: 'left'"),
        ((1, 2, 3), {}, "add(): too many positional arguments"),
        ((1,), {"wrong": 1}, "add(): got an unexpected keyword argument 'wrong'"),
        ((1,), {"left": 1}, "add(): multiple values for argument 'left'"),
    ],
)
def test_a_wrong_call_is_refused_when_it_is_bound(args: Any, kwargs: Any, text: str) -> None:
    for _ in range(2):  # also when the signature is known already
        with pytest.raises(TypeError) as info:
            add.bind(*args, **kwargs)
        assert str(info.value) == text


def test_a_task_is_made_of_something_that_can_be_called() -> None:
    with pytest.raises(TypeError, match="a task is made of a function, not of an int"):
        perdure.task(5)  # type: ignore[call-overload]


def test_things_that_can_be_called_are_functions() -> None:
    half = perdure.task(functools.partial(operator.floordiv, 10))
    spec = to_spec(half.bind(2))
    function = functions.load_function(call_of(spec, spec.output).function)
    assert function(2) == 5


def test_a_task_of_a_module_is_pickled_by_its_name_with_any_options() -> None:
    assert cloudpickle.loads(cloudpickle.dumps(add)) is add
    assert len(cloudpickle.dumps(add)) < 100
    inner = cloudpickle.loads(cloudpickle.dumps(add.options(num_cpus=2)))
    assert inner(1, 2) == 3
    assert inner.default_options.num_cpus == 2


def test_a_task_of_a_function_is_pickled_with_its_code() -> None:
    step = 5

    @perdure.task(num_cpus=3)
    def local(x: int) -> int:
        return x + step

    back = cloudpickle.loads(cloudpickle.dumps(local))
    assert back(1) == 6
    assert back.default_options.num_cpus == 3


def test_options_of_a_task_do_not_change_what_is_sent_for_its_function() -> None:
    spec = to_spec(gather.bind(add.bind(1), add.options(num_cpus=2).bind(2)))
    functions = {node.action.function.key for node in spec.nodes if isinstance(node.action, Call)}
    assert len(functions) == 2


# ------------------------------------------------------------------------------ nodes and parts


def test_a_chain_is_in_order_inner_first() -> None:
    spec = to_spec(add.bind(add.bind(one.bind(), 2), 3))
    names = [node.id for node in spec.nodes]
    assert [name.rpartition(".")[2] for name in names] == ["one", "add", "add_1"]
    assert spec.output == names[-1]
    assert call_of(spec, names[2]).refs == (NodeRef(names[1]),)
    args, kwargs = arguments_of(call_of(spec, names[1]))
    assert (args, kwargs) == ((NodeRef(names[0]), 2), {})


def test_a_task_alone_is_a_graph() -> None:
    spec = to_spec(one)
    assert [node.id for node in spec.nodes] == [spec.output]


def test_a_node_used_twice_is_one_task() -> None:
    shared = one.bind()
    spec = to_spec(add.bind(add.bind(shared, shared), shared))
    assert len(spec.nodes) == 3
    inner = call_of(spec, spec.nodes[1].id)
    assert inner.refs == (NodeRef(spec.nodes[0].id),)


def test_nodes_inside_containers_are_found() -> None:
    parts = [one.bind(), {"k": (add.bind(1),)}]
    spec = to_spec(gather.bind(parts, named={"n": one.bind()}))
    assert len(spec.nodes) == 4
    assert len(call_of(spec, spec.output).refs) == 3


def test_parts_of_nodes_are_stepped_into_by_the_worker() -> None:
    node: Any = gather.bind()
    spec = to_spec(gather.bind(node[0], node["k"][-1]))
    inner = spec.nodes[0].id
    assert call_of(spec, spec.output).refs == (
        NodeRef(inner, (Index(0),)),
        NodeRef(inner, (Key("k"), Index(-1))),
    )


def test_inputs_are_named() -> None:
    order = perdure.input("order")
    spec = to_spec(gather.bind(order, order.items[0]["price"], order.ref, order._name))
    assert spec.inputs() == {"order"}
    refs = call_of(spec, spec.output).refs
    assert refs[:3] == (
        InputRef("order"),
        InputRef("order", (Attribute("items"), Index(0), Key("price"))),
        InputRef("order", (Attribute("ref"),)),
    )


@pytest.mark.parametrize("what", [one.bind(), add.bind(1)["k"], perdure.input("x"), perdure.event("e")])  # type: ignore[index]
def test_what_has_no_value_yet_cannot_be_used_as_one(what: Any) -> None:
    with pytest.raises(TypeError, match="has no value yet and cannot be tested"):
        bool(what)
    with pytest.raises(TypeError, match="has no value yet and cannot be iterated over"):
        list(what)
    with pytest.raises(TypeError, match="picked by an integer or a string, not by a slice"):
        what[1:2]


@pytest.mark.parametrize("what", [add.bind(1)["k"], perdure.input("x")])  # type: ignore[index]
def test_a_graph_ends_in_a_node(what: object) -> None:
    assert graph.is_node(what)
    with pytest.raises(TypeError, match="a graph ends in a node, not in a part of one or in an input"):
        to_spec(what)


@pytest.mark.parametrize("what", [5, None, "x", [one.bind()], print])
def test_what_is_no_node_is_no_graph(what: object) -> None:
    assert not graph.is_node(what)
    with pytest.raises(TypeError, match=r"expected a node \(made by \.bind\(\)\), not"):
        to_spec(what)


def test_a_node_says_what_it_is() -> None:
    assert repr(one.options(task_id="first").bind()) == "<perdure node first>"
    assert repr(perdure.event("e")) == "<perdure event 'e'>"
    assert repr(perdure.sleep(1)) == "<perdure sleep of 1 s>"


def test_arguments_are_captured_when_the_graph_is_converted() -> None:
    numbers = [1]
    spec = to_spec(gather.bind(numbers))
    numbers.append(2)
    assert arguments_of(call_of(spec, spec.output))[0] == ([1],)


def test_an_argument_that_cannot_be_pickled_is_refused() -> None:
    with pytest.raises(codec.CodecError, match="the arguments cannot be pickled"):
        to_spec(gather.bind(__import__("threading").Lock()))


# ------------------------------------------------------------------------------ names


def test_ids_are_given_once_each_and_names_stay() -> None:
    steps = [one.options(task_id="step").bind() for _ in range(3)]
    spec = to_spec(gather.bind(*steps, one.options(task_id="step_1").bind()))
    assert [node.id for node in spec.nodes[:4]] == ["step", "step_1", "step_2", "step_1_1"]
    assert [node.options.task_id for node in spec.nodes[:4]] == ["", "step", "step", "step_1"]


@given(st.lists(st.sampled_from(["a", "a_1", "a_2", "a_1_1", "b"]), max_size=20))
def test_no_id_is_given_twice(wanted: list[str]) -> None:
    names = conversion._names(wanted)
    assert len(set(names)) == len(names) == len(wanted)
    assert all(name.startswith(want) for name, want in zip(names, wanted, strict=True))


def test_the_name_of_a_function_has_nothing_that_an_id_may_not_have() -> None:
    assert graph.slug_of(lambda: 1).endswith(
        "test_the_name_of_a_function_has_nothing_that_an_id_may_not_have.locals.lambda"
    )


def test_a_function_with_a_very_long_name_can_be_a_task() -> None:
    def work() -> int:
        return 1

    work.__qualname__ = "x" * 1000
    spec = to_spec(gather.bind(*(perdure.task(work).bind() for _ in range(12))))
    assert len({node.id for node in spec.nodes}) == 13


# ------------------------------------------------------------------------------ events and timers


def test_an_event_is_a_node() -> None:
    spec = to_spec(gather.bind(perdure.event("paid", timeout=1.5), perdure.event("sent", task_id="wait")))
    assert [node.id for node in spec.nodes[:2]] == ["event", "wait"]
    assert spec.nodes[0].action == WaitEvent("paid", 1500)
    assert spec.nodes[1].action == WaitEvent("sent", None)


@pytest.mark.parametrize("key", ["", "x" * 257, 5, None])
def test_an_event_key_has_a_length(key: Any) -> None:
    with pytest.raises(ValueError, match=r"event_key: (is required|has 1 to 256 printable characters)"):
        perdure.event(key)


@pytest.mark.parametrize(
    ("seconds", "ms"), [(0, 0), (0.25, 250), (timedelta(hours=1), 3_600_000), (315_576_000_000, None)]
)
def test_a_sleep_is_seconds(seconds: Any, ms: int | None) -> None:
    spec = to_spec(perdure.sleep(seconds))
    assert output_of(spec).action == Sleep(delay_ms=ms if ms is not None else 315_576_000_000_000)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e300, timedelta(seconds=-1)])
def test_a_sleep_cannot_be_just_any_number(seconds: Any) -> None:
    for make in (lambda: perdure.sleep(seconds), lambda: perdure.event("e", timeout=seconds)):
        with pytest.raises(ValueError, match="a time must be between 0 seconds and 10,000 years"):
            make()


@pytest.mark.parametrize("seconds", ["1", True, None, [1]])
def test_a_sleep_is_a_number(seconds: Any) -> None:
    with pytest.raises(TypeError, match="a time is a number of seconds or a timedelta"):
        perdure.sleep(seconds)


def test_a_sleep_comes_after_nodes() -> None:
    first, second = one.bind(), add.bind(1)
    spec = to_spec(perdure.sleep(1, after=[first, second]))
    assert output_of(spec).after == tuple(node.id for node in spec.nodes[:2])
    single = to_spec(perdure.sleep(1, after=first))
    assert output_of(single).after == (single.nodes[0].id,)
    with pytest.raises(TypeError, match="after takes a node or a list of nodes"):
        perdure.sleep(1, after=[5])


def test_a_moment_has_a_zone() -> None:
    spec = to_spec(perdure.sleep_until(datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)))
    assert output_of(spec).action == Sleep(until_ms=1_767_323_045_678)
    with pytest.raises(ValueError, match="the moment needs a time zone"):
        perdure.sleep_until(datetime(2026, 1, 2))


def test_an_input_has_a_name() -> None:
    with pytest.raises(ValueError, match="input: is required"):
        perdure.input("")


# ------------------------------------------------------------------------------ size and shape


def test_a_chain_of_ten_thousand_is_no_recursion() -> None:
    node: Any = one.bind()
    for _ in range(10_000):
        node = add.bind(node, 1)
    spec = to_spec(node)
    assert len(spec.nodes) == 10_001
    assert len({node.action.function.key for node in spec.nodes if isinstance(node.action, Call)}) == 2


def test_a_chain_of_ten_thousand_sleeps_is_no_recursion() -> None:
    node: Any = one.bind()
    for _ in range(10_000):
        node = perdure.sleep(0, after=node)
    assert len(to_spec(node).nodes) == 10_001


def test_a_fan_of_ten_thousand_has_one_id_each() -> None:
    spec = to_spec(gather.bind(*(add.bind(number) for number in range(10_000))))
    assert len({node.id for node in spec.nodes}) == 10_001
    assert len({id(node.action.function) for node in spec.nodes if isinstance(node.action, Call)}) == 2


@given(st.lists(st.lists(st.integers(0, 100), max_size=4), min_size=1, max_size=30))
def test_any_graph_is_converted_with_every_node_once(shape: list[list[int]]) -> None:
    """Node n is bound to some of those before it; the spec checks itself that there is no cycle."""
    nodes: list[Any] = []
    needs: list[set[int]] = []
    for picks in shape:
        before = [pick % len(nodes) for pick in picks] if nodes else []
        needs.append(set(before).union(*(needs[pick] for pick in before)))
        nodes.append(gather.options(task_id=f"n{len(nodes)}").bind(*(nodes[pick] for pick in before)))
    spec = to_spec(nodes[-1])
    assert {node.id for node in spec.nodes} == {f"n{number}" for number in needs[-1] | {len(nodes) - 1}}
    places = {node.id: place for place, node in enumerate(spec.nodes)}
    assert all(places[need] < places[node.id] for node in spec.nodes for need in node.needs)


def test_what_graphs_are_made_of_is_shown_in_short() -> None:
    @perdure.task
    def step(x: Any) -> Any:
        return x

    order = perdure.input("order")
    node: Any = step.bind([order] * 1_000)
    shown = {
        repr(step).replace(__name__, "m").replace(step.__qualname__, "step"): "<perdure task m.step>",
        repr(order): "<perdure input order>",
        repr(order.lines[0]["price"]): "<perdure input order.lines[0]['price']>",
        repr(step.options(task_id="one").bind(1)): "<perdure node one>",
        repr(perdure.event("go")): "<perdure event 'go'>",
        repr(perdure.sleep(1.5)): "<perdure sleep of 1.5 s>",
        repr(perdure.sleep_until(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))): "<perdure sleep until 1000 ms>",
    }
    assert all(found == wanted for found, wanted in shown.items()), shown
    assert repr(node[3]["a"]).endswith("step[3]['a']>")
    assert len(repr(node)) < 200
