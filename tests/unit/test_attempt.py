"""One attempt: what becomes of the user's code, its arguments, its value and its errors."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import pytest

import perdure
from perdure import codec, errors, failures, functions, graphwire
from perdure.arguments import encode_arguments
from perdure.context import Context
from perdure.model import (
    INLINE_BYTES_MAX,
    NULL,
    Attribute,
    BlobRef,
    FailureKind,
    Function,
    Index,
    NodeRef,
    Payload,
    Waited,
)
from perdure.worker.attempt import FUNCTIONS_MAX, Runner
from perdure.worker.interrupt import Interrupted
from perdure.worker.results import Continued, Failed, Result, Returned
from perdure.worker.values import AttemptInput, Value, with_ready

CONTEXT = Context("default", "order-1", "run", "charge", 2)


class Blobs:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.is_away = False

    def load(self, blob: BlobRef) -> memoryview:
        if self.is_away:
            raise OSError("the disk is away")
        return memoryview(self.kept[blob.sha256])

    def store(self, encoded: codec.Encoded) -> BlobRef:
        if self.is_away:
            raise OSError("the disk is away")
        return self.add(encoded.inline().data)

    def add(self, data: bytes) -> BlobRef:
        sha256 = hashlib.sha256(data).hexdigest()
        self.kept[sha256] = data
        return BlobRef(sha256, len(data))


@pytest.fixture
def blobs() -> Blobs:
    return Blobs()


@pytest.fixture
def runner(blobs: Blobs) -> Runner:
    return Runner(blobs)


def assign(function: Any, *args: Any, **kwargs: Any) -> AttemptInput:
    """A call as the engine hands it out; arguments that are Values travel as references."""
    values = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Value)]
    found = function if isinstance(function, Function) else functions.encode_function(function)
    arguments, _ = encode_arguments(
        args, kwargs, lambda arg: NodeRef(str(values.index(arg))) if isinstance(arg, Value) else None
    )
    return AttemptInput(CONTEXT, found, arguments, values)


def value_of(result: Result, blobs: Blobs | None = None) -> Any:
    assert isinstance(result, Returned), result
    output = result.output
    return codec.decode(output, blobs.load(output.blob) if blobs is not None and output.blob is not None else None)


def failure_of(result: Result) -> Any:
    assert isinstance(result, Failed), result
    return result.failure


def stored(value: object, **more: Any) -> Value:
    return Value(codec.encode_value(value).inline(), **more)


# ------------------------------------------------------------------------------ values


def test_a_value_comes_back(runner: Runner) -> None:
    assert value_of(runner.run(assign(lambda a, b=0: a + b, 1, b=2))) == 3


NAMED = Function("key", "builtins:tuple")


@pytest.mark.parametrize(
    ("value", "encoding", "read"),
    [
        ([1, "a", None], "json/plain", [1, "a", None]),
        ([(1, 2.5)], "json/plain", [[1, 2.5]]),
        ([b"x"], "python/pickle", (b"x",)),
        ([float("nan")], "python/pickle", None),
        (["\ud800"], "python/pickle", ("\ud800",)),
    ],
)
def test_what_a_function_called_by_name_returns_is_for_every_language(
    runner: Runner, value: list[object], encoding: str, read: object
) -> None:
    result = runner.run(assign(NAMED, value))
    assert isinstance(result, Returned)
    assert result.output.encoding == encoding
    if read is not None:
        assert codec.decode(result.output) == read


def test_bytes_and_nothing_of_a_function_called_by_name_are_bytes_and_null(runner: Runner) -> None:
    raw = runner.run(assign(Function("bytes", "builtins:bytes"), 3))
    assert raw == Returned(Payload("binary/plain", b"\0\0\0"))
    assert runner.run(assign(Function("setattr", "builtins:print"))) == Returned(NULL)


def test_none_is_null(runner: Runner) -> None:
    assert runner.run(assign(lambda: None)) == Returned(NULL)


def test_references_are_values_by_then(runner: Runner) -> None:
    result = runner.run(
        assign(lambda a, b: (a, b), stored([1, 2], path=(Index(1),)), stored(3j, path=(Attribute("imag"),)))
    )
    assert value_of(result) == (2, 3.0)


def test_a_caught_value_is_a_pair(runner: Runner) -> None:
    assert value_of(runner.run(assign(lambda a: a, stored(1, wraps=2)))) == ((1, None), None)


def test_a_large_value_is_stored_before_it_is_named(runner: Runner, blobs: Blobs) -> None:
    result = runner.run(assign(lambda: b"x" * (INLINE_BYTES_MAX + 1)))
    assert isinstance(result, Returned)
    assert result.output.blob is not None
    assert value_of(result, blobs) == b"x" * (INLINE_BYTES_MAX + 1)


def test_values_arguments_and_code_may_be_blobs(runner: Runner, blobs: Blobs) -> None:
    code = functions.encode_function(lambda a, b: a + b)
    assert code.code is not None
    code = Function(code.key, code.name, Payload(code.code.encoding, blob=blobs.add(code.code.data)))
    data = codec.encode(5).inline()
    made = assign(code, 1, Value(Payload(data.encoding, blob=blobs.add(data.data))))
    arguments = Payload(made.arguments.encoding, blob=blobs.add(made.arguments.data))
    assert value_of(runner.run(AttemptInput(CONTEXT, code, arguments, made.values))) == 6


async def test_what_was_waited_for_is_values_and_tasks(runner: Runner) -> None:
    found = Waited((("a", "a", 0), ("b", "c", 1)), ("d",))
    outputs = {"a": codec.encode_value(1).inline(), "c": codec.encode_value(2).inline()}

    async def read(task_ids: Sequence[str]) -> list[Payload]:
        return [outputs[task_id] for task_id in task_ids]

    value = await with_ready(Value(found.to_payload()), read)
    assert value_of(runner.run(assign(lambda waited: (waited[0], [node.name for node in waited[1]]), value))) == (
        [1, (2, None)],
        ["d"],
    )
    plain = stored(5)
    assert await with_ready(plain, read) is plain


@perdure.task
def increment(number: int) -> int:
    return number + 1


def test_a_graph_is_a_continuation(runner: Runner) -> None:
    result = runner.run(assign(lambda: increment.bind(increment.bind(1))))
    assert isinstance(result, Continued)
    assert len(graphwire.decode_spec(result.spec).nodes) == 2


def test_a_task_knows_where_it_runs(runner: Runner) -> None:
    def ask() -> tuple[str, int, str]:
        here = perdure.context()
        return here.workflow_id, here.attempt, here.idempotency_token

    assert value_of(runner.run(assign(ask))) == ("order-1", 2, "run/charge")
    with pytest.raises(RuntimeError, match="can only be called inside one"):
        perdure.context()


# ------------------------------------------------------------------------------ failures


def test_an_error_of_the_user_is_theirs(runner: Runner) -> None:
    def fail() -> None:
        raise KeyError("k")

    failure = failure_of(runner.run(assign(fail)))
    assert (failure.kind, failure.type) == (FailureKind.APPLICATION, "builtins.KeyError")
    assert "in fail" in failure.stack_trace
    assert ", in run\n" not in failure.stack_trace
    assert isinstance(failures.to_exception(failure), KeyError)


class Wild(BaseException):
    """Derives from BaseException, as few errors do."""


@pytest.mark.parametrize("kind", [Wild, GeneratorExit, asyncio.CancelledError])
def test_errors_beside_the_usual_ones_are_failures_too(runner: Runner, kind: type[BaseException]) -> None:
    def fail() -> None:
        raise kind("x")

    assert failure_of(runner.run(assign(fail))).type == failures.type_name(kind)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, Interrupted])
def test_what_ends_the_worker_on_purpose_gets_out(runner: Runner, kind: type[BaseException]) -> None:
    def leave() -> None:
        raise kind

    with pytest.raises(kind):
        runner.run(assign(leave))


def test_a_value_that_cannot_be_pickled_is_the_fault_of_the_task(runner: Runner) -> None:
    failure = failure_of(runner.run(assign(lambda: __import__("threading").Lock())))
    assert failure.kind is FailureKind.SERIALIZATION
    assert failure.message.startswith("task 'charge': what it returned cannot travel: a value of type ")
    assert isinstance(failures.to_exception(failure), errors.SerializationError)


def test_a_graph_that_cannot_run_is_the_fault_of_the_task(runner: Runner) -> None:
    for broken in (lambda: increment.bind(__import__("threading").Lock()), lambda: perdure.input("x")):
        failure = failure_of(runner.run(assign(broken)))
        assert failure.kind is FailureKind.SERIALIZATION
        assert "what it returned cannot travel" in failure.message


@pytest.mark.parametrize(
    "value",
    [
        Value(Payload("python/pickle", b"broken")),
        Value(Payload("avro/unknown", b"1")),
        stored([1], path=(Index(5),)),
        stored(5, path=(Index(0),)),
        stored(5, path=(Attribute("nothing"),)),
    ],
)
def test_an_argument_that_cannot_be_made_is_named(runner: Runner, value: Value) -> None:
    failure = failure_of(runner.run(assign(lambda a: a, value)))
    assert failure.kind is FailureKind.SERIALIZATION
    assert failure.message.startswith("task 'charge': its arguments cannot travel: ")


def test_a_blob_that_cannot_be_read_now_is_no_fault_of_the_task(runner: Runner, blobs: Blobs) -> None:
    """So it is tried again, wherever the blob was needed."""
    missing = Payload("python/pickle", blob=BlobRef("0" * 64, 1))
    good = assign(lambda a=None: a)
    for made in (
        assign(lambda a: a, Value(missing)),
        AttemptInput(CONTEXT, good.function, missing, []),
        assign(Function("k", "m.f", missing)),
    ):
        failure = failure_of(runner.run(made))
        assert failure.kind is FailureKind.SYSTEM
        assert "cannot be read" in failure.message
    blobs.is_away = True
    failure = failure_of(runner.run(assign(lambda: b"x" * (INLINE_BYTES_MAX + 1))))
    assert failure.kind is FailureKind.SYSTEM
    assert "cannot be stored: the disk is away" in failure.message


def test_a_function_that_is_not_here_is_named(runner: Runner) -> None:
    failure = failure_of(runner.run(assign(Function("k", "no_such_module:f"))))
    assert failure.kind is FailureKind.FUNCTION_UNAVAILABLE
    assert "no_such_module" in failure.message
    assert not runner.is_async(Function("k", "no_such_module:f"))
    error = failures.to_exception(failure)
    assert isinstance(error, errors.FunctionUnavailableError)
    assert failure.type == "perdure.FunctionUnavailable"


def test_an_argument_of_a_class_that_was_renamed_is_named_with_advice(runner: Runner) -> None:
    gone = Value(Payload("python/pickle", b"cjson\nOrder\n."))
    failure = failure_of(runner.run(assign(lambda a: a, gone)))
    assert failure.kind is FailureKind.SERIALIZATION
    assert "The module 'json' (" in failure.message
    assert "has no 'Order'. If it was renamed or removed" in failure.message


def test_functions_are_loaded_once_and_not_all_are_kept(runner: Runner) -> None:
    first = functions.encode_function(lambda: 1)
    runner.run(assign(first))
    broken = Function(first.key, "m.f", Payload("python/pickle", b"broken"))
    assert value_of(runner.run(assign(broken))) == 1, "it is known by its key"
    for number in range(FUNCTIONS_MAX):
        runner.is_async(Function(str(number), "json:dumps"))
    assert failure_of(runner.run(assign(broken))).kind is FailureKind.FUNCTION_UNAVAILABLE


# ------------------------------------------------------------------------------ coroutines


async def test_a_coroutine_is_awaited(runner: Runner) -> None:
    async def work(number: int) -> tuple[int, str]:
        await asyncio.sleep(0)
        return number + 1, perdure.context().task_id

    made = assign(work, 1)
    assert runner.is_async(made.function)
    assert value_of(await runner.run_async(made)) == (2, "charge")


@pytest.mark.parametrize(
    ("kind", "failure_kind"),
    [
        (KeyError, FailureKind.APPLICATION),
        (asyncio.CancelledError, FailureKind.APPLICATION),
        (Wild, FailureKind.APPLICATION),
        (SystemExit, FailureKind.SYSTEM),
        (KeyboardInterrupt, FailureKind.SYSTEM),
    ],
)
async def test_nothing_out_of_a_coroutine_ends_the_loop(
    runner: Runner, kind: type[BaseException], failure_kind: FailureKind
) -> None:
    async def fail() -> None:
        raise kind("x")

    assert failure_of(await runner.run_async(assign(fail))).kind is failure_kind


async def test_a_cancelled_coroutine_is_cancelled(runner: Runner) -> None:
    begun = asyncio.Event()
    ended = []

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    function = functions.encode_function(increment)  # its place in the cache is taken by what cannot be pickled
    runner._functions.keep(function.key, wait)
    task = asyncio.create_task(runner.run_async(assign(function)))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
