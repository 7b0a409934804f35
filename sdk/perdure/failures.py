"""Exceptions to failures and back: the type, the fields and the remote traceback survive the trip."""

from __future__ import annotations

from typing import Any, Final

from perdure import codec, texts, tracebacks
from perdure.errors import FunctionUnavailableError, RemoteError, SerializationError, TaskLostError, TaskTimeoutError
from perdure.model import INLINE_BYTES_MAX, Failure, FailureKind

CAUSES_MAX: Final = 16
_GENERAL: Final = (object, BaseException, Exception)

_STANDS_FOR: Final = {
    FailureKind.SYSTEM: TaskLostError,
    FailureKind.TIMEOUT: TaskTimeoutError,
    FailureKind.SERIALIZATION: SerializationError,
    FailureKind.FUNCTION_UNAVAILABLE: FunctionUnavailableError,
}


def type_name(kind: type) -> str:
    """The name by which retry policies know a type: "builtins.ValueError"."""
    return texts.storable(f"{kind.__module__}.{kind.__qualname__}")


def from_exception(
    error: BaseException, kind: FailureKind = FailureKind.APPLICATION, *, skip_frames: int = 0
) -> Failure:
    """What is known of an exception, and itself if it can be pickled and is small.

    `skip_frames` leaves out the frames of whoever called the user's code.
    """
    chain = _chain(error)
    failure: Failure | None = None
    for link in reversed(chain):
        is_first = link is error
        failure = Failure(
            kind=kind if is_first else FailureKind.APPLICATION,
            type=type_name(type(link)),
            message=_text(link),
            stack_trace=_stack(link, skip_frames if is_first else 0),
            base_types=tuple(type_name(base) for base in type(link).__mro__[1:] if base not in _GENERAL),
            cause=failure,
            error=_pickled(link) if is_first else None,
        )
    assert failure is not None
    return failure


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while len(chain) < CAUSES_MAX:
        last = chain[-1]
        cause = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if cause is None or any(cause is link for link in chain):  # not `in`: errors may define equality
            break
        chain.append(cause)
    return chain


def _text(error: BaseException) -> str:
    try:
        return texts.storable(str(error))
    except Exception as broken:
        return f"(its text cannot be made: {type(broken).__name__})"


def _stack(error: BaseException, skip_frames: int) -> str:
    return texts.storable(tracebacks.stack(error.__traceback__, skip_frames))


def _pickled(error: BaseException) -> Any:
    """The exception as a payload, if it survives the way there and back."""
    try:
        encoded = codec.encode(error)
        if encoded.encoding != codec.PICKLE or encoded.size > INLINE_BYTES_MAX:
            return None
        payload = encoded.inline()
        codec.decode(payload)
    except Exception:
        return None
    return payload


def _unpickled(failure: Failure) -> BaseException | None:
    if failure.error is None:
        return None
    try:
        decoded = codec.decode(failure.error)
    except codec.CodecError:
        return None
    return decoded if isinstance(decoded, BaseException) else None


def to_exception(failure: Failure) -> BaseException:
    """The user's own exception if it can be rebuilt here, else one that tells of it. The remote
    traceback is a note on it (PEP 678)."""
    error = _unpickled(failure)
    if error is None:
        error = _STANDS_FOR.get(failure.kind, RemoteError)(failure)
    if failure.stack_trace:
        error.add_note(f"Remote traceback (most recent call last):\n{failure.stack_trace.rstrip()}")
    if failure.cause is not None and error.__cause__ is None:
        error.__cause__ = to_exception(failure.cause)
    return error
