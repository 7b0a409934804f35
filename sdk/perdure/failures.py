"""Exceptions to failures and back: the type, the fields and the remote traceback survive the trip.

An exception is user code: its `__str__`, `__reduce__` and properties may raise anything, and its texts may be
large or no Unicode. Nothing of that leaves this module; what cannot be told is left out. Texts of
exceptions are made in `perdure.told`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, TypeVar

from perdure import codec, tracebacks, wire
from perdure.errors import FunctionUnavailableError, RemoteError, SerializationError, TaskLostError, TaskTimeoutError
from perdure.model import INLINE_BYTES_MAX, Failure, FailureKind
from perdure.told import described as described
from perdure.told import either, plain
from perdure.told import text_of as text_of
from perdure.told import type_name as type_name
from perdure.v1 import workflow_pb2

T = TypeVar("T")

CAUSES_MAX: Final = wire.CAUSES_MAX
BASES_MAX: Final = 32
NAME_CHARS_MAX: Final = 200
_GENERAL: Final = (object, BaseException, Exception)

_STANDS_FOR: Final = {
    FailureKind.SYSTEM: TaskLostError,
    FailureKind.TIMEOUT: TaskTimeoutError,
    FailureKind.SERIALIZATION: SerializationError,
    FailureKind.FUNCTION_UNAVAILABLE: FunctionUnavailableError,
}


# Python's own descriptors, because classes may override these attributes.
_mro_of: Final[Callable[[type], tuple[type, ...]]] = type.__dict__["__mro__"].__get__
_cause_of: Final[Callable[[BaseException], BaseException | None]] = BaseException.__dict__["__cause__"].__get__
_context_of: Final[Callable[[BaseException], BaseException | None]] = BaseException.__dict__["__context__"].__get__
_hides_context: Final[Callable[[BaseException], bool]] = BaseException.__dict__["__suppress_context__"].__get__
_set_cause: Final[Callable[[BaseException, BaseException], None]] = BaseException.__dict__["__cause__"].__set__
_traceback_of: Final[Callable[[BaseException], TracebackType | None]] = BaseException.__dict__["__traceback__"].__get__


def from_exception(
    error: BaseException, kind: FailureKind = FailureKind.APPLICATION, *, skip_frames: int = 0
) -> Failure:
    """The failure of an exception, with the exception itself if it can be pickled and is small. Raises nothing.

    `skip_frames` is the number of outermost frames to leave out of the stack, those of the caller of user code.
    """
    chain = _chain(error)
    failure: Failure | None = None
    for link in reversed(chain):
        is_first = link is error
        failure = Failure(
            kind=kind if is_first else FailureKind.APPLICATION,
            type=type_name(type(link)),
            message=text_of(link),
            stack_trace=_stack(link, skip_frames if is_first else 0),
            base_types=_base_types(type(link)),
            cause=failure,
            error=_pickled(link) if is_first else None,
        )
    assert failure is not None
    return failure


def _base_types(kind: type) -> tuple[str, ...]:
    bases = [base for base in _mro_of(kind)[1:] if not any(base is general for general in _GENERAL)]
    return tuple(type_name(base) for base in bases[:BASES_MAX])


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while len(chain) < CAUSES_MAX:
        last = chain[-1]
        cause = _cause_of(last)
        if cause is None and not _hides_context(last):
            cause = _context_of(last)
        if cause is None or any(cause is link for link in chain):  # not `in`: errors may define equality
            break
        chain.append(cause)
    return chain


def _stack(error: BaseException, skip_frames: int) -> str:
    trace = _traceback_of(error)
    text = either(lambda: tracebacks.stack(trace, skip_frames), "")  # asks the modules of its frames for their source
    return plain(text[-wire.STACK_CHARS_MAX :], wire.STACK_CHARS_MAX)


def _pickled(error: BaseException) -> Any:
    """The exception as a payload; None if it cannot be pickled and unpickled."""
    try:
        encoded = codec.encode(error)
        if encoded.encoding != codec.PICKLE or encoded.size > INLINE_BYTES_MAX:
            return None
        payload = encoded.inline()
        codec.decode(payload)
    except BaseException:  # of its own code
        return None
    return payload


def _unpickled(failure: Failure) -> tuple[BaseException | None, str]:
    """The unpickled exception, or why it cannot be unpickled here."""
    if failure.error is None:
        return None, ""
    try:
        decoded = codec.decode(failure.error)
    except codec.CodecError as error:
        return None, _what_is_missing(failure, error.__cause__) or text_of(error)
    except GeneratorExit:
        return None, "unpickling it raised GeneratorExit"
    if isinstance(decoded, BaseException):
        return decoded, ""
    return None, f"it became a {type_name(type(decoded))}, which is no exception"


def _what_is_missing(failure: Failure, cause: BaseException | None) -> str:
    if isinstance(cause, ModuleNotFoundError) and cause.name:
        return (
            f"the module {plain(cause.name, NAME_CHARS_MAX)!r} is not here. Put it where this program finds it, to "
            f"catch {failure.type} as itself, or go by its name in `failure.type`"
        )
    if isinstance(cause, (ImportError, AttributeError)):
        return f"what this program has of its module is another version: {text_of(cause)}"
    return ""


def to_exception(failure: Failure) -> BaseException:
    """The user's own exception if it can be unpickled here, else a RemoteError. The remote traceback is a note on it
    (PEP 678)."""
    error, why = _unpickled(failure)
    if error is None:
        error = _STANDS_FOR.get(failure.kind, RemoteError)(failure)
    if failure.stack_trace:
        with suppress(Exception):  # a frozen dataclass takes no notes
            error.add_note(f"Remote traceback (most recent call last):\n{failure.stack_trace.rstrip()}")
    if why:
        error.add_note(f"The exception itself cannot be unpickled here: {why}.")
    if failure.cause is not None and _cause_of(error) is None:
        _set_cause(error, to_exception(failure.cause))
    return error


def _outcome(data: bytes) -> tuple[Any, BaseException | None]:
    outcome = wire.outcome_from_proto(workflow_pb2.Outcome.FromString(data))
    if isinstance(outcome, Failure):
        return None, to_exception(outcome)
    return codec.decode(outcome), None


codec.DECODERS[codec.OUTCOME] = _outcome
