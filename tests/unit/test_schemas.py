"""Functions as JSON sees them."""

from __future__ import annotations

import builtins
import dataclasses
import datetime
import decimal
import enum
import importlib
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import jsonschema_rs
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.worker import schemas
from perdure.worker.schemas import NotConvertible, TypedFunction


class Color(enum.Enum):
    RED = "red"


class Line(pydantic.BaseModel):
    item: str
    count: Annotated[int, pydantic.Field(gt=0)] = 1


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    lines: list[Line]
    due: datetime.datetime
    raw: bytes
    price: decimal.Decimal
    color: Color = Color.RED


def order(first: Order, kind: Literal["new", "old"], *, note: str = "", share: float = 0.5) -> Order:
    return first


ORDER = {
    "id": "00000000-0000-0000-0000-000000000007",
    "lines": [{"item": "tea", "count": 2}],
    "due": "2026-01-02T03:04:05",
    "raw": "-_8=",
    "price": "1.50",
    "color": "red",
}


def test_arguments_and_results_go_both_ways() -> None:
    typed = TypedFunction(order)
    made = typed.argument("first", ORDER)
    assert made == Order(
        uuid.UUID(int=7),
        [Line(item="tea", count=2)],
        datetime.datetime(2026, 1, 2, 3, 4, 5),
        b"\xfb\xff",
        decimal.Decimal("1.50"),
    )
    assert typed.argument(0, ORDER) == made
    data = typed.result(made, is_final=False)
    assert data is not None
    assert json.loads(data) == ORDER


def test_schemas_are_valid_and_say_what_is_required() -> None:
    typed = TypedFunction(order)
    schema = json.loads(typed.arguments_schema)
    assert jsonschema_rs.meta.is_valid(schema)
    assert jsonschema_rs.meta.is_valid(json.loads(typed.result_schema))
    assert schema["required"] == ["first", "kind"]
    assert schema["properties"]["share"]["default"] == 0.5
    validator = jsonschema_rs.Draft202012Validator(schema)
    assert validator.is_valid({"first": ORDER, "kind": "new"})
    assert not validator.is_valid({"first": ORDER, "kind": "newest"})
    assert not validator.is_valid({"first": ORDER, "kind": "new", "other": 1})
    assert typed.positional == ("first", "kind")


def test_an_argument_that_does_not_fit_is_named_by_a_pointer() -> None:
    wrong = {**ORDER, "lines": [{"item": "tea", "count": 0}]}
    with pytest.raises(NotConvertible, match="greater than 0") as info:
        TypedFunction(order).argument("first", wrong)
    assert info.value.pointer == "/first/lines/0/count"


@given(st.floats())
def test_floats_that_json_does_not_have_are_strings(value: float) -> None:
    def half(x: float) -> float:
        return x

    typed = TypedFunction(half)
    data = typed.result(value, is_final=False)
    assert data is not None
    back = typed.argument("x", json.loads(data))
    assert back == value or (back != back and value != value)


def test_without_hints_results_are_json_only_where_they_leave_python() -> None:
    typed = TypedFunction(lambda x: x)  # type: ignore[misc]
    day = datetime.date(2026, 1, 2)
    assert typed.result(day, is_final=False) is None
    assert typed.result(day, is_final=True) == b'"2026-01-02"'
    assert typed.result(object(), is_final=True) is None
    assert typed.argument("x", "2026-01-02") == "2026-01-02"
    assert typed.result_schema == ""


class Opaque:
    """Nothing that a schema can describe."""


def opaque(x: Opaque, y: Callable[[], int], z: int) -> Opaque:
    return x


def test_hints_that_cannot_be_described_accept_any_value() -> None:
    typed = TypedFunction(opaque)
    schema = json.loads(typed.arguments_schema)
    assert schema["properties"]["x"] == schema["properties"]["y"] == {}
    assert schema["properties"]["z"]["type"] == "integer"
    assert typed.argument("x", {"a": 1}) == {"a": 1}
    assert typed.result(Opaque(), is_final=True) is None


def unresolved(x: NoSuchType) -> int:  # type: ignore[name-defined]  # noqa: F821
    return 1


def test_hints_that_cannot_be_resolved_are_none() -> None:
    assert json.loads(TypedFunction(unresolved).arguments_schema)["properties"] == {"x": {}}


def test_methods_constructors_and_functions_without_signature() -> None:
    class Counter:
        def __init__(self, start: int = 3) -> None:
            self.n = start

        def incr(self, by: int, /, *, twice: bool = False) -> int:
            return by

    made = TypedFunction(Counter)
    assert json.loads(made.arguments_schema)["properties"]["start"]["default"] == 3
    incr = TypedFunction(Counter.incr, is_method=True)
    assert incr.positional == ("by",)
    assert incr.placed((), {"by": 2, "twice": True}) == ((2,), {"twice": True})
    assert json.loads(TypedFunction(dict).arguments_schema)["additionalProperties"] is True


def keywords(x: int, *rest: int, **others: str) -> None:
    """Takes any names."""


def test_variable_keywords_take_any_name() -> None:
    schema = json.loads(TypedFunction(keywords).arguments_schema)
    assert list(schema["properties"]) == ["x"]
    assert schema["additionalProperties"] is True


@pytest.fixture
def without_pydantic(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    real = builtins.__import__

    def importing(name: str, *rest: Any, **named: Any) -> Any:
        if name == "pydantic":
            raise ImportError(name)
        return real(name, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "__import__", importing)
        yield importlib.reload(schemas)
    importlib.reload(schemas)


def test_without_pydantic_parameters_are_named_and_values_are_plain(without_pydantic: Any) -> None:
    typed = without_pydantic.TypedFunction(order)
    schema = json.loads(typed.arguments_schema)
    assert schema["required"] == ["first", "kind"]
    assert schema["properties"]["first"] == {}
    assert typed.argument("first", ORDER) == ORDER
    assert typed.result(1, is_final=True) is None
