"""Parses the filters of ListWorkflows and ListActors, a subset of AIP-160, into a condition for the store.

filter     = and-part { "OR" and-part }
and-part   = term { "AND" term }
term       = "(" filter ")" | field operator value
field      = name | "labels." key                               (a word without ":")
operator   = "=" | "!=" | "<" | "<=" | ">" | ">=" | ":"          (":" has the prefix)
value      = word | "quoted"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from perdure import texts
from perdure.errors import InvalidFilterError
from perdure.model import RunStatus
from perdure.storage.queries import AllOf, AnyOf, Comparison, Condition

TEXTS: Final = frozenset({"workflow_id", "name", "queue"})
TIMES: Final = {"create_time": "create_ms", "start_time": "start_ms", "end_time": "end_ms"}
WORKFLOWS: Final = {name: name for name in ("workflow_id", "name", "queue", "status", "priority")} | TIMES
"""The fields of a filter of workflows, with their columns. Labels are fields of all filters."""
ACTORS: Final = {"actor_id": "workflow_id", "class_name": "name", "create_time": "create_ms"}
"""The fields of a filter of actors, with their columns."""
ORDERS: Final = {"create_time": "create_ms", "update_time": "update_ms", "workflow_id": "workflow_id"}
FILTER_CHARS_MAX: Final = 4_000
DEPTH_MAX: Final = 16

_TOKEN: Final = re.compile(
    r'(?P<paren>[()])|(?P<operator><=|>=|!=|=|<|>|:)|"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<word>[^\s()<>=!:"]+)', re.DOTALL
)
_VALUE: Final = re.compile(r'(?P<word>[^\s()<>=!:"]+(?::[^\s()<>=!"]+)*)')
"""A word after an operator may contain colons, as times do."""
_INTEGER: Final = re.compile(r"-?[0-9]{1,9}")
_VISIBLE: Final = re.compile(r"\S")


def parse_filter(text: str, fields: Mapping[str, str] = WORKFLOWS) -> Condition | None:
    """None for an empty filter. Raises InvalidFilterError with the position."""
    if (at := texts.never_at(text)) is not None:
        raise _wrong("no text has this character", at)
    if len(text) > FILTER_CHARS_MAX:
        raise _wrong(f"a filter has at most {FILTER_CHARS_MAX} characters", FILTER_CHARS_MAX)
    if not text.strip():
        return None
    parser = _Parser(text, fields)
    condition = parser.either(0)
    parser.expect_end()
    return condition


def parse_order(text: str) -> tuple[str, bool]:
    """Column, and whether it descends."""
    words = text.split() or ["create_time", "desc"]
    if len(words) > 2 or words[0] not in ORDERS or (len(words) == 2 and words[1] not in ("asc", "desc")):
        raise _wrong(f'order_by is one of {", ".join(ORDERS)}, and perhaps "asc" or "desc"', 0)
    return ORDERS[words[0]], len(words) == 2 and words[1] == "desc"


class _Parser:
    def __init__(self, text: str, fields: Mapping[str, str]) -> None:
        self._text = text
        self._fields = fields
        self._tokens: list[tuple[str, str, int]] = []
        position, kind = 0, ""
        while (start := _VISIBLE.search(text, position)) is not None:
            position = start.start()
            match = (_VALUE.match(text, position) if kind == "operator" else None) or _TOKEN.match(text, position)
            if match is None:
                raise _wrong("this does not belong here", position)
            kind = str(match.lastgroup)
            value = match[kind]
            if kind == "quoted":
                value = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
            self._tokens.append((kind, value, position))
            position = match.end()
        self._next = 0

    def _peek(self) -> tuple[str, str, int]:
        return self._tokens[self._next] if self._next < len(self._tokens) else ("end", "", len(self._text))

    def _expect(self, kind: str, what: str) -> str:
        found, value, position = self._peek()
        if found != kind:
            raise _wrong(f"expected {what}", position)
        self._next += 1
        return value

    def expect_end(self) -> None:
        kind, _, position = self._peek()
        if kind != "end":
            raise _wrong("expected AND, OR or the end", position)

    def either(self, depth: int) -> Condition:
        parts = [self._both(depth)]
        while self._peek()[:2] == ("word", "OR"):
            self._next += 1
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _both(self, depth: int) -> Condition:
        parts = [self._term(depth)]
        while self._peek()[:2] == ("word", "AND"):
            self._next += 1
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _term(self, depth: int) -> Condition:
        kind, value, position = self._peek()
        if (kind, value) == ("paren", "("):
            if depth >= DEPTH_MAX:
                raise _wrong(f"parentheses may be nested {DEPTH_MAX} deep", position)
            self._next += 1
            condition = self.either(depth + 1)
            if self._peek()[:2] != ("paren", ")"):
                raise _wrong("expected )", self._peek()[2])
            self._next += 1
            return condition
        name = self._expect("word", "a field")
        operator = self._expect("operator", "an operator")
        value_position = self._peek()[2]
        if self._peek()[0] == "quoted":
            text = self._expect("quoted", "a value")
        else:
            text = self._expect("word", "a value")
            if text.startswith("'"):
                raise _wrong("a value is quoted by double quotes", value_position)
        return self._comparison(name, operator, text, position, value_position)

    def _comparison(self, name: str, operator: str, text: str, position: int, value_position: int) -> Comparison:
        if name.startswith("labels.") and len(name) > len("labels."):
            return Comparison(name, operator, text)
        column = self._fields.get(name)
        if column is None:
            known = ", ".join(sorted({*self._fields, "labels.KEY"}))
            raise _wrong(f"unknown field {name!r:.80}; there are {known}", position)
        if column in TEXTS:
            return Comparison(column, operator, text)
        if operator == ":":
            raise _wrong(f"{name} has no prefixes; : works on texts", position)
        return Comparison(column, operator, _value(column, operator, text, value_position))


def _value(column: str, operator: str, text: str, position: int) -> str | int:
    """The value that a column is compared with."""
    if column == "status":
        status = text.upper().removeprefix("WORKFLOW_STATUS_")
        if operator not in ("=", "!=") or status not in RunStatus.__members__:
            raise _wrong(f"status is compared by = or != with {', '.join(RunStatus.__members__)}", position)
        return status
    if column == "priority":
        if _INTEGER.fullmatch(text) is None:
            raise _wrong("priority is an integer", position)
        return int(text)
    return _moment(text, position)


def _moment(text: str, position: int) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _wrong('a time is written as "2026-01-31T12:00:00Z"', position) from None
    if moment.tzinfo is None:
        raise _wrong("a time needs its zone, such as Z", position)
    return round(moment.timestamp() * 1000)


def _wrong(message: str, position: int) -> InvalidFilterError:
    return InvalidFilterError(f"{message} (at character {position})", position=str(position))
