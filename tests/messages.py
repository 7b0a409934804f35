"""Every field of a message as its descriptor has it, for property tests: fields that are added are found, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

SAME_MAX: Final = 2
"""So often a type may contain itself on the way to a field."""
MUTATIONS_MAX: Final = 3
_MESSAGE: Final = FieldDescriptor.TYPE_MESSAGE
_INTEGERS: Final = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}


@dataclass(frozen=True)
class Place:
    """A field that is no message, at some depth. Of what is repeated it is the first; of a map, an entry."""

    way: tuple[FieldDescriptor, ...]
    field: FieldDescriptor
    is_key: bool = False

    @property
    def scalar(self) -> FieldDescriptor:
        """What the place holds."""
        if not _is_map(self.field):
            return self.field
        return self.field.message_type.fields_by_name["key" if self.is_key else "value"]

    @property
    def is_text(self) -> bool:
        return bool(self.scalar.type == FieldDescriptor.TYPE_STRING)

    def __str__(self) -> str:
        return ".".join([*(field.name for field in self.way), "KEY" if self.is_key else self.field.name])

    def put(self, message: Any, value: Any) -> None:
        """Set the field. ValueError for what no such field can hold."""
        for field in self.way:
            message = _enter(message, field)
        if _is_map(self.field):
            entries = getattr(message, self.field.name)
            inner = self.field.message_type.fields_by_name["value"]
            if not self.is_key:
                entries["a"] = value
            elif inner.type == _MESSAGE:
                entries[value].SetInParent()
            else:
                entries[value] = inner.default_value
        elif self.field.is_repeated:
            getattr(message, self.field.name).append(value)
        else:
            setattr(message, self.field.name, value)


def places(kind: Descriptor) -> list[Place]:
    """Every field in messages of that type that is no message itself."""
    return list(_places(kind, (), (kind.full_name,)))


def _places(kind: Descriptor, way: tuple[FieldDescriptor, ...], types: tuple[str, ...]) -> Iterator[Place]:
    for field in kind.fields:
        inner = field
        if _is_map(field):
            yield Place(way, field, is_key=True)
            inner = field.message_type.fields_by_name["value"]
            if inner.type != _MESSAGE:
                yield Place(way, field)
                continue
        if inner.type != _MESSAGE:
            yield Place(way, field)
        elif types.count(inner.message_type.full_name) < SAME_MAX:
            yield from _places(inner.message_type, (*way, field), (*types, inner.message_type.full_name))


def class_of(kind: Descriptor) -> Any:
    """The class of the messages of that type."""
    return GetMessageClass(kind)


def _enter(message: Any, field: FieldDescriptor) -> Any:
    inside = getattr(message, field.name)
    if _is_map(field):
        return inside[next(iter(inside), "a")]
    if field.is_repeated:
        return inside[0] if inside else inside.add()
    return inside


def _is_map(field: FieldDescriptor) -> bool:
    return bool(field.type == _MESSAGE and field.message_type.GetOptions().map_entry)


def mutated(good: list[Any], texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Good messages of one type with up to three fields that are anything."""
    known = places(good[0].DESCRIPTOR)

    @st.composite
    def drawn(draw: Callable[[Any], Any]) -> Message:
        message: Message = type(good[0])()
        message.CopyFrom(draw(st.sampled_from(good)))
        for place in draw(st.lists(st.sampled_from(known), min_size=1, max_size=MUTATIONS_MAX)):
            place.put(message, draw(_scalars(place.scalar, texts)))
        return message

    return drawn()


def _scalars(field: FieldDescriptor, texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return texts
        case FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=8)
        case FieldDescriptor.TYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return st.floats()
        case FieldDescriptor.TYPE_ENUM:
            return st.sampled_from([value.number for value in field.enum_type.values])
        case number:
            low, high = _INTEGERS[number]
            return st.one_of(st.integers(max(low, -2), 3), st.integers(low, high))
