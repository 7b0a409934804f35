"""The state of an actor's instance as payloads, and back.

The state is what the class's own `__getstate__` returns, or else the attributes: those of `__dict__` and of slots.
Attributes, and the entries of a dict that `__getstate__` returns, are fields. A field that is large is a part: a
payload of its own, so that it is not written again while only others change. The small fields are one payload together
with the names of the parts. Objects that several small fields share are shared again when they are read. Each part has
copies of its own.

The small fields are stored with the version of the class. A state of an older version is migrated when it is read, and
written with the next change. Parts that the migration leaves alone are not written again.

A part that cannot change in place is known to be unchanged while the field has the same object. Everything else is
encoded after each call, and compared with what is stored. An instance may refer to itself.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import quote

from perdure import codec, failures
from perdure.model import FIRST_VERSION, INLINE_BYTES_MAX, MIGRATE, PART_NAME_CHARS_MAX, Failure, FailureKind, Payload
from perdure.worker.changes import is_frozen, is_plainly_large, is_tiny
from perdure.worker.instances import (
    FIELDS,
    VALUE,
    Change,
    Instance,
    Kind,
    Part,
    Saved,
    Stored,
)
from perdure.worker.interrupt import Interrupted
from perdure.worker.results import Bad, bad_of, kind_of, serialization
from perdure.worker.values import Values

PART_BYTES_MIN: Final = 4096
"""A larger field is a part. It becomes a small field again at half of this size."""
PARTS_MAX: Final = 400
"""Further fields are small ones whatever their size. The engine allows 1,000 parts, those of the last state
included."""
INLINE_PARTS_BYTES_MAX: Final = 512 * 1024
"""New parts of a state travel inline up to this sum, further ones are blobs."""
_TEXT: Final = frozenset({str})


_instance: ContextVar[Any] = ContextVar("perdure_actor_instance")


def this_actor() -> Any:
    """The placeholder in stored states for the instance itself. States refer to it, so its name must not change."""
    return _instance.get()


@contextmanager
def _reading(instance: Any) -> Iterator[None]:
    token = _instance.set(instance)
    try:
        yield
    finally:
        _instance.reset(token)


class States:
    """Reads and writes states."""

    def __init__(self, values: Values) -> None:
        self._values = values

    # -------------------------------------------------------------------------- reading

    def restore(self, kind: Kind, payloads: Sequence[Payload], task_id: str) -> Instance:
        """An instance with a stored state. Raises Bad."""
        kind.check(task_id)
        try:
            cls: Any = kind.cls
            value = cls.__new__(cls)
            with _reading(value):
                state, saved, version = self._read(payloads)
            if version != kind.version:
                state = _migrated(kind, version, state, task_id)
            if kind.has_setstate:
                value.__setstate__(state)
            elif isinstance(state, dict):
                kind.set_fields(value, state)
            else:
                raise TypeError(f"{kind.name} has __getstate__ and needs a __setstate__, which it has not")
        except codec.Unresolved as unresolved:
            raise bad_of(unresolved) from unresolved
        except (Bad, Interrupted):
            raise
        except BaseException as error:  # decoding runs code of the user's
            raise Bad(serialization(error, task_id, f"the state of the actor, a {kind.name},")) from error
        return Instance(kind, value, saved)

    def _read(self, payloads: Sequence[Payload]) -> tuple[Any, Saved, int]:
        """The state, what is stored of it, and the version that wrote it."""
        kind, fields, names, *more = self._decoded(payloads[0])
        version: int = more[0] if more else FIRST_VERSION
        if len(names) != len(payloads) - 1:
            raise ValueError(f"the state has {len(names)} parts, and {len(payloads) - 1} came")
        parts = {}
        for (name, field), payload in zip(
            sorted((name, field) for field, name in names.items()), payloads[1:], strict=True
        ):
            fields[field] = value = self._decoded(payload)
            parts[field] = Part(payload, None, True, name, value, is_frozen(value))
        saved = Saved(Stored(payloads[0], None, True), parts, payloads[0].size)
        return (fields if kind == FIELDS else fields[""]), saved, version

    def _decoded(self, payload: Payload) -> Any:
        return codec.decode(payload, self._values.bytes_of(payload), self._values.objects, is_writable=True)

    # -------------------------------------------------------------------------- writing

    def is_unchanged(self, instance: Instance) -> bool:
        """Whether the instance has the state that is stored. False if that cannot be told."""
        try:
            writer = _Writer(self._values, instance, "")
            return not writer.new and not writer.dropped and not writer.is_small_changed
        except Interrupted:
            raise
        except BaseException:  # it cannot be encoded
            return False

    def save(self, instance: Instance, task_id: str) -> Change:
        """Encode what has changed since the state was stored. Raises Bad."""
        return _Writer(self._values, instance, task_id).change()


class _Writer:
    """One encoding of a state."""

    def __init__(self, values: Values, instance: Instance, task_id: str) -> None:
        self._values = values
        self._instance = instance
        self._kind = instance.kind
        self._task_id = task_id
        self._reducers = _reducers(instance.value)
        self._saved = instance.saved
        self._parts: dict[Any, Part] = {}
        self.new: dict[Any, codec.Encoded] = {}  # parts that have changed, by field
        self._state_kind, self._fields = self._state()
        before = self._saved.parts if self._saved is not None else {}
        for field, part in before.items():
            if field in self._fields:
                self._look_at(field, part)
        named = self._names() if before else {}
        self.dropped = tuple(part.name for field, part in before.items() if field not in named)
        self._measured = self._saved.measured if self._saved is not None else 0
        for field, value in self._fields.items():
            if field not in before and is_plainly_large(value):
                self._split_off(field, self._encoded(field))
        small = self._encode_small()
        if small.size > self._measured + PART_BYTES_MIN and self._measure():
            small = self._encode_small()
        self._small = small
        self.is_small_changed = self._saved is None or not self._is_stored(small, self._saved.small)

    def _state(self) -> tuple[int, dict[Any, Any]]:
        try:
            if type(self._instance.value) is not self._kind.cls:
                raise TypeError(f"it has become a {failures.type_name(type(self._instance.value))}")
            return self._instance.state()
        except Interrupted:
            raise
        except BaseException as error:
            raise Bad(self._failure(error, f"the state of the actor, a {self._kind.name},")) from error

    def _failure(self, error: BaseException, what: str) -> Failure:
        return serialization(error, self._task_id, what)

    def _names(self) -> dict[Any, str]:
        """The names of all parts, by field in the order of the fields."""
        return {
            field: self._parts[field].name if field in self._parts else part_name(field)
            for field in self._fields
            if field in self._parts or field in self.new
        }

    # -------------------------------------------------------------------------- which fields are parts

    def _look_at(self, field: Any, part: Part) -> None:
        """Keep a part that has not changed."""
        value = self._fields[field]
        if part.is_frozen and part.value is value:
            self._parts[field] = part
            return
        encoded = self._encoded(field)
        if encoded.size <= PART_BYTES_MIN // 2:
            return
        if self._is_stored(encoded, part):
            self._parts[field] = Part(part.payload, part.own, part.is_of_another, part.name, value, is_frozen(value))
        else:
            self.new[field] = encoded

    def _split_off(self, field: Any, encoded: codec.Encoded) -> bool:
        """Make a field a part, if it can be one."""
        parts = len(self._parts) + len(self.new)
        is_part = encoded.size > PART_BYTES_MIN and type(field) is str and parts < PARTS_MAX
        if is_part:
            self.new[field] = encoded
        return is_part

    def _measure(self) -> bool:
        """Find large fields among the small ones. Returns whether there are any."""
        found = False
        for field, value in self._fields.items():
            if field not in self._parts and field not in self.new and not is_tiny(value):
                found |= self._split_off(field, self._encoded(field))
        return found

    # -------------------------------------------------------------------------- encoding

    def _encode_small(self) -> codec.Encoded:
        names = self._names() if self._parts or self.new else {}
        fields = (
            {field: None if field in names else value for field, value in self._fields.items()}
            if names
            else self._fields
        )
        try:
            if codec.ATOMS.issuperset(map(type, fields.values())) and _TEXT.issuperset(map(type, fields)):
                return codec.Encoded(codec.PICKLE, (pickle.dumps(self._small_state(fields, names), protocol=5),))
            return self._encode(self._small_state(fields, names))
        except (codec.Unresolved, Interrupted, Bad):
            raise
        except BaseException as error:
            for field in fields:
                if field not in names:
                    self._encoded(field)  # raises for the field at fault
            raise Bad(self._failure(error, f"the state of the actor, a {self._kind.name},")) from error

    def _small_state(self, fields: dict[Any, Any], names: dict[Any, str]) -> tuple[Any, ...]:
        """The stored form of the small fields. A state of the first version does not say its version."""
        version = self._kind.version
        return (self._state_kind, fields, names, *(() if version == FIRST_VERSION else (version,)))

    def _encoded(self, field: Any) -> codec.Encoded:
        try:
            return self._encode(self._fields[field])
        except (codec.Unresolved, Interrupted):
            raise
        except BaseException as error:
            what = "what __getstate__ returned" if self._state_kind == VALUE else f"the field {field!r:.200}"
            raise Bad(self._failure(error, f"{what} of the actor, a {self._kind.name},")) from error

    def _encode(self, value: Any) -> codec.Encoded:
        try:
            return codec.encode(value, self._values.objects, self._reducers)
        except codec.Unresolved as unresolved:
            raise bad_of(unresolved) from unresolved

    def _is_stored(self, encoded: codec.Encoded, stored: Stored) -> bool:
        """Whether a stored payload means the same."""
        payload = stored.payload
        if encoded.encoding == payload.encoding and encoded.size == payload.size:
            if payload.blob is None:
                if b"".join(encoded.chunks) == payload.data:
                    return True
            elif _digest(encoded).hex() == payload.blob.sha256:
                return True
        if stored.own is not None:
            return _digest(encoded) == stored.own
        if not stored.is_of_another or not self._means_same(encoded, payload):
            return False
        stored.own = _digest(encoded)
        return True

    def _means_same(self, encoded: codec.Encoded, payload: Payload) -> bool:
        """Whether another encoding is that of the stored value, encoded here: equal values may have several."""
        if encoded.encoding != payload.encoding or payload.encoding == codec.OBJECTS:
            return False
        try:
            with _reading(self._instance.value):
                data = self._values.bytes_of(payload)
                again = self._encode(codec.decode(payload, data, self._values.objects, is_writable=True))
        except Interrupted:
            raise
        except BaseException:
            return False
        return again.size == encoded.size and _digest(again) == _digest(encoded)

    # -------------------------------------------------------------------------- the result

    def change(self) -> Change:
        before = self._saved
        grown = self._small.size > self._measured + PART_BYTES_MIN
        measured = self._small.size if grown else min(self._measured, self._small.size)
        if not self.new and not self.dropped and not self.is_small_changed:
            assert before is not None
            is_same = not self._parts and measured == before.measured
            return Change(before if is_same else Saved(before.small, self._parts, measured))
        room = INLINE_PARTS_BYTES_MAX
        new: dict[str, Payload] = {}
        for field, encoded in self.new.items():
            payload = self._values.payload(encoded, self._task_id, min(INLINE_BYTES_MAX, room))
            room -= len(payload.data)
            name, value = part_name(field), self._fields[field]
            new[name] = payload
            self._parts[field] = Part(payload, None, False, name, value, is_frozen(value))
        if before is not None and not self.is_small_changed:
            small = before.small
        else:
            small = Stored(self._values.payload(self._small, self._task_id, INLINE_BYTES_MAX))
        return Change(Saved(small, self._parts, measured), small.payload, tuple(sorted(new.items())), self.dropped)


def _migrated(kind: Kind, version: int, state: Any, task_id: str) -> Any:
    """The state of an older version as one of this class. Raises Bad."""
    if version > kind.version:
        message = (
            f"task {task_id!r}: the state of the actor was written by version {version} of {kind.name}, and its class "
            f"is version {kind.version}; give the actor the newer class"
        )
        raise Bad(Failure(FailureKind.FUNCTION_UNAVAILABLE, "perdure.StateTooNew", message, non_retryable=True))
    migrate = getattr(kind.cls, MIGRATE, None)
    if not callable(migrate):
        message = (
            f"task {task_id!r}: the state of the actor was written by version {version} of {kind.name}, which is "
            f"version {kind.version} now and has no static method migrate(version, state)"
        )
        raise Bad(Failure(FailureKind.APPLICATION, "perdure.NoMigration", message, non_retryable=True))
    try:
        made = migrate(version, state)
    except (Bad, Interrupted):
        raise
    except BaseException as error:
        raise Bad(failures.from_exception(error, kind_of(error), skip_frames=1)) from None
    if made is None or (not kind.has_setstate and not isinstance(made, dict)):
        what = "the state" if kind.has_setstate else "a dict of the attributes"
        message = f"task {task_id!r}: migrate of {kind.name} returned {failures.type_name(type(made))}, and not {what}"
        raise Bad(Failure(FailureKind.APPLICATION, "perdure.BadMigration", message, non_retryable=True))
    return made


def part_name(field: str) -> str:
    """The name of the part of a field: printable ASCII, and different for every field."""
    name = quote(field, safe="", errors="surrogatepass")
    if 1 <= len(name) <= PART_NAME_CHARS_MAX:
        return name
    return "%" + hashlib.sha256(name.encode()).hexdigest()  # a quoted name has two hexadecimal capitals after each "%"


def _digest(encoded: codec.Encoded) -> bytes:
    digest = hashlib.sha256()
    for chunk in encoded.chunks:
        digest.update(chunk)
    return digest.digest()


def _reducers(instance: Any) -> codec.Reducers:
    """Reduces the instance itself to its placeholder, and others of its class as ever."""

    def reduce(found: Any) -> Any:
        return (this_actor, ()) if found is instance else found.__reduce_ex__(5)

    return {type(instance): reduce}
