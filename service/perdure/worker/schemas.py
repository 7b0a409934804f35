"""Functions as JSON sees them: schemas of their arguments and results, and conversion by their type hints.

Pydantic does both where it is installed. Without it, and for hints that it cannot describe, arguments and results are
plain JSON values.

JSON is that of pydantic: dates and times as in ISO 8601, `bytes` as base64, enums by their values, `Decimal` and `UUID`
as strings. NaN and infinities are the strings "NaN", "Infinity" and "-Infinity", as in ProtoJSON.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from math import isfinite
from typing import Any, Final, get_type_hints

from perdure import texts, told

pydantic: Any
try:
    import pydantic
except ImportError:  # it is optional
    pydantic = None

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_CONFIG: Final = {"ser_json_bytes": "base64", "val_json_bytes": "base64", "ser_json_inf_nan": "strings"}
EXACT_MAX: Final = 2**53
"""Many languages read larger integers only roughly."""
SHOWN_MAX: Final = 500
"""Characters of a text about what is wrong."""
_BY_POSITION: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_RESULT: Final = "result"


class NotConvertible(ValueError):
    """A value that does not fit its type hint. `pointer` is a JSON pointer to the place (RFC 6901)."""

    def __init__(self, pointer: str, why: str) -> None:
        super().__init__(f"{pointer or 'the value'}: {why}")
        self.pointer = pointer


class TypedFunction:
    """A function, a method (without its first parameter), or a class by its constructor.

    `arguments_schema` is a JSON Schema of an object by parameter name; `result_schema` is "" without a hint.
    `positional` names the parameters that may be given by position, and `is_variadic` says that there may be more.
    """

    def __init__(self, function: Callable[..., Any], *, is_method: bool = False) -> None:
        known = _parameters(function)
        parameters = known or {}
        if is_method and parameters:
            del parameters[next(iter(parameters))]
        hints = _hints(function)
        self.positional = tuple(each.name for each in parameters.values() if each.kind in _BY_POSITION)
        self.is_variadic = known is None or any(
            each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters.values()
        )
        self._by_position_only = [
            each.name for each in parameters.values() if each.kind is inspect.Parameter.POSITIONAL_ONLY
        ]
        named = {
            each.name: each
            for each in parameters.values()
            if each.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        }
        takes_any = known is None or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
        self._adapters = {name: made for name in named if (made := _adapter(hints.get(name))) is not None}
        self._result = _adapter(hints.get("return"))
        self.arguments_schema = _arguments_schema(named, self._adapters, takes_any)
        self.result_schema = _result_schema(self._result)
        self._any = _adapter(Any)

    def argument(self, place: int | str, value: Any) -> Any:
        """A JSON value as the argument of this parameter, given by its position or name. Raises NotConvertible."""
        if isinstance(place, int):
            name = self.positional[place] if place < len(self.positional) else ""
        else:
            name = place
        adapter = self._adapters.get(name)
        if adapter is None:
            return value
        try:
            (converted,) = adapter.validate_json(json.dumps([value]))
            return converted
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise NotConvertible(texts.json_pointer((name, *first["loc"][1:])), first["msg"][:SHOWN_MAX]) from error
        except Exception as error:  # of a validator of the user's
            raise NotConvertible(texts.json_pointer((name,)), told.described(error)[:SHOWN_MAX]) from error

    def placed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same arguments, with those by position that the function takes by position only."""
        given = [name for name in self._by_position_only[len(args) :] if name in kwargs]
        if not given:
            return args, kwargs
        return (*args, *(kwargs[name] for name in given)), {
            name: value for name, value in kwargs.items() if name not in given
        }

    def result(self, value: Any, *, is_final: bool) -> bytes | None:
        """The value as JSON; None if it has none. Without a hint it is converted only with `is_final`: otherwise it
        may be for another Python function, which gets the object."""
        adapter = self._result if self._result is not None or not is_final else self._any
        if adapter is None or isinstance(value, (Iterator, AsyncIterator)):  # it may have no end
            return None
        try:
            text: bytes = adapter.dump_json((value,), warnings=False)
        except (pydantic.errors.PydanticUserError, ValueError, TypeError, RecursionError):
            return None  # PydanticSerializationError is a ValueError
        return text[1:-1]


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """None if the function does not tell them, as some that are written in C."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None


def _hints(function: Any) -> dict[str, Any]:
    """Type hints, those of the constructor for a class. None if some cannot be resolved."""
    try:
        return get_type_hints(function.__init__ if inspect.isclass(function) else function, include_extras=True)
    except Exception:  # hints are the user's code
        return {}


def _adapter(hint: Any) -> Any:
    """Converts tuples with one value of this type: a class of the user's may not be given the configuration itself.
    None without pydantic, or for a hint that it cannot describe."""
    if pydantic is None or hint is None:
        return None
    try:
        adapter = pydantic.TypeAdapter(tuple[hint], config=_CONFIG)
        adapter.json_schema(mode="validation")
        return adapter
    except Exception:  # hints may be of any kind, and their classes have hooks
        return None


def _arguments_schema(named: Mapping[str, inspect.Parameter], adapters: Mapping[str, Any], takes_any: bool) -> str:
    properties, definitions = _described(adapters, "validation")
    for name, parameter in named.items():
        described = properties.setdefault(name, {})
        if (default := _plain(parameter.default)) is not None:
            described["default"] = default
    schema: dict[str, Any] = {
        "$schema": DIALECT,
        "type": "object",
        "properties": {name: properties[name] for name in named},
        "required": [name for name, each in named.items() if each.default is inspect.Parameter.empty],
        "additionalProperties": takes_any,
    }
    if definitions:
        schema["$defs"] = definitions
    return json.dumps(schema)


def _result_schema(adapter: Any) -> str:
    if adapter is None:
        return ""
    properties, definitions = _described({_RESULT: adapter}, "serialization")
    described = {"$schema": DIALECT, **properties[_RESULT]}
    if definitions:
        described["$defs"] = definitions
    return json.dumps(described)


def _described(adapters: Mapping[str, Any], mode: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schemas of the fields, and the definitions that they share."""
    if not adapters:
        return {}, {}
    made, shared = pydantic.TypeAdapter.json_schemas([(name, mode, adapter) for name, adapter in adapters.items()])
    definitions = shared.get("$defs", {})
    properties = {str(name): dict(schema["prefixItems"][0]) for (name, _), schema in made.items()}
    return properties, definitions


def _plain(default: Any) -> Any:
    """A default that every reader of JSON takes as it is; None for any other, and for None itself."""
    match default:
        case bool():
            return default
        case int():
            return default if abs(default) < EXACT_MAX else None
        case float():
            return default if isfinite(default) else None
        case str():
            return default if default.isprintable() else None
        case _:
            return None


ANY: Final = TypedFunction(lambda: None)
"""A function that declares no types."""
