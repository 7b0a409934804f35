"""The rules for texts. The client checks its calls by them, and the service every request.

A *name* (ids, keys, labels, queues) has 1 to 256 printable characters, because people read and type it. A *free* text
(reasons, metadata, values of environment variables) has neither NUL nor half of a surrogate pair: PostgreSQL and many
tools refuse the first, and UTF-8 cannot encode the second. A bad text of a caller is refused with InvalidFieldError,
which names the field. A bad text of user code, such as the message of an exception, must not fail anything, so its bad
characters are escaped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from perdure.errors import InvalidFieldError
from perdure.model import (
    ID_CHARS_MAX,
    Attribute,
    Call,
    Failure,
    Function,
    InputRef,
    InvalidSpec,
    Key,
    Payload,
    Spec,
    SpecNode,
    TaskOptions,
    TaskRef,
    Wait,
    WaitEvent,
)

ENCODING_CHARS_MAX: Final = 64

_NEVER: Final = re.compile("[\0\ud800-\udfff]")
_IN_JSON: Final = re.compile(r"\\u0000|\\u[dD][89a-fA-F]|[\0\ud800-\udfff]")
"""Matches every escaped or literal NUL and surrogate in JSON, complete pairs included. A match needs a closer look."""


def is_name(text: str, *, limit: int = ID_CHARS_MAX) -> bool:
    """Whether it can be a name of at most `limit` characters."""
    return 0 < len(text) <= limit and text.isprintable()


def name(text: str, field: str, *, limit: int = ID_CHARS_MAX, required: bool = True) -> str:
    """The text, if it is a name, or "" if none is required. Raises InvalidFieldError, and TypeError for anything but a
    text."""
    if not isinstance(text, str):
        raise TypeError(f"{field} is a text, not a value of type {type(text).__name__}")
    if not text:
        if not required:
            return text
        raise _wrong(field, f"is required: 1 to {limit} printable characters")
    if len(text) <= limit and text.isprintable():
        return text
    if len(text) > limit:
        raise _wrong(field, f"has 1 to {limit} printable characters, not {len(text)}")
    raise _unprintable(text, field, f"1 to {limit} printable characters")


def optional(text: str | None, field: str, *, limit: int = ID_CHARS_MAX) -> str:
    """A name that may be left out, for the wire: "" if it is None. An empty text is refused, because it is a mistake of
    the caller's. Raises as `name` does."""
    if text is None:
        return ""
    if text == "":
        raise _wrong(field, f"is empty; leave it out, or give 1 to {limit} printable characters")
    return name(text, field, limit=limit)


def key(text: str, field: str, *, limit: int = ID_CHARS_MAX) -> str:
    """A key of a mapping, if it is a name. Raises as `name` does."""
    if text == "":
        raise _wrong(field, f"has an empty key; a key has 1 to {limit} printable characters")
    return name(text, field, limit=limit)


def kind_of(value: object) -> str:
    """The type of a value of a caller's, in a sentence: "an int"."""
    return with_article(type(value).__name__)


def with_article(word: str) -> str:
    return f"an {word}" if word[:1] in "aeiouAEIOU" else f"a {word}"


def never_at(text: str) -> int | None:
    """The position of the first character that no text may have; None if there is none."""
    found = _NEVER.search(text)
    return found.start() if found is not None else None


def free(text: str, field: str) -> str:
    """The text, if it is a free text. Raises InvalidFieldError."""
    if (at := never_at(text)) is None:
        return text
    what = "NUL" if text[at] == "\0" else f"half of a surrogate pair (U+{ord(text[at]):04X})"
    raise _wrong(field, f"has a {what} at {at}, which no text may have")


def json_text(text: str, field: str) -> str:
    """The JSON, if every text in it is a free text. Raises InvalidFieldError."""
    if _IN_JSON.search(text) is not None:
        for found in _texts_in(json.loads(text)):
            free(found, field)
    return text


def read_json(text: str | bytes) -> Any:
    """The value of JSON that a person wrote. Python's own reader also takes NaN, makes an infinity of a number above
    all floats, and drops all but the last of several values with the same key. Raises ValueError for those, and
    RecursionError."""
    return json.loads(text, object_pairs_hook=_entries, parse_constant=_no_number, parse_float=_number)


def _entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"it has the key {twice!r:.80} twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text:.80} is too large")
    return number


def _texts_in(value: Any) -> Iterable[str]:
    """All keys and texts of a JSON value."""
    left = [value]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case dict() as entries:
                yield from entries
                left += entries.values()
            case list() as items:
                left += items


