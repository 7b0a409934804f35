"""JSON Schemas of protobuf messages in their JSON form (ProtoJSON), from descriptors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

Schema: TypeAlias = dict[str, Any]

_FLOAT: Final[Schema] = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
_INT64: Final[Schema] = {"type": ["string", "integer"], "format": "int64"}
_INT32: Final[Schema] = {"type": "integer", "format": "int32"}
_PLAIN: Final[dict[int, Schema]] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_DOUBLE: _FLOAT,
    FieldDescriptor.TYPE_FLOAT: _FLOAT,
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0},
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_UINT64: _INT64,
}
_WELL_KNOWN: Final[dict[str, Schema]] = {
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?\d+(\.\d{1,9})?s$"},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Struct": {"type": "object"},
}
"""Those that the API uses. A test finds any other one."""


def schemas(roots: Iterable[Descriptor]) -> dict[str, Schema]:
    """The schemas of these messages and of all that they mention, by full name, as components of OpenAPI."""
    found: dict[str, Schema] = {}
    waiting: list[Descriptor | EnumDescriptor] = list(roots)
    while waiting:
        kind = waiting.pop()
        if kind.full_name in found or kind.full_name in _WELL_KNOWN:
            continue
        if isinstance(kind, EnumDescriptor):
            found[kind.full_name] = {"type": "string", "enum": [value.name for value in kind.values]}
        else:
            found[kind.full_name] = _message(kind)
            waiting += _mentioned(kind)
    return dict(sorted(found.items()))


def reference(kind: Descriptor | EnumDescriptor) -> Schema:
    """A mention of a message or an enum."""
    return _WELL_KNOWN.get(kind.full_name) or {"$ref": f"#/components/schemas/{kind.full_name}"}


def _message(kind: Descriptor) -> Schema:
    schema: Schema = {"type": "object", "properties": {field.json_name: _field(field) for field in kind.fields}}
    choices = [
        ", ".join(field.json_name for field in choice.fields)
        for choice in kind.oneofs
        if len(choice.fields) > 1  # that of an optional field has one
    ]
    if choices:
        schema["description"] = " ".join(f"At most one of: {names}." for names in choices)
    return schema


def _field(field: FieldDescriptor) -> Schema:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _value(kind.fields_by_name["value"])}
    return {"type": "array", "items": _value(field)} if field.is_repeated else _value(field)


def _value(field: FieldDescriptor) -> Schema:
    kind = field.message_type or field.enum_type
    return reference(kind) if kind is not None else _PLAIN[field.type]


def _mentioned(kind: Descriptor) -> Iterable[Descriptor | EnumDescriptor]:
    for field in kind.fields:
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            yield from _mentioned(message)
        elif (mentioned := message or field.enum_type) is not None:
            yield mentioned


def json_content(schema: Schema) -> dict[str, Any]:
    """The content of a body of JSON."""
    return {"application/json": {"schema": schema}}
