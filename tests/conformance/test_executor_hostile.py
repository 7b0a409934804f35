"""From an attempt to its receipt nothing escapes: whatever user code raises, returns or does to its process,
the attempt ends once with a stated failure, and the worker goes on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

from conformance.workbench import Bench, lease_bench, local_bench
from perdure import codec, failures, functions, wire
from perdure.engine.messages import AttemptLost, TaskFailed, TaskSucceeded
from perdure.model import FailureKind, Function, NodeRef, Payload
from perdure.service.executors.port import Report
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


class Harsh(BaseException):
    """Derives from BaseException, as few errors do."""


SURROGATE = "caf\udce9.txt"
RAISED: dict[str, Callable[[], BaseException]] = {
    "surrogate": lambda: OSError(SURROGATE),
    "nul": lambda: ValueError("a\0b"),
    "harsh": lambda: Harsh("harsh"),
    "generator_exit": lambda: GeneratorExit("over"),
    "cancelled": lambda: asyncio.CancelledError("over"),
    "stop": lambda: StopIteration(1),
    "stop_async": lambda: StopAsyncIteration(1),
    "recursion": lambda: RecursionError("deep"),
    "memory": lambda: MemoryError("full"),
    "exit": lambda: SystemExit(3),
    "interrupt": lambda: KeyboardInterrupt(),
}
FROM_VALUES = [name for name in RAISED if name not in ("stop", "stop_async")]


def raise_(kind: str) -> Any:
    raise RAISED[kind]()


class Unpicklable:
    """Raises when it is pickled."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        raise_(self.kind)


class Stateful:
    """Raises when its state is taken."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __getstate__(self) -> Any:
        raise_(self.kind)


class Undecodable:
    """Raises when it is unpickled."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return raise_, (self.kind,)


class Shadow:
    """Raises when it is gone."""

    def __del__(self) -> None:
        raise Harsh("gone")


def give(what: str, kind: str) -> Any:
    match what:
        case "unpicklable":
            return Unpicklable(kind)
        case "stateful":
            return [Stateful(kind)]
        case "undecodable":
            return Undecodable(kind)
        case _:
            raise AssertionError(what)


async def give_async(what: str, kind: str) -> Any:
    await asyncio.sleep(0)
    return give(what, kind)


def echo(*values: Any) -> Any:
    return values


async def echo_async(*values: Any) -> Any:
    await asyncio.sleep(0)
    return values


def told(report: Report) -> Any:
    """The failure that ends an attempt, which can be told and stored; a worker that is gone has none."""
    if isinstance(report, AttemptLost):
        report.reason.encode()
        return None
    assert isinstance(report, TaskFailed), report
    wire.encode_failure(report.failure)
    return report.failure


async def check_alive(bench: Bench) -> None:
    for number, follower in enumerate((echo, echo_async)):
        assert isinstance(await bench.run(follower, 1, task=f"after {number}"), TaskSucceeded)


# ------------------------------------------------------------------------------ values and arguments


@pytest.mark.parametrize("what", ["unpicklable", "stateful"])
async def test_whatever_pickling_raises_is_a_serialization_error(bench: Bench, what: str) -> None:
    for kind in FROM_VALUES:
        for function in (give, give_async):
            task = f"{function.__name__} {kind}"
            failure = told(await bench.run(function, what, kind, task=task))
            assert failure.kind is FailureKind.SERIALIZATION, (kind, failure)
            assert failure.message.startswith(f"task {task!r}: what it returned cannot travel"), failure.message
    await check_alive(bench)


async def test_whatever_unpickling_an_argument_raises_is_a_serialization_error(bench: Bench) -> None:
    for kind in FROM_VALUES:
        bench.values.near[ValueKey("run", kind)] = codec.encode(Undecodable(kind)).inline()
        for function in (echo, echo_async):
            task = f"{function.__name__} {kind}"
            failure = told(await bench.run(function, NodeRef(kind), task=task))
            assert failure.kind is FailureKind.SERIALIZATION, (kind, failure)
            assert failure.message.startswith(f"task {task!r}: its arguments cannot travel"), failure.message
    await check_alive(bench)


async def test_an_input_that_is_not_what_it_says_ends_its_attempt(bench: Bench) -> None:
    bench.values.near[ValueKey("run", "bad")] = Payload("perdure/waited", b"neither JSON nor anything")
    for function in (echo, echo_async):
        assert told(await bench.run(function, NodeRef("bad"), task=function.__name__)) is not Ellipsis
    await check_alive(bench)


def mask() -> Any:
    """Something that does not tell what it is."""

    class Masked:
        @property
        def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            raise Harsh(SURROGATE)

    return Masked()


async def mask_async() -> Any:
    return mask()