def _unprintable(text: str, field: str, rule: str) -> InvalidFieldError:
    at = next(at for at, character in enumerate(text) if not character.isprintable())
    return _wrong(field, f"has {rule}, and U+{ord(text[at]):04X} at {at} is none")


def _wrong(field: str, what: str) -> InvalidFieldError:
    return InvalidFieldError(f"{field}: {what}", field=field)


# ------------------------------------------------------------------------------ graphs


def check_spec(spec: Spec) -> None:
    """Check the texts of a graph that a client submitted or a task returned. Raises InvalidSpec with the node.

    Stored graphs are not checked again: they were accepted under the rules of their version."""
    seen: set[int] = set()  # by id(): functions and options are shared by many nodes
    for node in spec.nodes:
        try:
            _check_node(node, seen)
        except InvalidFieldError as error:
            raise InvalidSpec(f"node {printable(node.id)!r:.80}: {error}", printable(node.id)[:80]) from error


def _check_node(node: SpecNode, seen: set[int]) -> None:
    name(node.id, "id")
    if id(node.options) not in seen:
        seen.add(id(node.options))
        _check_options(node.options)
    match node.action:
        case Call(function=function, arguments=arguments, refs=refs):
            if id(function) not in seen:
                seen.add(id(function))
                _check_function(function)
            payload(arguments, "arguments")
            for ref in refs:
                if ref.path:
                    for step in ref.path:
                        if isinstance(step, (Key, Attribute)):
                            free(step.key if isinstance(step, Key) else step.name, "path")
                if isinstance(ref, InputRef):
                    name(ref.name, "input")
                elif isinstance(ref, TaskRef):
                    name(ref.task_id, "task_id")
        case WaitEvent(key=key):
            name(key, "event_key")
        case Wait(refs=waited):
            for other in waited:
                if isinstance(other, TaskRef):
                    name(other.task_id, "task_id")
        case _:
            pass


def check_class(function: Function, options: TaskOptions) -> None:
    """Check the texts of a class of actors that a client submitted. Raises InvalidFieldError."""
    _check_function(function)
    _check_options(options)


def _check_options(options: TaskOptions) -> None:
    name(options.task_id, "task_id", required=False)
    json_text(options.metadata, "metadata")
    shape = options.shape
    json_text(shape.runtime_env, "runtime_env")
    if isinstance(shape.scheduling, Payload):
        payload(shape.scheduling, "scheduling")
    else:
        free(shape.scheduling, "scheduling")
    free(shape.resources.accelerator_type, "accelerator_type")
    for resource, _ in shape.resources.custom:
        name(resource, "resources")
    for kind in (*options.retry.retryable_types, *options.retry.non_retryable_types):
        free(kind, "retry")


def _check_function(function: Function) -> None:
    for text, field in ((function.name, "function"), (function.version, "version")):
        if not text.isprintable():
            raise _unprintable(text, field, "printable characters")
    name(function.python_version, "python_version", required=False)
    if function.code is not None:
        payload(function.code, "code")


def payload(given: Payload, field: str) -> Payload:
    """The payload, if its encoding is a name and its other texts are free texts. Raises InvalidFieldError."""
    name(given.encoding, f"{field}.encoding", limit=ENCODING_CHARS_MAX)
    if given.type or given.codecs or given.attributes:
        for text in (given.type, *given.codecs, *(text for item in given.attributes for text in item)):
            free(text, field)
    return given


# ------------------------------------------------------------------------------ mending


def storable(text: str) -> str:
    """Any text as a free text, with NUL and halves of surrogate pairs escaped."""
    return text if _NEVER.search(text) is None else _NEVER.sub(_escaped, text)


def printable(text: str) -> str:
    """A text with all characters escaped that are not printable."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _escaped(found: re.Match[str]) -> str:
    return "\\x00" if found[0] == "\0" else f"\\u{ord(found[0]):04x}"


def mended(failure: Failure) -> Failure:
    """The same failure, with bad characters escaped in all its texts."""
    links: list[Failure] = []
    link: Failure | None = failure
    while link is not None:
        links.append(link)
        link = link.cause
    made: Failure | None = None
    for link in reversed(links):
        made = replace(
            link,
            type=storable(link.type),
            message=storable(link.message),
            stack_trace=storable(link.stack_trace),
            base_types=tuple(storable(base) for base in link.base_types),
            cause=made,
        )
    assert made is not None
    return made


def json_pointer(path: Iterable[int | str]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def versioned(name: str, version: str) -> str:
    """A function as errors name it."""
    return f"{name!r} version {version!r}" if version else f"{name!r}"
