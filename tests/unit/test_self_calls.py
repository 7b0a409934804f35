"""`self.other.bind(...)` in methods of actors: nodes that call methods of the same actor."""

from __future__ import annotations

import inspect
import pickle
from types import FunctionType
from typing import Any

import pytest

import perdure
from actors import Actor, failure_of
from perdure import actorwire, codec, selfcalls
from perdure.arguments import decode_arguments
from perdure.model import ACTOR_CALL, Call, MethodCall, NodeRef, Spec
from perdure.worker.values import Value


@perdure.task
def double(value: int) -> int:
    return 2 * value


class Base:
    def update(self, value: int) -> int:
        self.value = value
        return value

    def named(self) -> str:
        return "base"


class Number(Base):
    def __init__(self) -> None:
        self.value = 1
        self.child: Any = None

    def twice(self, update: bool) -> Any:
        step = double.bind(self.value)
        return self.update.step(step) if update else step  # type: ignore[attr-defined]

    def chain(self) -> Any:
        first = self.update.bind(value=5)  # type: ignore[attr-defined]
        return self.add.options(name="second", max_retries=7).bind(first, [first])  # type: ignore[attr-defined]

    def add(self, left: int, right: list[int]) -> int:
        return left + right[0]

    def call(self) -> int:
        return self.update(8) + self.add(1, [2])

    def wrong(self) -> Any:
        return self.update.bind()  # type: ignore[attr-defined]

    def of_another(self) -> Any:
        self.child = Number()
        return self.child.update.bind(1)

    def keep(self) -> None:
        self.child = self.update

    def call_kept(self) -> int:
        self.child(77)
        return self.value

    def removes(self) -> int:
        handlers = [self.update, self.add]
        handlers.remove(self.update)
        return len(handlers)

    def named(self) -> str:
        return super().named() + " number"

    @perdure.readonly
    def read(self) -> int:
        return self.value


def call_of(spec: Spec, place: int) -> tuple[Call, MethodCall]:
    action = spec.nodes[place].action
    assert isinstance(action, Call)
    assert action.arguments.encoding == ACTOR_CALL
    return action, actorwire.decode_call(action.arguments.data)


def test_a_node_calls_a_method_of_the_same_actor() -> None:
    number = Actor(Number)
    spec = number.call("twice", True)
    action, call = call_of(spec, 1)
    assert action.function == number.function
    assert action.refs == (NodeRef(spec.nodes[0].id),)
    assert (call.method, call.refs, call.call_id) == ("update", 1, "")
    assert spec.output == spec.nodes[1].id
    assert "Number.update" in spec.output
    assert number.outcome.state is None


def test_the_call_of_a_node_runs() -> None:
    number = Actor(Number)
    spec = number.call("twice", True)
    action, _ = call_of(spec, 1)
    doubled = Value(codec.encode_value(2).inline())
    state = [Value(number.parts[name]) for name in sorted(number.parts)]
    result = number.runner.run(number.attempt(action.arguments, [doubled, *state]))
    assert number.take(result) == 2  # type: ignore[arg-type]
    assert number.query("read") == 2


def test_arguments_of_nodes_are_values_and_nodes() -> None:
    spec = Actor(Number).call("chain")
    _, first = call_of(spec, 0)
    assert decode_arguments(first.arguments, lambda *_: None) == ((), {"value": 5})
    action, second = call_of(spec, 1)
    assert action.refs == (NodeRef(spec.nodes[0].id),)
    assert decode_arguments(second.arguments, lambda *_: 5) == ((5, [5]), {})
    assert spec.nodes[1].id == "second"
    assert spec.nodes[1].options.retry.max_attempts == 8


def test_a_method_calls_others_directly() -> None:
    number = Actor(Number)
    assert number.call("call") == 11
    assert number.query("read") == 8
    assert number.call("named") == "base number"


def test_arguments_that_do_not_fit_are_told_of_at_once() -> None:
    failure = failure_of(lambda: Actor(Number).call("wrong"))
    assert failure.type == "builtins.TypeError"
    assert "missing a required argument: 'value'" in failure.message
    assert "test_self_calls.py" in failure.stack_trace


def test_a_node_is_no_call_of_another_object() -> None:
    failure = failure_of(lambda: Actor(Number).call("of_another"))
    assert "is for methods that run in the actor" in failure.message


def test_a_method_in_a_field_is_that_of_the_actor() -> None:
    number = Actor(Number)
    number.call("keep")
    number.move()
    assert number.call("call_kept") == 77


def test_methods_of_an_instance_compare_as_bound_methods_do() -> None:
    assert Actor(Number).call("removes") == 1


class Left:
    def name(self) -> str:
        return "left"


class Heir(Left):
    pass


class Right(Left):
    def name(self) -> str:
        return "right"


class Both(Heir, Right):
    pass


def test_an_inherited_method_is_the_one_that_python_finds() -> None:
    selfcalls.prepare(Heir)
    selfcalls.prepare(Both)
    assert Both().name() == "right"
    assert Heir().name() == "left"
    assert Both.name(Both()) == "right"
    assert type(vars(Left)["name"]) is FunctionType


class Plain:
    async def wait(self, for_s: float = 1.0) -> None:
        """Wait."""

    @perdure.readonly
    def read(self) -> int:
        return 1

    @staticmethod
    def of_nothing() -> int:
        return 2

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    @property
    def size(self) -> int:
        return 3


def test_a_prepared_class_is_as_it_was() -> None:
    before = {name: getattr(Plain, name) for name in ("wait", "read")}
    selfcalls.prepare(Plain)
    selfcalls.prepare(Plain)
    plain = Plain()
    assert {name: getattr(Plain, name) for name in ("wait", "read")} == before
    assert inspect.iscoroutinefunction(plain.wait)
    assert str(inspect.signature(plain.wait)) == "(for_s: 'float' = 1.0) -> 'None'"
    assert plain.wait.__name__ == "wait"
    assert plain.wait.__self__ is plain  # type: ignore[attr-defined]
    assert (plain.read(), Plain.of_nothing(), plain.of_class(), plain.size) == (1, 2, "Plain", 3)
    assert repr(plain.wait).startswith("<bound method Plain.wait of")
    assert {plain.read} == {plain.read}
    assert perdure.actor(Plain).options(num_cpus=2).definition.readonly == ("read",)


def test_bind_is_for_methods_that_run() -> None:
    selfcalls.prepare(Plain)
    with pytest.raises(TypeError, match="methods that run in the actor"):
        Plain().read.bind()


def test_a_method_travels_with_its_instance() -> None:
    selfcalls.prepare(Plain)
    assert pickle.loads(pickle.dumps(Plain().read))() == 1


def test_a_class_that_is_unpickled_again_is_prepared_again() -> None:
    class Local:
        def other(self) -> int:
            return 1

        def graph(self) -> Any:
            return self.other.bind()  # type: ignore[attr-defined]

    actor = Actor(Local)
    for _ in range(2):
        spec = actor.call("graph")
        assert len(spec.nodes) == 1
        loaded = actor.runner._load(actor.function)
        for name in ("other", "graph"):
            setattr(loaded, name, getattr(loaded, name))  # as cloudpickle does


def test_pickles_of_a_prepared_class_have_its_functions() -> None:
    class Local(Plain):
        def own(self) -> int:
            return 5

    selfcalls.prepare(Local)
    copy = codec.decode(codec.encode(Local).inline())
    assert type(vars(copy)["own"]) is FunctionType
    assert (copy().own(), copy().read()) == (5, 1)