def shadow() -> Any:
    return [Shadow() for _ in range(3)] and None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_values_that_hide_their_type_or_raise_when_they_go_end_well(bench: Bench) -> None:
    for function in (mask, mask_async):
        assert told(await bench.run(function, task=function.__name__)).kind is FailureKind.SERIALIZATION
    assert isinstance(await bench.run(shadow, task="shadow"), TaskSucceeded)
    await check_alive(bench)


def generator() -> Any:
    yield 1


async def async_generator() -> Any:
    yield 1


def coroutine() -> Any:
    inner = echo_async()
    inner.close()
    return inner


def deep() -> Any:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


async def test_generators_coroutines_and_bottomless_values_are_told_of(bench: Bench) -> None:
    for function in (generator, async_generator, coroutine, deep):
        assert told(await bench.run(function, task=function.__name__)).kind is FailureKind.SERIALIZATION
    await check_alive(bench)


# ------------------------------------------------------------------------------ errors


class Mute(Exception):
    """Nothing about it can be told."""

    def __str__(self) -> str:
        raise Harsh("no words")

    def __repr__(self) -> str:
        raise Harsh("no words")

    def __reduce__(self) -> Any:
        raise Harsh("no pickle")

    def _hidden(self) -> Any:
        raise Harsh("nothing to see")

    def _hide(self, value: Any) -> None:
        raise Harsh("nothing to set")

    __cause__ = property(_hidden, _hide)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    __context__ = property(_hidden, _hide)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    __suppress_context__ = property(_hidden, _hide)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    __traceback__ = property(_hidden, _hide)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    args = property(_hidden, _hide)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class Text(str):
    """A text that does not do as texts do."""

    def __getitem__(self, key: Any) -> str:
        raise Harsh("no part")

    def encode(self, *_args: Any, **_kwargs: Any) -> bytes:
        raise Harsh("no bytes")


class Tricky(Exception):
    def __str__(self) -> str:
        return Text("tricky")


class Endless(Exception):
    def __str__(self) -> str:
        return str(self)


def nameless() -> BaseException:
    """Of a type that does not tell its name. Made where it is raised, since such a type cannot be sent."""

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            raise Harsh(name)

    class Nameless(Exception, metaclass=Meta):
        pass

    return Nameless()


class Awkward(Exception):
    __module__ = SURROGATE


class Traitor(Exception):
    """Comes out of pickle with what ends programs."""

    def __reduce__(self) -> Any:
        return raise_, ("interrupt",)


def chain(length: int) -> BaseException:
    error: BaseException = ValueError("innermost")
    for number in range(length):
        following = ValueError(f"link {number}")
        following.__cause__ = error
        error = following
    return error


def nest(levels: int) -> BaseException:
    group: Any = ValueError("innermost")
    for _ in range(levels):
        group = ExceptionGroup(SURROGATE, [group])
    return group  # type: ignore[no-any-return]


def cycle() -> BaseException:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


ERRORS: dict[str, Callable[[], BaseException]] = {
    **RAISED,
    "mute": Mute,
    "tricky": Tricky,
    "endless": Endless,
    "nameless": nameless,
    "awkward": Awkward,
    "traitor": Traitor,
    "huge": lambda: ValueError("x" * 50_000_000),
    "long chain": lambda: chain(10_000),
    "deep group": lambda: nest(5_000),
    "cycle": cycle,
    "many bases": lambda: type("Many", tuple(type(f"B{n}" + "x" * 500, (Exception,), {}) for n in range(500)), {})(),
    "long name": lambda: type("x" * 20_000_000, (Exception,), {})(),
    "exit with words": lambda: SystemExit(SURROGATE),
    "exit without": lambda: SystemExit(Mute()),
}


def fail(kind: str) -> None:
    raise ERRORS[kind]()


async def fail_async(kind: str) -> None:
    await asyncio.sleep(0)
    raise ERRORS[kind]()


@pytest.mark.parametrize("kind", ERRORS)
async def test_whatever_a_function_raises_ends_its_attempt(bench: Bench, kind: str) -> None:
    for function in (fail, fail_async):
        failure = told(await bench.run(function, kind, task=function.__name__))
        if failure is not None:
            assert len(wire.encode_failure(failure)) < 2_000_000
            assert isinstance(failures.to_exception(failure), BaseException)
    await check_alive(bench)


def wordy(number: int) -> None:
    """Raises an error that is large on its way, but legal."""
    error: BaseException = ValueError("x" * 8_000)
    for _ in range(15):
        following = ValueError("y" * 8_000)
        following.__cause__ = error
        error = following
    raise error


async def wordy_async(number: int) -> None:
    wordy(number)


@pytest.mark.parametrize("function", [wordy, wordy_async])
async def test_many_large_failures_at_once_are_all_told(bench: Bench, function: Callable[[int], None]) -> None:
    attempts = [bench.submit(function, number, task=f"t{number}") for number in range(200)]
    for attempt in attempts:
        assert told(await bench.end(attempt)).kind is FailureKind.APPLICATION


