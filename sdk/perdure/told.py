"""Safe texts of exceptions and types: valid Unicode of a bounded length.

An exception is user code: its `__str__` and its metaclass may raise anything. No such error leaves this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from perdure import texts, wire

T = TypeVar("T")

NAME_CHARS_MAX: Final = 512
LEFT_OUT: Final = " [...] "
TAIL_CHARS: Final = 2048
"""So much of the end of a text that is too long is kept."""
INTERNAL: Final = tuple(
    f"perdure.{room}" for room in ("codec", "functions", "rayobjects", "storage.", "worker.", "service.", "engine.")
)

# Python's own descriptors, because classes may override these attributes.
_module_of: Final[Callable[[type], object]] = type.__dict__["__module__"].__get__
_qualname_of: Final[Callable[[type], str]] = type.__dict__["__qualname__"].__get__


def type_name(kind: type) -> str:
    """The name by which retry policies know a type: "builtins.ValueError". Types of internal modules of Perdure are
    named "perdure.NAME", because those modules may change."""
    module = either(lambda: _module_of(kind), None)
    place = module if type(module) is str else ""
    if place.startswith("perdure.") and place.startswith(INTERNAL):
        place = "perdure"
    return plain(f"{place}.{plain(_qualname_of(kind), NAME_CHARS_MAX)}", NAME_CHARS_MAX)


def text_of(error: BaseException) -> str:
    """The text of an exception: Unicode of a bounded length, whatever its `__str__` does. A text that is too long keeps
    both ends, because errors that quote others have the first cause at their end."""
    try:
        text = str(error)
    except BaseException as broken:
        return f"(its text cannot be made: {plain(_qualname_of(type(broken)), NAME_CHARS_MAX)})"
    return _both_ends(texts.storable(_both_ends(text)))  # what is stored for a character may be longer


def _both_ends(text: str) -> str:
    """A plain str of at most MESSAGE_CHARS_MAX characters."""
    if str.__len__(text) <= wire.MESSAGE_CHARS_MAX:
        return str.__getitem__(text, slice(None))
    head = str.__getitem__(text, slice(wire.MESSAGE_CHARS_MAX - len(LEFT_OUT) - TAIL_CHARS))
    return head + LEFT_OUT + str.__getitem__(text, slice(-TAIL_CHARS, None))


def described(error: BaseException) -> str:
    """Type and text of an exception, for the text of another one."""
    return f"{type_name(type(error)).removeprefix('builtins.')}: {text_of(error)}"


def either(step: Callable[[], T], otherwise: T) -> T:
    """The result of a step that may run code of the user's, or `otherwise` if that raises anything at all."""
    try:
        return step()
    except BaseException:
        return otherwise


def plain(text: str, chars_max: int) -> str:
    """A plain str of storable characters. Subclasses of str may override anything, so this uses a method of str
    itself."""
    return texts.storable(str.__getitem__(text, slice(chars_max)))
