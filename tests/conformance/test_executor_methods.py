"""Methods of actors through every executor: the state goes there, and comes back with the value or the graph."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import perdure
from conformance.workbench import RUN, Bench, lease_bench, local_bench
from perdure import actorwire, codec, functions, graphwire
from perdure.arguments import encode_arguments
from perdure.engine.messages import Source, TaskFailed, TaskSucceeded
from perdure.model import ACTOR_CALL, ACTOR_OUTCOME, CONSTRUCTOR, Call, MethodCall, MethodOutcome, Payload, Shape
from perdure.service.executors.port import Attempt, ContinuationReturned, Report
from perdure.storage.rows import ValueKey

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests


@pytest.fixture(params=["local", "leases"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        if request.param == "local":
            yield await stack.enter_async_context(local_bench(tmp_path))
        else:
            bench, _ = await stack.enter_async_context(lease_bench(tmp_path))
            yield bench


@perdure.task
def product(left: int, right: int) -> int:
    return left * right


class Cart:
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.items: list[str] = []
        self.picture = bytes(5_000)

    def add(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)

    def order(self) -> Any:
        self.items.clear()
        self.picture = b"\1" * 100_000
        return product.bind(6, 7)

    def graph(self) -> Any:
        return product.bind(6, 7)

    def refuse(self) -> None:
        self.items.append("nothing")
        raise LookupError(self.owner)

    async def slowly(self) -> str:
        return self.owner


class Actor:
    """Makes the attempts that an engine makes, and keeps the state."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._state: dict[str, str] = {}  # tasks with the parts
        self._count = 0

    async def run(self, method: str, *args: Any) -> Report:
        self._count += 1
        task_id = f"call-{self._count}"
        call = actorwire.encode_call(MethodCall(method, encode_arguments(args, {}, lambda _: None)[0], 0, task_id))
        inputs = [Source(self._state[name]) for name in sorted(self._state)]
        if method == CONSTRUCTOR:
            self._bench.values.near[ValueKey(RUN, "", "call")] = call
            call, inputs = Payload(ACTOR_CALL), [Source("", input="call")]
        function = functions.encode_function(Cart)
        attempt = Attempt("default", "cart-1", RUN, task_id, 1, Call(function, call), Shape(), tuple(inputs))
        self._bench.executor.submit(attempt)
        return await self._bench.end(attempt)

    def apply(self, outcome: MethodOutcome) -> None:
        assert outcome.state is not None
        for name, payload in {"": outcome.state, **dict(outcome.parts)}.items():
            self._state[name] = task_id = f".state/{name}@{self._count}"
            self._bench.values.near[ValueKey(RUN, task_id, "")] = payload

    async def value(self, method: str, *args: Any) -> Any:
        end = await self.run(method, *args)
        assert isinstance(end, TaskSucceeded), end
        assert end.output.encoding == ACTOR_OUTCOME
        outcome = actorwire.decode_outcome(end.output.data)
        if outcome.state is not None:
            self.apply(outcome)
        assert outcome.output is not None
        return codec.decode(outcome.output)


async def test_a_method_answers_its_value_with_the_state_after_it(bench: Bench) -> None:
    cart = Actor(bench)
    await cart.value(CONSTRUCTOR, "Ann")
    assert await cart.value("add", "pen") == 1
    assert await cart.value("add", "ink") == 2
    assert await cart.value("slowly") == "Ann"


async def test_a_graph_of_a_method_comes_with_the_state_after_it(bench: Bench) -> None:
    cart = Actor(bench)
    await cart.value(CONSTRUCTOR, "Ann")
    await cart.value("add", "pen")
    end = await cart.run("order")
    assert isinstance(end, ContinuationReturned)
    assert len(graphwire.decode_spec(end.continuation).nodes) == 1
    assert end.method_outcome is not None
    outcome = actorwire.decode_outcome(end.method_outcome)
    assert outcome.output is None
    ((name, picture),) = outcome.parts
    assert name == "picture"
    assert picture.blob is not None
    assert await bench.value(picture) == b"\1" * 100_000
    cart.apply(outcome)
    assert await cart.value("add", "ink") == 1


async def test_a_graph_of_a_method_that_changed_nothing_comes_with_an_empty_outcome(bench: Bench) -> None:
    cart = Actor(bench)
    await cart.value(CONSTRUCTOR, "Ann")
    end = await cart.run("graph")
    assert isinstance(end, ContinuationReturned)
    assert end.method_outcome is not None
    assert actorwire.decode_outcome(end.method_outcome) == MethodOutcome()


async def test_a_method_that_fails_changes_nothing(bench: Bench) -> None:
    cart = Actor(bench)
    await cart.value(CONSTRUCTOR, "Ann")
    end = await cart.run("refuse")
    assert isinstance(end, TaskFailed)
    assert (end.failure.type, end.failure.message) == ("builtins.LookupError", "Ann")
    assert await cart.value("add", "pen") == 1


async def test_a_function_returns_its_graph_without_a_state(bench: Bench) -> None:
    end = await bench.run(lambda: product.bind(2, 3))
    assert isinstance(end, ContinuationReturned)
    assert end.method_outcome is None
