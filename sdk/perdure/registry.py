"""Tasks and classes of actors that have a name: what other languages call them by.

A name is registered in the process that imports its module. Workers import the modules that `perdure serve --import`
lists, and announce what those have registered.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from perdure import texts

VERSION_CHARS_MAX: Final = 64
_registered: Final[dict[tuple[str, str], Any]] = {}


def check(name: str, version: str) -> None:
    """TypeError, InvalidFieldError or ValueError for what is no name or version."""
    for text, field in ((name, "name"), (version, "version")):
        if not isinstance(text, str):
            raise TypeError(f"{field} is a string, not {texts.kind_of(text)}")
    texts.name(name, "name")
    texts.name(version, "version", limit=VERSION_CHARS_MAX, required=False)
    if ":" in name:
        raise ValueError(f"name {name!r} has a colon, and 'module:function' names what is not registered")


def register(name: str, version: str, made: Any) -> None:
    """Give a task or a class of actors its name and version. The same definition may come again, as when its module is
    reloaded. ValueError for a name that is taken, and as `check`."""
    check(name, version)
    before = _registered.get((name, version))
    if before is not None and _place(before) != _place(made):
        at = f"{name!r}" + (f", version {version!r}," if version else "")
        raise ValueError(f"{at} is registered already, by {before!r}; give {made!r} another name or version")
    _registered[name, version] = made


def registered() -> Mapping[tuple[str, str], Any]:
    """Everything that this process has registered, by name and version."""
    return dict(_registered)


_modules: Final[list[str]] = []
"""Modules that are imported when a name is looked for that is not registered."""


def look_in(modules: Iterable[str]) -> None:
    """Have names looked for in these modules, which are not imported before."""
    _modules.extend(modules)


def find(name: str, version: str) -> Any | None:
    """What has this name and version; None if nothing has. Imports the modules of `look_in`, and raises what they
    raise."""
    while (name, version) not in _registered and _modules:
        module = _modules[0]
        importlib.import_module(module)
        with suppress(ValueError):  # another thread has imported it, too
            _modules.remove(module)
    return _registered.get((name, version))


def _place(made: Any) -> tuple[str | None, str]:
    """Where it is defined. A module may be imported under two names, one of them `__main__`."""
    module = sys.modules.get(made.__module__)
    return getattr(module, "__file__", None) or made.__module__, made.__qualname__