def many_refs() -> Any:
    import perdure

    @perdure.task
    def small(value: int) -> int:
        return value

    @perdure.task
    def together(values: list[int]) -> int:
        return sum(values)

    return together.bind([small.options(task_id=f"{number}-{'x' * 240}").bind(number) for number in range(30_000)])


async def test_a_graph_too_large_for_a_receipt_is_told_of(bench: Bench) -> None:
    failure = told(await bench.run(many_refs))
    assert failure.kind is FailureKind.SERIALIZATION
    assert "the graph that it returned has" in failure.message
    await check_alive(bench)


# ------------------------------------------------------------------------------ code


def broken_code(kind: str) -> Function:
    """Code that raises when it is loaded."""
    found = functions.encode_function(echo)
    return Function(
        f"broken {kind}", "broken", codec.encode(Undecodable(kind)).inline(), python_version=found.python_version
    )


@pytest.mark.parametrize("kind", FROM_VALUES)
async def test_whatever_loading_code_raises_makes_it_unavailable(bench: Bench, kind: str) -> None:
    failure = told(await bench.run(broken_code(kind)))
    assert failure.kind is FailureKind.FUNCTION_UNAVAILABLE
    await check_alive(bench)


def mute_callable() -> Any:
    """Callable, and nothing may be asked of it."""

    class Mute_:
        def __getattr__(self, name: str) -> Any:
            raise Harsh(name)

        @property
        def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            raise Harsh("class")

        def __call__(self) -> int:
            return 5

    return Mute_()


class Made:
    """What a function makes, made where it is unpickled."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __reduce__(self) -> Any:
        return self.make, ()


async def test_a_callable_that_answers_no_question_ends_its_attempt(bench: Bench) -> None:
    code = Payload(codec.PICKLE, cloudpickle.dumps(Made(mute_callable)))
    function = Function("hostile", "hostile", code, python_version=functions.PYTHON_VERSION)
    assert isinstance(await bench.run(function), (TaskFailed, TaskSucceeded))
    await check_alive(bench)


# ------------------------------------------------------------------------------ what it does to its process


def shorten() -> str:
    """Lower the recursion limit to just above the current depth."""
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    sys.setrecursionlimit(depth + 10)
    return "short"


async def shorten_async() -> str:
    return shorten()


async def exit_beside() -> str:
    """Something that it started ends the loop, and it waits for that."""

    async def leave() -> None:
        sys.exit(3)

    task = asyncio.ensure_future(leave())
    while not task.done():
        await asyncio.sleep(0)
    return "left"


async def stop_loop() -> str:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)
    return "stopped"


async def take_over() -> str:
    """Later tasks of the loop are made by its own factory."""
    loop = asyncio.get_running_loop()

    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("no tasks here")

    loop.set_task_factory(refuse)
    return "taken"


async def test_what_a_task_does_to_interpreter_and_loop_leaves_others_alone(bench: Bench) -> None:
    for function in (shorten, shorten_async, exit_beside, stop_loop, take_over):
        report = await bench.run(function, task=function.__name__)
        assert isinstance(report, (TaskSucceeded, AttemptLost)), report
        await_after = [
            bench.submit(follower, 1, task=f"after {function.__name__} {follower.__name__}")
            for follower in (echo, echo_async)
        ]
        for attempt in await_after:
            assert isinstance(await bench.end(attempt), TaskSucceeded), function


def meddle() -> str:
    """What user code may do to a process that is its own."""
    import os
    import signal
    import threading

    os.chdir("/")
    sys.excepthook = threading.excepthook = sys.unraisablehook = raise_  # type: ignore[assignment]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.close()
    sys.stderr.close()
    return "x" * 100_000


async def test_a_process_whose_streams_and_signals_are_gone_works_on(tmp_path: Path) -> None:
    async with lease_bench(tmp_path, CPU=1.0) as (bench, _):
        assert isinstance(await bench.run(meddle, task="meddle"), TaskSucceeded)
        assert told(await bench.run(fail, "mute", task="mute")) is not Ellipsis
        await check_alive(bench)


def leave_alarm() -> str:
    """An unexpected signal comes while the worker is idle."""
    import signal

    def ring(*_: Any) -> None:
        raise TimeoutError("nobody waits for this")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    return "rings"


async def test_an_alarm_left_behind_costs_no_other_task_its_attempt(tmp_path: Path) -> None:
    async with lease_bench(tmp_path, CPU=1.0) as (bench, _):
        told_ = await bench.run(leave_alarm, task="alarm")
        assert isinstance(told_, (TaskSucceeded, TaskFailed, AttemptLost))
