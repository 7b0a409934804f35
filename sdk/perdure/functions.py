"""Encodes functions for workers, and loads them there."""

from __future__ import annotations

import hashlib
import importlib
import pickle
import re
import sys
from collections.abc import Callable
from typing import Any, Final

from perdure import codec, registry, texts, told, tracebacks
from perdure.bounded import SharedBounded
from perdure.codec import CodecError, Objects, Unresolved
from perdure.model import Function

PYTHON_VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


class FunctionUnavailable(ImportError):
    """A function could not be loaded here."""


def encode_function(function: Callable[..., Any], objects: Objects | None = None) -> Function:
    """Encode a function for workers: by name if it can be imported, else with its code."""
    imported = imported_name(function)
    if imported is not None and (known := _by_name.get(imported)) is not None:
        codec.tell_watch(function)
        return known
    name = texts.printable(f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}")
    nested = codec.Nested(objects)
    try:
        pickled = codec.pickle_value(function, nested, is_code=True)
    except Unresolved:
        raise
    except Exception as error:
        raise CodecError(f"the function {name} cannot be pickled: {told.text_of(error)}") from error
    code = codec.with_table(pickled, nested)
    encoded = Function(hashlib.sha256(code.data).hexdigest(), name, code, python_version=PYTHON_VERSION)
    if imported is not None:
        _by_name.keep(imported, encoded)
    return encoded


def imported_name(function: object) -> tuple[str, str] | None:
    """The module and the name by which a task or the class of an actor travels; None for one that travels with its
    code, and for anything else."""
    kind = type(function)
    if not hasattr(kind, "__perdure_task__") and not hasattr(kind, "__perdure_actor__"):
        return None
    reduced = function.__reduce__()
    return (function.__module__, reduced) if isinstance(reduced, str) else None


_by_name: Final = SharedBounded[tuple[str, str], Function](1_000)
"""Tasks that travel by name: their pickles say nothing else."""


def load_function(
    function: Function, data: bytes | memoryview | None = None, objects: Objects | None = None
) -> Callable[..., Any]:
    """The decoded function. Raises FunctionUnavailable, saying what to do."""
    try:
        if function.code is None:
            found: Any = _registered(function) if function.is_registered else _named(function)
        else:
            if function.python_version and function.python_version != PYTHON_VERSION:
                raise FunctionUnavailable(
                    f"{function.name} was pickled by Python {function.python_version}, and this is {PYTHON_VERSION}"
                )
            data = function.code.data if data is None else data
            with_objects = function.code.encoding == codec.OBJECTS
            found = codec.decode_objects(memoryview(data), objects) if with_objects else pickle.loads(data)
    except (FunctionUnavailable, Unresolved):
        raise
    except Exception as error:
        raise FunctionUnavailable(
            f"{function.name} cannot be loaded on the worker: {_why(function.name, error)}"
        ) from error
    if hasattr(found, "__perdure_actor__"):
        found = found.cls  # a @perdure.actor is its class
    if not callable(found):
        raise FunctionUnavailable(f"{function.name} is a {told.type_name(type(found))}, not a function")
    loaded: Any = found
    inner: Callable[..., Any] = loaded.function if hasattr(loaded, "__perdure_task__") else loaded
    return inner  # a @perdure.task is its function


def _registered(function: Function) -> Any:
    found = registry.find(function.name, function.version)
    if found is None:
        named = texts.versioned(function.name, function.version)
        raise FunctionUnavailable(
            f"the function {named} cannot be loaded on the worker: no module that it imports registers it. It was "
            "renamed or removed after it was announced; put it back, or start the graph again under another id"
        )
    return found


def _named(function: Function) -> Any:
    """What "module:qualname" names, which the module defines itself or offers by its `__all__`: what it merely imports
    is not its own, such as `os` or `eval`."""
    module, _, qualname = function.name.partition(":")
    found: Any = importlib.import_module(module)
    offers = getattr(found, "__all__", ())
    parts = qualname.split(".")
    for part in parts:
        found = getattr(found, part)
    is_own = getattr(found, "__module__", None) == module or (len(parts) == 1 and qualname in offers)
    if callable(found) and not is_own:
        raise FunctionUnavailable(
            f"{function.name} may not be called by name: {qualname!r} is not defined in {module!r}, which does not "
            "offer it by __all__ either. Name the module that defines it"
        )
    return found


# ------------------------------------------------------------------------------ advice

_NOT_FOUND: Final = re.compile(
    r"Can't get (?:local )?(?:attribute|object) '(?P<name>[^']+)' on <module '(?P<module>[^']+)'"
)
"""The text of unpickling for a name that its module does not have."""


def _why(name: str, error: Exception) -> str:
    """Why a function cannot be loaded, and what to do."""
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{told.described(error)}. Make its module importable there (working directory of the agent, runtime_env), "
            "or have cloudpickle send it by value"
        )
    if isinstance(error, AttributeError) and (found := renamed(error) or _missing(name)):
        return f"{told.described(error)}. {found}"
    return f"{told.described(error)}. Correct that, and resume the run with code 'new'; or start it under another id"


def renamed(error: BaseException) -> str:
    """Advice on an error of unpickling that says that a module does not have a name; "" for other errors."""
    found = _NOT_FOUND.search(told.text_of(error))
    return _advice(found["module"], found["name"]) if found is not None else ""


def _missing(name: str) -> str:
    """The same for a function by its name, "module:qualname" or "module.qualname"; "" if its module has it."""
    module, _, rest = name.partition(":")
    while not rest or module not in sys.modules:
        module, _, last = module.rpartition(".")
        if not module:
            return ""
        rest = f"{last}.{rest}" if rest else last
    found: object = sys.modules[module]
    try:
        for part in rest.split("."):
            found = getattr(found, part)
    except AttributeError:
        return _advice(module, rest)
    except BaseException:  # of a module's own `__getattr__`
        pass
    return ""


def _advice(module: str, name: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    where = f" ({tracebacks.shown(file)})" if isinstance(file, str) else ""
    return (
        f"The module {module!r}{where} has no {name!r}. If it was renamed or removed after the graph was made, put the "
        "name back (an alias is enough) and resume the run with code 'new', or start the graph again under another id"
    )
