"""Names of tasks and of classes of actors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure import errors, functions, registry
from perdure.functions import FunctionUnavailable
from perdure.model import Function


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_modules", [])


def add(x: int, y: int) -> int:
    return x + y


def mul(x: int, y: int) -> int:
    return x * y


class Counter:
    def incr(self) -> None:
        pass


def test_a_named_task_is_registered_and_its_name_is_its_task_id() -> None:
    task = perdure.task(name="math.add", version="2")(add)
    assert registry.find("math.add", "2") is task
    assert registry.find("math.add", "") is None
    assert task.default_options.task_id == "math.add"
    assert perdure.task(name="other", task_id="mine")(mul).default_options.task_id == "mine"


def test_an_option_of_one_call_names_the_task_and_registers_nothing() -> None:
    perdure.task(add).options(name="x")
    assert registry.registered() == {}


def test_a_class_of_actors_has_its_version_if_it_gives_one() -> None:
    made = perdure.actor(name="counter")(Counter)
    assert registry.find("counter", "") is made
    newer = perdure.actor(name="counter", version=2)(Counter)
    assert registry.find("counter", "2") is newer


def test_a_name_is_given_once() -> None:
    first = perdure.task(name="a")(add)
    with pytest.raises(ValueError, match=r"is registered already, by <perdure task .*add>; give .*mul> another name"):
        perdure.task(name="a")(mul)
    assert registry.find("a", "") is first
    perdure.task(name="a", version="2")(mul)


def test_a_definition_may_come_again() -> None:
    perdure.task(name="a")(add)
    again = perdure.task(name="a")(add)
    assert registry.find("a", "") is again


@pytest.mark.parametrize("name", ["", "a\n", "x" * 257])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(errors.InvalidFieldError, match="name"):
        perdure.actor(name=name)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "named_functions.py").write_text(
        "import perdure\n\n\n@perdure.task(name='there', version='1')\ndef there():\n    return 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "named_functions"
    sys.modules.pop("named_functions", None)


def load(name: str, version: str) -> Any:
    return functions.load_function(Function(f"{name}@{version}", name, version=version))


def test_modules_are_imported_when_a_name_is_looked_for(module: str) -> None:
    registry.look_in([module])
    assert module not in sys.modules
    assert load("there", "1")() == 7


def test_a_name_that_no_module_registers_says_what_to_do(module: str) -> None:
    registry.look_in([module])
    with pytest.raises(FunctionUnavailable, match=r"'there' version '2' cannot be loaded .* put it back"):
        load("there", "2")


def test_a_module_that_cannot_be_imported_is_said_each_time(module: str) -> None:
    registry.look_in(["no_such_module_at_all", module])
    for _ in range(2):
        with pytest.raises(FunctionUnavailable, match="no_such_module_at_all"):
            load("there", "1")
