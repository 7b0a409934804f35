"""Reminders: a method of an actor lets the actor call itself later.

What a method sets is recorded in the commit that has its result. A method that fails sets nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any

from perdure import texts
from perdure.model import REMINDER_KEY_CHARS_MAX, Payload, ReminderSetting
from perdure.options import milliseconds

Encode = Callable[[str, tuple[Any, ...], dict[str, Any]], Payload]
"""Encodes a call of a method with these arguments."""


class ReminderSettings:
    """The reminders that a running method has set. `methods` finds a method of its actor by name."""

    def __init__(self, encode: Encode, methods: Callable[[str], Callable[..., Any] | None]) -> None:
        self._encode = encode
        self._methods = methods
        self._by_key: dict[str, ReminderSetting] = {}

    def set(self, setting: ReminderSetting) -> None:
        self._by_key[setting.key] = setting

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
        found = self._methods(method)
        if found is None:
            raise ValueError(f"the actor has no method {method!r}")
        try:
            inspect.signature(found).bind(None, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{method}(): {error}") from None
        return self._encode(method, args, kwargs)

    def all(self) -> tuple[ReminderSetting, ...]:
        return tuple(self._by_key.values())


_current: ContextVar[ReminderSettings | None] = ContextVar("perdure_reminders", default=None)


@contextmanager
def gathered(settings: ReminderSettings) -> Iterator[None]:
    """Inside, a method runs that may set reminders."""
    token = _current.set(settings)
    try:
        yield
    finally:
        _current.reset(token)


def remind(
    key: str,
    method: str,
    *args: Any,
    after: float | timedelta | None = None,
    at: datetime | None = None,
    every: float | timedelta | None = None,
    **kwargs: Any,
) -> None:
    """Let the actor whose method runs call its `method` with these arguments later: `after` seconds, or `at` a moment
    with a time zone, and then again `every` so many seconds. `every` alone begins after one period.

    The call takes its turn like any other, and exactly once. It replaces the reminder with the same key, which has 1 to
    100 printable characters without "@" and "/". Periods that pass while no engine runs are left out. RuntimeError
    outside of a method that may change its actor, TypeError and ValueError for what cannot be set.
    """
    settings = _settings()
    if after is not None and at is not None:
        raise ValueError("a reminder has after or at, not both")
    every_ms = 0 if every is None else milliseconds("every", every)
    if every is not None and every_ms == 0:
        raise ValueError("every must be above 0 seconds")
    after_ms = None if after is None else milliseconds("after", after)
    if at is not None and at.tzinfo is None:
        raise ValueError("at needs a time zone, since the engine may have another one")
    if after is None and at is None:
        if not every_ms:
            raise ValueError("a reminder says when it rings: after, at or every")
        after_ms = every_ms
    at_ms = None if at is None else round(at.timestamp() * 1000)
    call = settings.call(method, args, kwargs)
    settings.set(ReminderSetting(_key(key), method, call, after_ms, at_ms, every_ms))


def forget_reminder(key: str) -> None:
    """Remove a reminder of the actor whose method runs. Nothing happens if there is none. RuntimeError as `remind`."""
    _settings().set(ReminderSetting(_key(key)))


def _settings() -> ReminderSettings:
    current = _current.get()
    if current is None:
        raise RuntimeError("reminders are set by a method of an actor that is called, not queried")
    return current


def _key(key: str) -> str:
    texts.name(key, "key", limit=REMINDER_KEY_CHARS_MAX)
    if "@" in key or "/" in key:
        raise ValueError(f'the key of a reminder has no "@" and no "/": {key!r}')
    return key
