"""Which functions clients may call by name, and with which arguments."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogues import catalogue_of
from perdure import errors
from perdure.service.catalogue import catalogue as module
from perdure.service.catalogue.arguments import Checker, parse
from perdure.service.catalogue.catalogue import Catalogue, age_of
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.rows import FunctionRow
from perdure.v1.function_service_pb2 import FunctionInfo


def info(name: str, version: str = "", **fields: Any) -> FunctionInfo:
    return FunctionInfo(name=name, version=version, **fields)


async def names(catalogue: Catalogue, prefix: str = "", *, all_versions: bool = True) -> list[tuple[str, str]]:
    return [(each.name, each.version) for each in await catalogue.list(prefix, all_versions=all_versions)]


def test_versions_are_ordered_by_their_numbers() -> None:
    ordered = ["", "1", "1.9", "1.10", "2", "10"]
    assert sorted(set(ordered), key=age_of) == ordered


async def test_a_run_gets_the_newest_version_that_workers_have() -> None:
    store = MemoryMetadataStore()
    await catalogue_of([info("a", "11")], store=store).list("", all_versions=True)
    catalogue = catalogue_of([info("a", "9"), info("a", "10"), info("b")], store=store)
    assert (await catalogue.find("a")).version == "10"
    assert (await catalogue.find("a", "9")).version == "9"
    assert (await catalogue.find("b")).version == ""


async def test_what_was_announced_stays_known_to_every_engine() -> None:
    store = MemoryMetadataStore()
    first = catalogue_of([info("a", "1", description="text"), info("a", "2")], store=store)
    await first.start()
    await first._look()
    later = catalogue_of(store=store)
    found = await later.find("a")
    assert found.version == "2"
    assert not later.is_served(found)
    assert first.is_served(found)
    assert found.announce_time.ToMilliseconds() == 7
    await first.stop()


async def test_a_function_that_was_found_is_stored() -> None:
    store = MemoryMetadataStore()
    catalogue = catalogue_of([info("a", "1"), info("b")], store=store)
    await catalogue.find("a")
    assert (await catalogue_of(store=store).find("a")).version == "1"


async def test_only_changes_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryMetadataStore()
    await store.write_functions([FunctionRow("a", "", info("a").SerializeToString(), 1)])
    catalogue = catalogue_of([info("a"), info("b")], store=store)
    written = []

    async def write(functions: Any) -> None:
        written.extend(functions)

    monkeypatch.setattr(store, "write_functions", write)
    await catalogue.start()
    for _ in range(2):
        await catalogue._look()
    await catalogue.stop()
    assert [row.name for row in written] == ["b"]


async def test_an_unknown_name_is_looked_for_in_the_store_now_and_then() -> None:
    store, now_s = MemoryMetadataStore(), 100.0
    catalogue = Catalogue(store, dict, lambda: 7, elapsed_s=lambda: now_s)
    with pytest.raises(errors.FunctionNotFoundError, match="--import MODULE"):
        await catalogue.find("a")
    await store.write_functions([FunctionRow("a", "1", info("a", "1").SerializeToString(), 1)])
    with pytest.raises(errors.FunctionNotFoundError):
        await catalogue.find("a")
    now_s += module.LOOK_S
    assert (await catalogue.find("a")).version == "1"
    with pytest.raises(
        errors.FunctionNotFoundError, match="no version '2' of the function 'a'; known are '1'"
    ) as caught:
        await catalogue.find("a", "2")
    assert caught.value.fields == {"function": "a", "version": "2"}


async def test_a_damaged_row_is_none() -> None:
    store = MemoryMetadataStore()
    await store.write_functions([FunctionRow("a", "", b"\xff", 1)])
    assert await names(catalogue_of(store=store)) == []


async def test_lists_are_by_name_and_age() -> None:
    catalogue = catalogue_of([info("b", "9"), info("b", "10"), info("a"), info("ab", "1")])
    assert await names(catalogue) == [("a", ""), ("ab", "1"), ("b", "10"), ("b", "9")]
    assert await names(catalogue, all_versions=False) == [("a", ""), ("ab", "1"), ("b", "10")]
    assert await names(catalogue, "a") == [("a", ""), ("ab", "1")]


@pytest.mark.parametrize(
    ("name", "may"),
    [
        ("app.tasks:f", True),
        ("app.tasks.more:f", True),
        ("app.tasks2:f", False),
        ("app:f", False),
        ("builtins:eval", False),
        ("operator:add", False),
        (":f", False),
    ],
)
def test_modules_are_allowed_with_those_inside_of_them(name: str, may: bool) -> None:
    catalogue = catalogue_of(allowed=("app.tasks", "builtins"))
    if may:
        catalogue.check_module(name)
    else:
        with pytest.raises(errors.FunctionNotFoundError, match="--allow-modules"):
            catalogue.check_module(name)


SCHEMA = {
    "type": "object",
    "properties": {
        "order": {"$ref": "#/$defs/Order"},
        "when": {"type": "string", "format": "date-time"},
        "n": {"type": "integer"},
    },
    "required": ["order"],
    "additionalProperties": False,
    "$defs": {"Order": {"type": "object", "properties": {"a/b": {"type": "number"}}, "required": ["a/b"]}},
}
CHARGE = info("charge", "3", arguments_schema=json.dumps(SCHEMA), positional=["order", "when"])


@pytest.mark.parametrize(
    ("values", "given_names", "pointer", "text"),
    [
        ({"order": {"a/b": "x"}}, (), "/order/a~1b", 'is not of type "number"'),
        ({"order": {}}, (), "/order", "required"),
        ({}, (), "/order", "is required"),
        ({"order": {"a/b": 1}, "x": 1}, (), "/x", "there are order, when, n"),
        ({}, ("order", "x"), "/x", "no such parameter"),
        ({"order": {"a/b": 1}, "when": "tomorrow"}, (), "/when", "date-time"),
        ({"order": {"a/b": 1}, "n": "\ud800"}, (), "/n", ""),
    ],
)
def test_the_first_argument_that_does_not_fit_is_named(
    values: dict[str, Any], given_names: tuple[str, ...], pointer: str, text: str
) -> None:
    with pytest.raises(errors.InvalidArgumentsError, match="do not fit the function 'charge' version '3'") as caught:
        Checker().check(CHARGE, values, given_names, "node")
    assert caught.value.fields == {"function": "charge", "version": "3", "pointer": pointer, "node_id": "node"}
    assert text in str(caught.value)


def test_arguments_that_fit_pass() -> None:
    checker = Checker()
    checker.check(CHARGE, {"order": {"a/b": 1.5}, "when": "2026-01-02T03:04:05", "n": 2**80})
    checker.check(CHARGE, {}, ["order"])
    checker.check(info("any"), {"whatever": 1})


@given(st.text())
def test_any_text_of_arguments_is_an_object_or_refused(text: str) -> None:
    with suppress(errors.InvalidArgumentsError):
        assert isinstance(parse(text), dict)


@pytest.mark.parametrize("text", ["[1]", "1", "{", '{"a": NaN}', "[" * 100_000])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidArgumentsError):
        parse(text)


def checked(schema: dict[str, Any], value: Any) -> None:
    described = {"type": "object", "properties": {"x": schema}, "$defs": schema.pop("$defs", {})}
    Checker().check(info("f", arguments_schema=json.dumps(described)), {"x": value})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "foo"},
        {"type": "string", "pattern": r"(?P<n>x)(?#c)\Z(?a)"},
        {"$ref": "http://127.0.0.1:1/nowhere"},
        {"$ref": "file:///etc/passwd"},
        {"type": "string", "default": "\ud800"},
    ],
)
def test_a_schema_that_is_none_is_not_checked_and_fetches_nothing(schema: dict[str, Any]) -> None:
    checked(schema, "x")


def test_types_that_contain_themselves_are_left_to_the_worker() -> None:
    """To check a value by one of two such types takes time that is exponential in its depth."""
    union = {"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}, {"type": "null"}]}
    one = {"type": "object", "properties": {"x": union}}
    value: Any = 5
    for _ in range(200):
        value = {"x": value}
    checked({**union, "$defs": {"A": one, "B": one}}, value)
    with pytest.raises(errors.InvalidArgumentsError):
        checked({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"type": "integer"}}}, value)


def test_many_ways_to_the_same_type_are_no_circle() -> None:
    twice = {f"D{n}": {"anyOf": [{"$ref": f"#/$defs/D{n + 1}"}] * 2} for n in range(19)}
    checked({"$ref": "#/$defs/D0", "$defs": {**twice, "D19": {"type": "integer"}}}, 7)


def test_versions_may_have_any_digits() -> None:
    assert sorted(["1\u00b2", "10", "\u0663"], key=age_of)
