"""Instances of the classes of actors: which of their attributes are their state, and how that is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MemberDescriptorType
from typing import Any, Final

from perdure import failures
from perdure.model import FIRST_VERSION, VERSION_MARK, Failure, FailureKind, Payload
from perdure.worker.loops import ThreadLoop
from perdure.worker.results import Bad

FIELDS: Final = 0
"""The state is attributes, or a dict that `__getstate__` returned."""
VALUE: Final = 1
"""The state is another value that `__getstate__` returned; it is the field ""."""
OVERHEAD_BYTES: Final = 4096
"""The assumed size of an instance without its state."""
_HEAP_TYPE: Final = 1 << 9
"""The flag of classes that are made by Python code."""


class Kind:
    """How instances of a class are read and written."""

    def __init__(self, cls: type) -> None:
        mro = [base for base in cls.__mro__ if base is not object]
        self.cls = cls
        self.name = failures.type_name(cls)
        self.version: int = vars(cls).get(VERSION_MARK, FIRST_VERSION)
        self.has_getstate = any("__getstate__" in vars(base) for base in mro)
        self.has_setstate = any("__setstate__" in vars(base) for base in mro)
        self.slots = dict(_slots(mro))
        self._has_dict = cls.__dictoffset__ != 0
        self._foreign = next((base for base in mro if not base.__flags__ & _HEAP_TYPE), None)

    def check(self, task_id: str) -> None:
        """Raises Bad if instances have contents that are no fields."""
        if self._foreign is not None and not self.has_getstate:
            message = (
                f"task {task_id!r}: the actor class {self.name} derives from {self._foreign.__name__}, whose "
                "contents are no attributes. Keep them in an attribute, or define __getstate__ and __setstate__"
            )
            raise Bad(Failure(FailureKind.SERIALIZATION, "perdure.NoState", message, non_retryable=True))

    def fields(self, instance: Any) -> dict[Any, Any]:
        """The attributes of an instance."""
        found = dict(instance.__dict__) if self._has_dict else {}
        for name, slot in self.slots.items():
            try:
                found[name] = slot.__get__(instance, self.cls)
            except AttributeError:  # it has no value
                continue
        return found

    def set_fields(self, instance: Any, fields: Mapping[Any, Any]) -> None:
        if not self.slots:
            instance.__dict__.update(fields)
            return
        for name, value in fields.items():
            if (slot := self.slots.get(name)) is not None:
                slot.__set__(instance, value)
            else:
                instance.__dict__[name] = value


def _slots(mro: Sequence[type]) -> Iterator[tuple[str, Any]]:
    """The slots of a class: their names, as they are mangled, and descriptors."""
    for base in reversed(mro):
        yield from ((name, slot) for name, slot in vars(base).items() if type(slot) is MemberDescriptorType)


# ------------------------------------------------------------------------------ what is stored


@dataclass(slots=True)
class Stored:
    """A payload that is stored. `own`: the digest of another encoding that is known to mean the same."""

    payload: Payload
    own: bytes | None = None
    is_of_another: bool = False  # it was encoded in another process, or for another instance


@dataclass(slots=True)
class Part(Stored):
    name: str = ""
    value: Any = None
    is_frozen: bool = False


@dataclass(slots=True)
class Saved:
    """A state as it is stored. `parts` are by field. `measured` is the size of the small fields when each of them was
    last known to be small."""

    small: Stored
    parts: dict[Any, Part]
    measured: int
    payloads: list[Payload] = field(init=False)

    def __post_init__(self) -> None:
        """The payloads in the order in which they come with an attempt."""
        parts = sorted(self.parts.values(), key=lambda part: part.name) if self.parts else ()
        self.payloads = [self.small.payload, *(part.payload for part in parts)]

    @property
    def size(self) -> int:
        return sum([payload.size for payload in self.payloads])


@dataclass(slots=True)
class Change:
    """The changes that a call made to a state. Nothing changed if `state` is None."""

    saved: Saved
    state: Payload | None = None
    parts: tuple[tuple[str, Payload], ...] = ()
    dropped: tuple[str, ...] = ()


class Instance:
    """An instance of an actor's class in this process. `volatile`: the fields that are not a part of the state, with
    the values that the state has for them, or GONE; None: `activate` was not called yet. `loop` is the one that its
    coroutines have run on, `tasks` those that `activate` has begun there, which end with the instance. `misses`
    counts the queries since it was used that came with another state."""

    def __init__(self, kind: Kind, value: Any, saved: Saved | None = None) -> None:
        self.kind = kind
        self.value = value
        self.saved = saved
        self.volatile: dict[Any, Any] | None = None
        self.misses = 0
        self.loop: ThreadLoop | None = None
        self.tasks: set[asyncio.Task[Any]] = set()

    def __del__(self) -> None:
        if self.loop is not None and self.tasks:
            self.loop.cancel(self.tasks)

    @property
    def weight(self) -> int:
        return OVERHEAD_BYTES + (self.saved.size if self.saved is not None else 0)

    @property
    def is_warm(self) -> bool:
        """Whether it has something that is not durable, which may have taken long to build."""
        return bool(self.volatile)

    def state(self) -> tuple[int, dict[Any, Any]]:
        """The kind of its state, and the fields. Runs `__getstate__`."""
        kind = self.kind
        fields = kind.fields(self.value) if self.volatile or not kind.has_getstate else {}
        state = self.value.__getstate__() if kind.has_getstate else fields
        if type(state) is not dict:
            return VALUE, {"": state}
        durable = dict(state)
        for name, value in (self.volatile or {}).items():
            if name in durable and durable[name] is not fields.get(name):
                continue  # `__getstate__` has put something else there
            if value is not GONE:
                durable[name] = value
            else:
                durable.pop(name, None)
        return FIELDS, durable


class _Gone:
    pass


GONE: Final = _Gone()
