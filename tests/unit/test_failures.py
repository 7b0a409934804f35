"""Exceptions to failures and back: type, fields, cause and traceback survive the trip."""

from __future__ import annotations

import dataclasses
import importlib
import pickle
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import errors, failures, wire
from perdure.model import INLINE_BYTES_MAX, Failure, FailureKind


class OutOfStock(LookupError):
    """Has fields, and can be pickled."""

    def __init__(self, item: str, left: int) -> None:
        super().__init__(item, left)
        self.item, self.left = item, left

    def __str__(self) -> str:
        return f"{self.left} of {self.item}"


class Stubborn(Exception):
    """Comes out of pickle with a TypeError, as many do."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class Locked(Exception):
    """Cannot be pickled at all."""

    def __reduce__(self) -> str:
        raise TypeError("no")


class Empty(Exception):
    """Is false."""

    def __len__(self) -> int:
        return 0


class Alike(Exception):
    """Equals everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = Exception.__hash__


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Impostor(Exception):
    """Comes out of pickle as something else."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (list, ())


def caught(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as raised:
        return raised


def there_and_back(error: BaseException) -> BaseException:
    failure = failures.from_exception(error)
    return failures.to_exception(wire.decode_failure(wire.encode_failure(failure)))


def test_the_users_own_exception_comes_back() -> None:
    back = there_and_back(caught(OutOfStock("lamps", 2)))
    assert type(back) is OutOfStock
    assert (back.item, back.left, str(back)) == ("lamps", 2, "2 of lamps")


def test_the_failure_says_what_policies_need() -> None:
    failure = failures.from_exception(caught(OutOfStock("lamps", 2)))
    assert failure.kind is FailureKind.APPLICATION
    assert failure.type == failures.type_name(OutOfStock)
    assert failure.base_types == ("builtins.LookupError",)
    assert failure.message == "2 of lamps"


@pytest.mark.parametrize("more", [0, 1, 100_000])
def test_a_message_that_is_too_long_keeps_both_ends(more: int) -> None:
    middle = "x" * (wire.MESSAGE_CHARS_MAX - len("first") - len("last") + more)
    message = failures.from_exception(ValueError(f"first{middle}last")).message
    assert len(message) == wire.MESSAGE_CHARS_MAX
    assert message.startswith("first")
    assert message.endswith("last")
    assert ("x [...] x" in message) == bool(more)


def test_a_message_of_escaped_characters_keeps_both_ends() -> None:
    back = there_and_back(Locked("first" + "\0" * wire.MESSAGE_CHARS_MAX + "last"))
    assert isinstance(back, errors.RemoteError)
    assert back.failure.message.startswith(r"first\x00")
    assert back.failure.message.endswith("last")
    assert len(back.failure.message) == wire.MESSAGE_CHARS_MAX


def test_a_name_of_a_type_may_be_any_kind_of_text() -> None:
    class Name(str):
        def __format__(self, spec: str) -> str:
            raise ValueError("no format")

    class Odd(Exception):
        __qualname__ = Name("Odd")

    assert failures.from_exception(Odd("x")).type.endswith(".Odd")


def test_the_remote_traceback_is_a_note() -> None:
    back = there_and_back(caught(OutOfStock("lamps", 2)))
    (note,) = back.__notes__
    assert note.startswith("Remote traceback (most recent call last):\n")
    assert "test_failures.py" in note
    assert "in caught" in note
    assert "raise error from cause" in note


def test_frames_of_the_caller_are_left_out() -> None:
    def inner() -> None:
        raise ValueError("x")

    try:
        inner()
    except ValueError as raised:
        error = raised
    whole = failures.from_exception(error).stack_trace
    cut = failures.from_exception(error, skip_frames=1).stack_trace
    assert "in test_frames_of_the_caller_are_left_out" in whole
    assert "in test_frames_of_the_caller_are_left_out" not in cut
    assert "in inner" in cut


def test_an_exception_that_was_never_raised_has_no_traceback() -> None:
    back = there_and_back(ValueError("x"))
    assert type(back) is ValueError
    assert not hasattr(back, "__notes__")


def test_causes_survive() -> None:
    root = caught(KeyError("k"))
    back = there_and_back(caught(OutOfStock("lamps", 1), caught(ValueError("v"), root)))
    middle = back.__cause__
    assert isinstance(middle, errors.RemoteError)
    assert middle.failure.type == "builtins.ValueError"
    assert isinstance(middle.__cause__, errors.RemoteError)
    assert middle.__cause__.failure.type == "builtins.KeyError"
    assert middle.__cause__.__cause__ is None


def test_what_was_being_handled_is_a_cause_unless_it_was_suppressed() -> None:
    def raise_during(suppress: bool) -> None:
        try:
            raise KeyError("first")
        except KeyError:
            if suppress:
                raise ValueError("second") from None
            raise ValueError("second")  # noqa: B904

    for suppress in (False, True):
        with pytest.raises(ValueError, match="second") as info:
            raise_during(suppress)
        failure = failures.from_exception(info.value)
        assert (failure.cause is None) is suppress


def test_a_circle_of_causes_ends() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    failure = failures.from_exception(one)
    assert failure.cause is not None
    assert failure.cause.cause is None


def test_a_long_chain_is_cut() -> None:
    error: BaseException = ValueError("0")
    for number in range(1, 100):
        error = caught(ValueError(str(number)), error)
    failure: Failure | None = failures.from_exception(error)
    count = 0
    while failure is not None:
        failure, count = failure.cause, count + 1
    assert count == failures.CAUSES_MAX


def test_errors_that_equal_each_other_are_still_two() -> None:
    failure = failures.from_exception(caught(Alike("outer"), Alike("inner")))
    assert failure.cause is not None
    assert failure.cause.message == "inner"


@pytest.mark.parametrize("error", [Stubborn(1, 2), Locked("1 and 2"), Impostor("1 and 2")])
def test_one_that_cannot_travel_is_told_of(error: Exception) -> None:
    back = there_and_back(caught(error))
    assert type(back) is errors.RemoteError
    assert str(back) == f"{failures.type_name(type(error))}: 1 and 2"
    assert "in caught" in back.__notes__[0]


def test_one_that_is_large_is_told_of() -> None:
    failure = failures.from_exception(ValueError("x" * INLINE_BYTES_MAX))
    assert failure.error is None
    assert type(failures.to_exception(failure)) is errors.RemoteError


def test_one_of_a_module_that_is_not_here_is_told_of() -> None:
    failure = failures.from_exception(caught(OutOfStock("lamps", 1)))
    assert failure.error is not None
    broken = failure.error.data.replace(b"OutOfStock", b"OutOfStick")
    assert broken != failure.error.data
    moved = Failure(failure.kind, failure.type, failure.message, error=type(failure.error)("python/pickle", broken))
    back = failures.to_exception(moved)
    assert type(back) is errors.RemoteError
    assert "another version: Can't get attribute 'OutOfStick'" in back.__notes__[-1]


def test_the_module_that_is_missing_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_far_away.py").write_text("class Sold(Exception):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    failure = failures.from_exception(caught(importlib.import_module("shop_far_away").Sold("out")))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "shop_far_away")
    back = failures.to_exception(failure)
    assert type(back) is errors.RemoteError
    assert back.__notes__[0].startswith("Remote traceback")
    assert "cannot be unpickled here: the module 'shop_far_away' is not here" in back.__notes__[1]
    assert "shop_far_away.Sold" in back.__notes__[1]


def test_what_unpickling_raises_is_told() -> None:
    failure = failures.from_exception(caught(ValueError("v")))
    assert failure.error is not None
    error = type(failure.error)("python/pickle", failure.error.data[:-5])
    back = failures.to_exception(Failure(failure.kind, failure.type, failure.message, error=error))
    assert "cannot be unpickled here: a python/pickle value cannot be decoded" in back.__notes__[-1]


def test_one_that_is_false_comes_back_as_itself() -> None:
    assert type(there_and_back(caught(Empty("nothing")))) is Empty


def test_one_without_words_has_a_message() -> None:
    assert failures.from_exception(Mute()).message == "(its text cannot be made: RuntimeError)"


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Lets nothing be set on it."""

    item: str = ""

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return Frozen, (self.item,)


