"""Whatever user code raises, in whatever it is asked, an attempt gives a result that a receipt can carry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import codec
from perdure.arguments import encode_arguments
from perdure.context import Context
from perdure.model import BlobRef, Failure, Function, Payload
from perdure.worker import results
from perdure.worker.attempt import Runner
from perdure.worker.receipts import receipt_of
from perdure.worker.results import Failed, Result, Returned
from perdure.worker.values import AttemptInput

CONTEXT = Context("default", "order-1", "run", "charge", 1)
RECEIPT_BYTES_MAX = 8 * 1024 * 1024 - results.SPEC_BYTES_MAX


class Nowhere:
    """Stores nothing."""

    def load(self, blob: BlobRef) -> memoryview:
        raise OSError("caf\udce9.txt")

    def store(self, encoded: codec.Encoded) -> BlobRef:
        return BlobRef("0" * 64, encoded.size)


ENDS = (SystemExit, KeyboardInterrupt)
KINDS: list[type[BaseException]] = [
    OSError,
    ValueError,
    StopIteration,
    StopAsyncIteration,
    RecursionError,
    MemoryError,
    GeneratorExit,
    asyncio.CancelledError,
    *ENDS,
    type("Own", (BaseException,), {}),
]
ASKED = ["__str__", "__repr__", "__reduce__", "__reduce_ex__", "__getstate__", "__hash__", "__eq__", "__bool__"]
HIDDEN = ["__cause__", "__context__", "__traceback__", "__suppress_context__", "__notes__", "args", "__dict__"]
texts = st.text(st.characters(exclude_categories=()), max_size=40) | st.sampled_from(["\udce9", "\0", "x" * 100_000])


@st.composite
def errors(draw: st.DrawFn) -> Callable[[], BaseException]:
    """Makes an error that raises others when something is asked of it."""
    base, thrown = draw(st.sampled_from(KINDS)), draw(st.sampled_from(KINDS))
    text, name, links = draw(texts), draw(texts), draw(st.integers(0, 40))
    asked, hidden = draw(st.sets(st.sampled_from(ASKED))), draw(st.sets(st.sampled_from(HIDDEN)))

    def refuse(*_: Any, **__: Any) -> Any:
        raise thrown(text)

    def make() -> BaseException:
        body: dict[str, Any] = dict.fromkeys(asked, refuse) | dict.fromkeys(hidden, property(refuse, refuse))
        kind = type(name.replace("\0", "") or "E", (base,), body | {"__module__": name})
        error: BaseException = kind(text)
        for number in range(links):
            following = base(f"{text} {number}")
            following.__cause__ = error
            error = following
        return error

    return make


def check(result: Result | None) -> Result | None:
    """A receipt can carry it."""
    receipt = receipt_of(1, result, 0, 0.0)
    assert len(receipt.SerializeToString()) < RECEIPT_BYTES_MAX
    return result


def outcome(function: Callable[..., Any], is_async: bool, *args: Any, payload: Payload | None = None) -> Result | None:
    """Of an attempt of this very function; None: it ended its worker."""
    runner = Runner(Nowhere())
    named = Function("key", "module:function") if payload is None else Function("key", "f", payload)
    if payload is None:
        runner._functions.keep("key", function)
    arguments, _ = encode_arguments((), {}, lambda _arg: None)
    attempt_input = AttemptInput(CONTEXT, named, arguments, [])
    if is_async:
        return check(asyncio.run(runner.run_async(attempt_input)))
    try:
        return check(runner.run(attempt_input))
    except ENDS:
        return None


@given(errors(), st.booleans())
def test_any_error_of_a_function_is_a_result(make: Callable[[], BaseException], is_async: bool) -> None:
    def fail() -> None:
        raise make()

    async def fail_async() -> None:
        raise make()

    result = outcome(fail_async if is_async else fail, is_async)
    assert isinstance(result, Failed) or (result is None and not is_async and isinstance(make(), ENDS))


@given(errors(), st.booleans(), st.sampled_from(["__reduce__", "__reduce_ex__", "__getstate__", "__class__"]))
def test_any_error_of_pickling_a_value_is_a_result(
    make: Callable[[], BaseException], is_async: bool, where: str
) -> None:
    def refuse(*_: Any) -> Any:
        raise make()

    kind = type("Value", (), {where: property(refuse) if where == "__class__" else refuse})

    async def give_async() -> Any:
        return [kind()]

    result = outcome(give_async if is_async else lambda: [kind()], is_async)
    assert isinstance(result, (Failed, Returned))  # pickle does not ask for the class of everything


MAKE: list[Callable[[], BaseException]] = []


def explode() -> Any:
    raise MAKE[0]()


class Explosive:
    """Raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return explode, ()


@given(errors(), st.booleans())
def test_any_error_of_loading_code_is_a_result(make: Callable[[], BaseException], is_async: bool) -> None:
    MAKE[:] = [make]
    assert isinstance(outcome(explode, is_async, payload=codec.encode(Explosive()).inline()), Failed)


def test_a_value_that_refers_to_too_much_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "BLOBS_MAX", 2)
    many = Payload(codec.OBJECTS, b"", refs=tuple(BlobRef(str(number) * 64, 1) for number in range(3)))
    with pytest.raises(results.Bad) as told:
        results.returned(many, "charge")
    assert "task 'charge': what it returned refers to 3 large objects, 2 at most" in told.value.failure.message


def test_a_result_that_no_message_can_carry_is_told_of() -> None:
    broken = Failed(Failure("no kind", "no type", "no message"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    receipt = receipt_of(1, broken, 0, 0.0)
    assert receipt.failure.message.startswith("the attempt ended with builtins.KeyError")
