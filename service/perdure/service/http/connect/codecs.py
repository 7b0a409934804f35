"""Messages as JSON (ProtoJSON) and as bytes.

The library that reads ProtoJSON lets pass what is surely a mistake: bytes that are not base64, a list in place of a
message. So the JSON is checked first, which also gives errors that name the field.

ProtoJSON is read and written by Python code. With large messages that would hold up the event loop, so it is done in
threads.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from perdure import errors
from perdure.service.api import requests
from perdure.service.common.aside import aside

BYTES_AT_ONCE: Final = 16 * 1024
"""Larger messages are read and written in threads."""
DEPTH_MAX: Final = 100
"""Of messages in messages, as in the binary form."""
URL_SAFE: Final = str.maketrans("-_", "+/")

T = TypeVar("T")
M = TypeVar("M", bound=Message)


async def at_once_or_aside(size: int, work: Callable[[], T]) -> T:
    """Work on so many bytes, in a thread if they are many."""
    return work() if size <= BYTES_AT_ONCE else await aside(work)


class Codec(Protocol):
    """A form of messages."""

    async def read(self, data: bytes, kind: type[M]) -> M:
        """The message. Raises InvalidFieldError if the bytes are none of this kind."""
        ...

    async def write(self, message: Message) -> bytes: ...


class Binary:
    """The binary form."""

    async def read(self, data: bytes, kind: type[M]) -> M:
        try:
            return kind.FromString(data)
        except DecodeError as error:
            raise requests.malformed() from error

    async def write(self, message: Message) -> bytes:
        return message.SerializeToString()


class Json:
    """ProtoJSON in UTF-8."""

    async def read(self, data: bytes, kind: type[M]) -> M:
        return await at_once_or_aside(len(data), lambda: _parsed(data, kind()))

    async def write(self, message: Message) -> bytes:
        return await at_once_or_aside(
            message.ByteSize(), lambda: json_format.MessageToJson(message, indent=None, ensure_ascii=False).encode()
        )


CODECS: Final[dict[str, Codec]] = {"json": Json(), "proto": Binary()}
"""By the name that content types and queries have for them."""


def _parsed(data: bytes, message: M) -> M:
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise requests.invalid("body", f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise requests.invalid("body", "must be a JSON object")
    _check_message(value, cast(Descriptor, message.DESCRIPTOR), "", 1)
    try:
        return json_format.ParseDict(value, message)
    except Exception as error:  # whatever it raises is about this JSON
        text = str(error).partition("\n")[0]
        raise errors.InvalidFieldError(f"the request is no {message.DESCRIPTOR.full_name}: {text}", field="") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _check_message(value: dict[str, Any], kind: Descriptor, path: str, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise requests.malformed()
    fields = _fields(kind)
    seen = set()
    for name, item in value.items():
        place = f"{path}.{name}" if path else name
        field = fields.get(name)
        if field is None:
            raise requests.invalid(place, f"{kind.full_name} has no such field")
        if field.number in seen:
            raise requests.invalid(place, "is there twice, under both of its names")
        seen.add(field.number)
        if item is not None:
            _check_field(item, field, place, depth)


def _check_field(value: Any, field: FieldDescriptor, path: str, depth: int) -> None:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        if isinstance(value, dict):
            for key, item in value.items():
                _check_value(item, kind.fields_by_name["value"], f"{path}[{key!r}]", depth)
    elif field.is_repeated:
        if isinstance(value, list):
            for number, item in enumerate(value):
                _check_value(item, field, f"{path}[{number}]", depth)
    else:
        _check_value(value, field, path, depth)


def _check_value(value: Any, field: FieldDescriptor, path: str, depth: int) -> None:
    """What is of another type is left to the library, which refuses it."""
    kind = field.message_type
    if kind is not None and kind.file.package != "google.protobuf":
        if not isinstance(value, dict):
            raise requests.invalid(path, "must be an object")
        _check_message(value, kind, path, depth + 1)
    elif field.type == FieldDescriptor.TYPE_BYTES and isinstance(value, str):
        text = value.translate(URL_SAFE).rstrip("=")
        try:
            binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
        except ValueError as error:
            raise requests.invalid(path, "is not base64") from error


@lru_cache(1000)
def _fields(kind: Descriptor) -> dict[str, FieldDescriptor]:
    """By both of their names in JSON."""
    return {name: field for field in kind.fields for name in (field.name, field.json_name)}
