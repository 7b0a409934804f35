"""Checks JSON arguments of calls by the schemas that workers have announced."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, time
from typing import Any, Final

import jsonschema_rs

from perdure import errors, texts
from perdure.bounded import Bounded
from perdure.v1.function_service_pb2 import FunctionInfo

KNOWN_MAX: Final = 1_000
NESTING_MAX: Final = 20
"""Definitions that refer to one another more deeply count as recursive."""
SHOWN_MAX: Final = 500
"""Characters of a validator's text."""


def value_of(data: str | bytes) -> Any:
    """A value of JSON. Raises InvalidArgumentsError."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise errors.InvalidArgumentsError(f"the arguments are no JSON: {error}", pointer="") from error


def data_of(value: Any, name: str) -> bytes:
    """The JSON of the argument of this name. Raises InvalidArgumentsError for a value that has none: a number that is
    infinite because it was too large, a text that is no Unicode."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:
        text = f"the argument {name!r} is no JSON: {error}"
        raise errors.InvalidArgumentsError(text, pointer=texts.json_pointer((name,))) from error


def parse(text: str) -> dict[str, Any]:
    """A JSON object. Raises InvalidArgumentsError."""
    value = value_of(text or "{}")
    if not isinstance(value, dict):
        raise errors.InvalidArgumentsError("the arguments are a JSON object by parameter name", pointer="")
    return value


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number in JSON")


def misfit(info: FunctionInfo, node_id: str, pointer: str, why: str) -> errors.InvalidArgumentsError:
    """The error of a call whose arguments do not fit the function."""
    named = texts.versioned(info.name, info.version)
    fields = {"function": info.name, "version": info.version, "pointer": pointer}
    if node_id:
        fields["node_id"] = node_id
    place = f"{pointer}: " if pointer else ""
    return errors.InvalidArgumentsError(f"the arguments do not fit the function {named}: {place}{why}", **fields)


class Checker:
    """Checks the arguments of calls. Keeps the validators of functions."""

    def __init__(self) -> None:
        self._known = Bounded[str, _Parameters](KNOWN_MAX)

    def check(
        self, info: FunctionInfo, values: Mapping[str, Any], given: Sequence[str] = (), node_id: str = ""
    ) -> None:
        """Raise InvalidArgumentsError unless a call fits the function. `values` are its JSON arguments by name, `given`
        the names of others, whose values are not known yet or no JSON."""
        if not info.arguments_schema:
            return
        parameters = self._known.get(info.arguments_schema)
        if parameters is None:
            parameters = _Parameters(json.loads(info.arguments_schema))
            self._known.keep(info.arguments_schema, parameters)
        if (fault := parameters.fault(values, given)) is not None:
            raise misfit(info, node_id, *fault)


class _Parameters:
    """The validators of a function's parameters."""

    def __init__(self, schema: dict[str, Any]) -> None:
        definitions = schema.get("$defs", {})
        self._names = tuple(schema.get("properties", {}))
        self._validators = {}
        for name, described in schema.get("properties", {}).items():
            whole = {**described, "$defs": definitions}
            if not _is_recursive(described, definitions) and (made := _validator(whole)) is not None:
                self._validators[name] = made
        self._required = schema.get("required", ())
        self._takes_any = schema.get("additionalProperties", True) is not False

    def fault(self, values: Mapping[str, Any], given: Sequence[str]) -> tuple[str, str] | None:
        """A JSON pointer and what is wrong there."""
        for name in (*values, *given):
            if name not in self._names and not self._takes_any:
                return texts.json_pointer(
                    (name,)
                ), f"there is no such parameter; there are {', '.join(self._names) or 'none'}"
        for name in self._required:
            if name not in values and name not in given:
                return texts.json_pointer((name,)), "is required"
        for name, value in values.items():
            validator = self._validators.get(name)
            if validator is None:
                continue
            try:
                validator.validate(value)
            except jsonschema_rs.ValidationError as error:
                return texts.json_pointer((name, *error.instance_path)), error.message[:SHOWN_MAX]
            except ValueError as unreadable:  # a lone surrogate, say
                return texts.json_pointer((name,)), f"is no value of JSON: {unreadable}"
        return None


def _validator(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator | None:
    """None for a schema that is none, such as one with a pattern of Python's own: the worker checks the value."""
    try:
        return jsonschema_rs.Draft202012Validator(
            schema, validate_formats=True, formats=_FORMATS, retriever=_refuse_reference
        )
    except Exception:  # schemas are the user's
        return None


def _refuse_reference(uri: str) -> Any:
    """Schemas are whole: nothing is fetched for them."""
    raise ValueError(f"{uri} is outside of the schema")


def _is_recursive(described: Any, definitions: Mapping[str, Any]) -> bool:
    """Whether a schema contains itself. To check a value by one may take time that is exponential in its depth, so that
    is left to the worker."""
    above: set[str] = set()
    done: set[str] = set()

    def visit(part: Any) -> bool:
        for name in _references(part):
            if name in above:
                return True
            if name in done or name not in definitions:
                continue
            above.add(name)
            if len(above) > NESTING_MAX or visit(definitions[name]):
                return True
            above.remove(name)
            done.add(name)
        return False

    return visit(described)


def _references(part: Any) -> Iterator[str]:
    """The names of the definitions that a schema refers to."""
    if isinstance(part, list):
        for item in part:
            yield from _references(item)
    elif isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for item in part.values():
            yield from _references(item)


def _is_datetime(text: str) -> bool:
    return _parses(datetime.fromisoformat, text)


def _is_time(text: str) -> bool:
    return _parses(time.fromisoformat, text)


def _parses(parse: Any, text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


_FORMATS: Final = {"date-time": _is_datetime, "time": _is_time}
"""RFC 3339 asks for a time zone, and Python's types need none."""
