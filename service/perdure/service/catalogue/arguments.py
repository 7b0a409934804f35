"""Checks JSON arguments of calls by the schemas that workers have announced."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, time
from typing import Any, Final

import jsonschema_rs

from perdure import errors
from perdure.bounded import Bounded
from perdure.v1.function_service_pb2 import FunctionInfo

KNOWN_MAX: Final = 1_000
SHOWN_MAX: Final = 500
"""Characters of a validator's text."""


def parse(text: str) -> dict[str, Any]:
    """A JSON object. Raises InvalidArgumentsError."""
    try:
        value = json.loads(text or "{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise errors.InvalidArgumentsError(f"the arguments are no JSON: {error}", pointer="") from error
    if not isinstance(value, dict):
        raise errors.InvalidArgumentsError("the arguments are a JSON object by parameter name", pointer="")
    return value


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number in JSON")


def misfit(info: FunctionInfo, node_id: str, pointer: str, why: str) -> errors.InvalidArgumentsError:
    """The error of a call whose arguments do not fit the function."""
    named = f"{info.name!r}" + (f" version {info.version!r}" if info.version else "")
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
        self._validators = {
            name: jsonschema_rs.Draft202012Validator(
                {**described, "$defs": definitions}, validate_formats=True, formats=_FORMATS
            )
            for name, described in schema.get("properties", {}).items()
        }
        self._required = schema.get("required", ())
        self._takes_any = schema.get("additionalProperties", True) is not False

    def fault(self, values: Mapping[str, Any], given: Sequence[str]) -> tuple[str, str] | None:
        """A JSON pointer and what is wrong there."""
        for name in (*values, *given):
            if name not in self._validators and not self._takes_any:
                known = ", ".join(self._validators) or "none"
                return _pointer((name,)), f"there is no such parameter; there are {known}"
        for name in self._required:
            if name not in values and name not in given:
                return _pointer((name,)), "is required"
        for name, value in values.items():
            validator = self._validators.get(name)
            if validator is None:
                continue
            try:
                error = next(iter(validator.iter_errors(value)), None)
            except ValueError as unreadable:  # a lone surrogate, say
                return _pointer((name,)), f"is no value of JSON: {unreadable}"
            if error is not None:
                return _pointer((name, *error.instance_path)), error.message[:SHOWN_MAX]
        return None


def _pointer(path: Sequence[int | str]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


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