def test_one_that_lets_nothing_be_set_comes_back_with_its_cause() -> None:
    back = there_and_back(caught(Frozen("book"), KeyError("k")))
    assert isinstance(back, Frozen)
    assert (back.item, str(back.__cause__)) == ("book", "builtins.KeyError: 'k'")


def test_one_defined_in_a_function_travels_by_value() -> None:
    class Local(Exception):
        pass

    back = there_and_back(caught(Local("here")))
    assert type(back).__name__ == "Local"
    assert back.args == ("here",)


@pytest.mark.parametrize(
    ("kind", "stands_for"),
    [
        (FailureKind.SYSTEM, errors.TaskLostError),
        (FailureKind.TIMEOUT, errors.TaskTimeoutError),
        (FailureKind.SERIALIZATION, errors.SerializationError),
        (FailureKind.FUNCTION_UNAVAILABLE, errors.FunctionUnavailableError),
        (FailureKind.APPLICATION, errors.RemoteError),
    ],
)
def test_failures_of_the_system_have_a_class(kind: FailureKind, stands_for: type[BaseException]) -> None:
    assert type(failures.to_exception(Failure(kind, "t", "m"))) is stands_for


def test_the_kind_is_that_of_the_outer_error_only() -> None:
    failure = failures.from_exception(caught(ValueError("v"), KeyError("k")), FailureKind.SERIALIZATION)
    assert failure.kind is FailureKind.SERIALIZATION
    assert failure.cause is not None
    assert failure.cause.kind is FailureKind.APPLICATION


@given(st.text(st.characters(codec=None), max_size=200))
def test_any_text_travels(text: str) -> None:
    failure = failures.from_exception(caught(ValueError(text)))
    back = failures.to_exception(wire.decode_failure(wire.encode_failure(failure)))
    assert isinstance(back, ValueError)
    assert back.args == (text,)


def test_an_exception_group_comes_back() -> None:
    back = there_and_back(caught(ExceptionGroup("two", [ValueError("1"), KeyError("2")])))
    assert isinstance(back, ExceptionGroup)
    assert [type(part) for part in back.exceptions] == [ValueError, KeyError]


def test_what_comes_back_can_be_pickled_again() -> None:
    back = pickle.loads(pickle.dumps(there_and_back(caught(Stubborn(1, 2)))))
    assert type(back) is errors.RemoteError
    assert "in caught" in back.__notes__[0]
