"""Methods of actors on a worker: what of their state is kept, what is sent, and what becomes of errors."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

import perdure
from actors import Actor, failure_of
from patience import PATIENCE_S
from perdure import codec
from perdure.model import ACTOR_CALL, FailureKind, Function, Payload
from perdure.worker import methods
from perdure.worker.interrupt import Interrupted, interrupt_thread
from perdure.worker.loops import TICK_S
from perdure.worker.results import Failed
from perdure.worker.values import Value


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def incr(self, by: int = 1) -> int:
        self.count += by
        return self.count

    @perdure.readonly
    def value(self) -> int:
        return self.count

    @perdure.readonly
    def peek(self) -> int:
        self.count += 100
        return self.count

    def fail(self) -> None:
        self.count += 1000
        raise KeyError("no")

    def look(self) -> int:
        return self.count

    def _hidden(self) -> None:
        pass


def test_a_method_changes_the_state() -> None:
    counter = Actor(Counter, 5)
    assert counter.call("incr", 3) == 8
    assert counter.call("incr", by=2) == 10


@pytest.mark.parametrize("moves", [False, True])
def test_the_state_survives_the_move_to_another_worker(moves: bool) -> None:
    counter = Actor(Counter)
    for number in range(1, 5):
        assert counter.call("incr") == number
        if moves:
            counter.move()


def test_an_unchanged_state_is_not_sent() -> None:
    counter = Actor(Counter)
    assert counter.call("look") == 0
    assert counter.outcome.state is None
    counter.move()
    assert counter.call("look") == 0
    assert counter.outcome.state is None
    assert counter.revision == 1


def test_a_failed_call_leaves_no_trace() -> None:
    counter = Actor(Counter, 1)
    failure = failure_of(lambda: counter.call("fail"))
    assert (failure.kind, failure.type) == (FailureKind.APPLICATION, "builtins.KeyError")
    assert counter.call("incr") == 2


def test_the_stack_of_a_failure_has_frames_of_users_only() -> None:
    failure = failure_of(lambda: Actor(Counter).call("fail"))
    frames = [line for line in failure.stack_trace.splitlines() if line.startswith("  File")]
    assert len(frames) == 1
    assert "test_methods.py" in frames[0]


def test_another_state_than_the_kept_one_is_read_anew() -> None:
    counter = Actor(Counter)
    before = dict(counter.parts)
    assert counter.call("incr") == 1
    counter.parts = before  # the commit of that call was lost
    assert counter.call("incr") == 1


def test_readonly_methods_change_nothing() -> None:
    counter = Actor(Counter, 1)
    assert counter.call("peek") == 101
    assert counter.outcome.state is None
    assert counter.query("peek") == 101
    assert counter.query("value") == 1
    assert counter.call("incr") == 2


def test_a_query_is_for_readonly_methods() -> None:
    counter = Actor(Counter)
    failure = failure_of(lambda: counter.query("incr"))
    assert failure.type == "perdure.NotReadonly"
    assert failure.non_retryable
    assert counter.call("incr") == 1


@pytest.mark.parametrize(
    "name", ["decrease", "_hidden", "__init_subclass__", "__class__", "count", "", "a.b", "activate"]
)
def test_a_method_that_cannot_be_called_is_told_of(name: str) -> None:
    counter = Actor(Counter)
    if not name:
        return
    failure = failure_of(lambda: counter.call(name))
    assert failure.type == "perdure.NoSuchMethod"
    assert failure.non_retryable
    assert name.startswith("_") or "fail, incr, look, peek, value" in failure.message


@pytest.mark.parametrize("is_query", [False, True])
def test_a_call_of_the_constructor_leaves_the_state(is_query: bool) -> None:
    counter = Actor(Counter, 5)

    failure = failure_of(lambda: counter.query("__init__") if is_query else counter.call("__init__", 0))

    assert failure.type == "perdure.NoSuchMethod"
    assert counter.call("incr") == 6


def test_a_function_is_no_class_of_actors() -> None:
    failure = failure_of(lambda: Actor(Function("len", "builtins:len")))
    assert failure.type == "perdure.FunctionUnavailable"
    assert "not a class" in failure.message


# ------------------------------------------------------------------------------ activation


class Server:
    activated = 0

    def __init__(self) -> None:
        self.model: Any = None  # built by activate
        self.requests = 0

    def activate(self) -> None:
        type(self).activated += 1
        self.model = threading.Lock()  # cannot be pickled
        self.weights = [1] * 100_000

    def ask(self) -> tuple[int, bool]:
        self.requests += 1
        return self.requests, self.model.locked()

    @perdure.readonly
    def look(self) -> int:
        return len(self.weights) + self.requests

    def set(self, data: bytes) -> None:
        self.data = data

    def replace(self) -> None:
        self.model = "something else"
        self.requests += 1

    def fail(self) -> None:
        raise ValueError

    def all(self) -> dict[str, Any]:
        return {name: str(value)[:5] for name, value in vars(self).items()}


@pytest.fixture
def server() -> Actor:
    Server.activated = 0
    return Actor(Server)


def test_what_activate_builds_is_not_durable(server: Actor) -> None:
    assert server.call("ask") == (1, False)
    assert list(server.parts) == [""]
    assert server.parts[""].size < 200
    server.move()
    assert server.call("ask") == (2, False)


def test_an_instance_is_activated_once(server: Actor) -> None:
    for _ in range(3):
        server.call("ask")
        server.query("look")
        server.call("look")
    assert Server.activated == 1
    server.move()
    server.query("look")
    server.call("ask")
    assert Server.activated == 2


def test_activation_alone_changes_no_state(server: Actor) -> None:
    server.call("look")
    server.call("all")
    assert server.outcome.state is None
    assert server.revision == 1


def test_a_field_that_activate_has_set_stays_outside_of_the_state(server: Actor) -> None:
    server.call("replace")
    server.move()
    assert server.call("ask") == (2, False)


def test_a_failed_call_ends_what_was_activated(server: Actor) -> None:
    server.call("ask")
    failure_of(lambda: server.call("fail"))
    server.call("ask")
    assert Server.activated == 2


def test_an_activate_that_fails_fails_the_call_only() -> None:
    class Careful:
        tries = 0

        def activate(self) -> None:
            Careful.tries += 1
            self.n = 1
            if Careful.tries < 3:
                raise ConnectionError("not yet")

        def look(self) -> int:
            return self.n

    actor = Actor(Careful)
    for _ in range(2):
        failure = failure_of(lambda: actor.call("look"))
        assert failure.type == "builtins.ConnectionError"
        assert "activate" in failure.stack_trace
    assert actor.call("look") == 1


class OwnState:
    def __init__(self) -> None:
        self.n = 0

    def activate(self) -> None:
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def incr(self) -> int:
        with self.lock:
            self.n += 1
            return self.n


def test_what_activate_builds_is_not_durable_with_a_getstate_either() -> None:
    actor = Actor(OwnState)
    assert actor.call("incr") == 1
    actor.move()
    assert actor.call("incr") == 2


class OwnPlace(OwnState):
    def __getstate__(self) -> dict[str, Any]:
        return {"n": self.n, "lock": "made by activate"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        assert state["lock"] == "made by activate"
        self.n = state["n"]


def test_a_getstate_says_what_is_in_the_place_of_what_activate_builds() -> None:
    actor = Actor(OwnPlace)
    assert actor.call("incr") == 1
    actor.move()
    assert actor.call("incr") == 2


# ------------------------------------------------------------------------------ instances


class Fragile:
    def __init__(self) -> None:
        self.items: list[str] = []

    def add(self, item: str) -> list[str]:
        self.items.append(item)
        return self.items

    def leak(self) -> Any:
        self.items.append("leaked")
        return threading.Lock()

    def interrupted(self) -> None:
        self.items.append("leaked")
        raise Interrupted

    def exits(self) -> None:
        self.items.append("leaked")
        raise SystemExit

    def base_error(self) -> None:
        self.items.append("leaked")
        raise BaseException("no")

    @perdure.readonly
    def changes(self) -> None:
        self.items.append("leaked")

    @perdure.readonly
    def fails(self) -> None:
        self.items.append("leaked")
        raise ValueError

    @perdure.readonly
    def graph(self) -> Any:
        return one.bind()

    def count(self) -> int:
        return len(self.items)


@perdure.task
def one() -> int:
    return 1


@pytest.mark.parametrize("method", ["leak", "interrupted", "exits", "base_error", "changes", "fails"])
@pytest.mark.parametrize("is_query", [False, True])
def test_no_call_sees_what_a_failed_or_readonly_one_has_changed(method: str, is_query: bool) -> None:
    actor = Actor(Fragile)
    actor.call("add", "a")
    with suppress(Interrupted, SystemExit):
        actor.result(method, is_query=is_query)
    assert actor.call("count") == 1


def test_a_query_answers_with_a_value() -> None:
    actor = Actor(Fragile)
    failure = failure_of(lambda: actor.query("graph"))
    assert failure.type == "perdure.InvalidCall"
    assert "returned a graph" in failure.message
    assert actor.call("graph").output
    assert actor.outcome.state is None


def test_a_returned_value_shares_nothing_with_the_state() -> None:
    actor = Actor(Fragile)
    actor.call("add", "a").append("b")
    assert actor.call("count") == 1


def test_a_query_of_an_earlier_state_does_not_disturb_later_ones() -> None:
    counter = Actor(Counter, 1)
    old = dict(counter.parts)
    counter.call("incr")
    new = dict(counter.parts)
    counter.parts = old
    assert counter.query("value") == 1
    counter.parts = new
    assert counter.call("incr") == 3


class Meeting:
    barrier = threading.Barrier(3, timeout=PATIENCE_S)

    def __init__(self) -> None:
        self.n = 0

    @perdure.readonly
    def meet(self) -> int:
        self.n += 1
        self.barrier.wait()
        return self.n


def test_a_query_of_an_earlier_state_leaves_the_warm_instance(server: Actor) -> None:
    old = dict(server.parts)
    server.call("ask")
    new = dict(server.parts)
    server.parts = old
    server.query("look")
    server.parts = new
    server.call("ask")
    assert Server.activated == 2  # once for the query


def test_an_instance_that_queries_do_not_find_any_more_is_replaced(server: Actor) -> None:
    server.query("look")
    server.parts = dict(Actor(Server, blobs=server.blobs).parts)
    Server.activated = 0
    elsewhere = Actor(Server, blobs=server.blobs)
    elsewhere.call("ask")
    server.parts = elsewhere.parts
    Server.activated = 0
    for _ in range(methods.MISSES_MAX + 3):
        assert server.query("look") == 100_001
    assert Server.activated == methods.MISSES_MAX + 1


def test_calls_in_threads_have_instances_of_their_own() -> None:
    actor = Actor(Meeting)
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(actor.query("meet"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1, 1, 1]


def test_actors_of_one_class_are_separate() -> None:
    first = Actor(Counter)
    second = Actor(Counter, runner=first.runner, blobs=first.blobs)
    first.call("incr", 5)
    assert second.call("incr") == 1
    assert first.call("incr") == 6


def test_kept_instances_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "INSTANCES_BYTES_MAX", 100_000)
    actor = Actor(Counter)
    kept = actor.runner._methods._instances
    for number in range(100):
        actor.run_id = f"run-{number}"
        actor.call("incr")
    assert 10 < len(kept) < 30
    actor.run_id = "run-0"
    assert actor.call("incr") == 101


# ------------------------------------------------------------------------------ async methods


def interrupt_when_waiting(thread_id: int) -> None:
    while sys._current_frames()[thread_id].f_code.co_name != "select":
        time.sleep(0.001)
    interrupt_thread(thread_id)


class Sleeper:
    def __init__(self) -> None:
        self.n = 0

    async def incr(self) -> int:
        await asyncio.sleep(0)
        self.n += 1
        return self.n

    async def fail(self) -> None:
        self.n += 1
        await asyncio.sleep(0)
        raise LookupError("no")

    async def leave(self) -> None:
        async def later() -> None:
            try:
                await asyncio.sleep(1e6)
            finally:
                ended.append("later")

        self.n += 1
        asyncio.get_running_loop().stop()
        asyncio.create_task(later())  # noqa: RUF006
        await asyncio.sleep(0)

    async def exits(self) -> None:
        raise SystemExit

    async def interrupted(self) -> None:
        self.n += 1
        await asyncio.sleep(2.5 * TICK_S)
        threading.Thread(target=interrupt_when_waiting, args=(threading.get_ident(),)).start()
        await asyncio.sleep(1e6)

    async def actors(self) -> tuple[str, ...]:
        return perdure.context().chain

    @perdure.readonly
    async def read(self) -> int:
        return self.n


ended: list[str] = []


def test_async_methods() -> None:
    actor = Actor(Sleeper)
    assert [actor.call("incr"), actor.call("incr"), actor.query("read")] == [1, 2, 2]
    failure = failure_of(lambda: actor.call("fail"))
    assert (failure.type, failure.message) == ("builtins.LookupError", "no")
    assert failure.stack_trace.count("File") == 1
    assert actor.call("incr") == 3


def test_tasks_that_an_async_method_leaves_behind_are_cancelled() -> None:
    actor = Actor(Sleeper)
    ended.clear()
    actor.call("leave")
    assert ended == ["later"]
    assert actor.call("incr") == 2


def test_an_exit_of_an_async_method_ends_the_worker() -> None:
    actor = Actor(Sleeper)
    with pytest.raises(SystemExit):
        actor.result("exits")
    assert actor.call("incr") == 1


def test_a_waiting_async_method_is_interrupted() -> None:
    actor = Actor(Sleeper)
    with pytest.raises(Interrupted):
        actor.result("interrupted")
    assert actor.call("incr") == 1


def test_connections_of_activate_live_on_the_loop_of_the_methods() -> None:
    class Connected:
        async def activate(self) -> None:
            self.queue: asyncio.Queue[int] = asyncio.Queue()
            self.loop = asyncio.get_running_loop()
            self.task = asyncio.create_task(self.serve())

        async def serve(self) -> None:
            while True:
                request, answer = await self.queue.get()  # type: ignore[misc]
                answer.set_result(request * 2)

        async def ask(self, request: int) -> int:
            assert asyncio.get_running_loop() is self.loop
            answer = self.loop.create_future()
            self.queue.put_nowait((request, answer))  # type: ignore[arg-type]
            return await answer

    actor = Actor(Connected)
    assert [actor.call("ask", number) for number in range(3)] == [0, 2, 4]
    other: list[int] = []
    thread = threading.Thread(target=lambda: other.append(actor.call("ask", 5)))  # has another loop
    thread.start()
    thread.join()
    assert other == [10]


# ------------------------------------------------------------------------------ calls


def test_a_method_knows_the_actors_that_wait_for_it() -> None:
    class Chained:
        def actors(self) -> tuple[str, ...]:
            return perdure.context().chain

    assert Actor(Chained).call("actors") == ("default/cart-1",)
    assert Actor(Chained).call("actors", callers=("a/1", "b/2")) == ("a/1", "b/2", "default/cart-1")
    assert Actor(Sleeper).call("actors", callers=("a/1",)) == ("a/1", "default/cart-1")


def test_arguments_may_be_values_of_tasks() -> None:
    counter = Actor(Counter)
    assert counter.call("incr", Value(codec.encode_value(7).inline())) == 7


def test_arguments_that_do_not_fit_are_told_of() -> None:
    failure = failure_of(lambda: Actor(Counter).call("incr", 1, 2, 3))
    assert failure.type == "builtins.TypeError"
    failure = failure_of(lambda: Actor(Counter, 1, 2, 3))
    assert failure.type == "builtins.TypeError"


@pytest.mark.parametrize("data", [b"\xff\xff", b"\n\x00", b"\x12\x00"])
def test_a_call_that_cannot_be_read_is_told_of(data: bytes) -> None:
    counter = Actor(Counter)
    result = counter.runner.run(counter.attempt(Payload(ACTOR_CALL, data), []))
    assert isinstance(result, Failed)
    assert result.failure.type == "perdure.InvalidCall"
    result = counter.runner.run(counter.attempt(Payload(ACTOR_CALL), []))
    assert isinstance(result, Failed)
    assert result.failure.type == "perdure.InvalidCall"


def test_a_registered_class_answers_for_every_language() -> None:
    counter = Actor(Function("counter", f"{__name__}:Counter"))
    counter.call("incr")
    assert counter.outcome.output is not None
    assert counter.outcome.output.encoding == "json/plain"
    assert counter.outcome.output.data == b"1"


def test_a_field_of_the_name_of_a_method_hides_it_from_nobody() -> None:
    class Shadowed:
        def __init__(self) -> None:
            self.look = 5

        def look(self) -> int:  # type: ignore[no-redef]
            return 6

    assert Actor(Shadowed).call("look") == 6


def test_methods_of_every_kind_can_be_called() -> None:
    class Kinds:
        @staticmethod
        def static(value: int) -> int:
            return value

        @classmethod
        def of_class(cls, value: int) -> str:
            return f"{cls.__name__} {value}"

        part = functools.partialmethod(lambda self, one, two: one + two, 1)

        @property
        def computed(self) -> int:
            return 1

        class Inner:
            pass

    actor = Actor(Kinds)
    assert actor.call("static", 1) == 1
    assert actor.call("of_class", 1) == "Kinds 1"
    assert actor.call("part", 2) == 3
    for name in ("computed", "Inner"):
        assert failure_of(lambda name=name: actor.call(name)).type == "perdure.NoSuchMethod"  # type: ignore[misc]


def test_an_override_without_the_mark_is_not_readonly() -> None:
    class Heir(Counter):
        def value(self) -> int:
            self.count += 1
            return self.count

    actor = Actor(Heir)
    assert failure_of(lambda: actor.query("value")).type == "perdure.NotReadonly"
    assert actor.call("value") == 1
    assert actor.call("value") == 2


def test_a_class_of_a_decorator_is_the_class_itself() -> None:
    assert Actor(perdure.actor(Counter), 3).call("incr") == 4


def test_a_large_answer_is_a_blob() -> None:
    class Large:
        def __init__(self, size: int) -> None:
            self.size = size

        def make(self) -> bytes:
            return bytes(self.size)

    actor = Actor(Large, 1_000_000)
    assert actor.call("make") == bytes(1_000_000)
    assert actor.outcome.output is not None
    assert actor.outcome.output.blob is not None


def test_small_actors_do_not_drive_out_a_warm_one(monkeypatch: pytest.MonkeyPatch, server: Actor) -> None:
    monkeypatch.setattr(methods, "INSTANCES_BYTES_MAX", 100_000)
    monkeypatch.setattr(methods, "WARM_BYTES_MAX", 25_000)
    server.move()
    server.call("set", b"x" * 1_000_000)
    counter = Actor(Counter, runner=server.runner, blobs=server.blobs)
    for _ in range(3):
        counter.call("incr")
        server.call("ask")
    assert Server.activated == 1
