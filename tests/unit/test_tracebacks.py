"""Tracebacks of code that travelled by value: file, line and source, whatever cloudpickle keeps of the file name."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import linecache
import os
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import perdure
from perdure import codec, failures, functions, tracebacks

MODULE = """\
    import functools
    import perdure

    def plain(x):
        y = x + 1
        raise ValueError(y)  # plain

    def outer():
        def inner():
            raise ValueError  # inner
        return inner

    def calls_nested():
        def inner():
            return 1 / 0  # nested
        return inner()

    short = lambda: 1 / 0  # short

    class Cart:
        def total(self):
            raise ValueError  # total

        @staticmethod
        def of_nothing():
            raise ValueError  # static

        @property
        def size(self):
            raise ValueError  # property

    def logged(function):
        @functools.wraps(function)
        def wrapper(*args):
            return function(*args)  # wrapper
        return wrapper

    @logged
    def decorated():
        raise ValueError  # decorated

    @perdure.task(max_retries=1)
    def task():
        raise ValueError  # task

    def generated():
        yield 1
        raise ValueError  # generated

    def separators():
        text = "\u2028\f\x1c"
        raise ValueError(text)  # separators
"""


@pytest.fixture
def by_value(tmp_path: Path) -> Iterator[ModuleType]:
    """A module that workers cannot import."""
    with module_of(tmp_path / "users_steps.py") as module:
        yield module


class module_of:
    def __init__(self, path: Path, text: str = MODULE) -> None:
        self._path, self._text = path, text

    def __enter__(self) -> ModuleType:
        self._path.write_text(textwrap.dedent(self._text))
        spec = importlib.util.spec_from_file_location(self._path.stem, self._path)
        assert spec is not None
        assert spec.loader is not None
        self._module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = self._module
        spec.loader.exec_module(self._module)
        cloudpickle.register_pickle_by_value(self._module)
        return self._module

    def __exit__(self, *_: object) -> None:
        cloudpickle.unregister_pickle_by_value(self._module)
        del sys.modules[self._module.__name__]


def travelled(function: Callable[..., Any]) -> Callable[..., Any]:
    return functions.load_function(functions.encode_function(function))


def stack_of(function: Callable[[], Any]) -> str:
    try:
        function()
    except Exception as error:
        return failures.from_exception(error, skip_frames=1).stack_trace
    raise AssertionError("it has not failed")


def line_of(mark: str) -> int:
    (found,) = [number for number, line in enumerate(MODULE.splitlines(), 1) if line.endswith(f"# {mark}")]
    return found


def drop(path: Path) -> None:
    """As on a worker, which does not have the file."""
    path.unlink()
    linecache.cache.pop(str(path), None)


CALLS: dict[str, Callable[[ModuleType], Callable[[], Any]]] = {
    "plain": lambda module: functools.partial(travelled(module.plain), 1),
    "inner": lambda module: travelled(module.outer()),
    "nested": lambda module: travelled(module.calls_nested),
    "short": lambda module: travelled(module.short),
    "total": lambda module: travelled(lambda cart=module.Cart: cart().total()),
    "static": lambda module: travelled(lambda cart=module.Cart: cart.of_nothing()),
    "property": lambda module: travelled(lambda cart=module.Cart: cart().size),
    "wrapper": lambda module: travelled(module.decorated),
    "decorated": lambda module: travelled(module.decorated),
    "task": lambda module: travelled(module.task),
    "generated": lambda module: functools.partial(lambda made: list(made()), travelled(module.generated)),
}


@pytest.mark.parametrize("mark", CALLS)
def test_a_traceback_shows_the_line_without_the_file(by_value: ModuleType, tmp_path: Path, mark: str) -> None:
    path = tmp_path / "users_steps.py"
    call = CALLS[mark](by_value)
    drop(path)
    stack = stack_of(call)
    assert f'File "{path}", line {line_of(mark)}, in ' in stack
    assert f"# {mark}" in stack


def test_values_bring_the_lines_of_their_classes(by_value: ModuleType, tmp_path: Path) -> None:
    cart = codec.decode(codec.encode(by_value.Cart()).inline())
    drop(tmp_path / "users_steps.py")
    assert f'users_steps.py", line {line_of("total")}, in total' in stack_of(cart.total)


def test_separators_within_a_line_do_not_shift_the_lines(by_value: ModuleType) -> None:
    assert "raise ValueError(text)  # separators" in stack_of(travelled(by_value.separators))


@pytest.mark.parametrize("when", ["before it is pickled", "after it is pickled", "after it is loaded"])
def test_a_traceback_shows_the_lines_that_ran_after_an_edit(by_value: ModuleType, tmp_path: Path, when: str) -> None:
    path = tmp_path / "users_steps.py"

    def edit() -> None:
        path.write_text(textwrap.dedent(MODULE).replace("# task", "# edited"))
        os.utime(path, (2_000_000_000, 2_000_000_000))

    if when == "before it is pickled":
        edit()
    sent = functions.encode_function(by_value.task)
    if when == "after it is pickled":
        edit()
    function = functions.load_function(sent)
    if when == "after it is loaded":
        edit()
    assert "# task" in stack_of(function)


def test_a_line_that_may_not_have_run_is_not_shown(by_value: ModuleType, tmp_path: Path) -> None:
    """`plain` is no task, so its source was not read before the edit."""
    path = tmp_path / "users_steps.py"
    path.write_text(textwrap.dedent(MODULE).replace("y = x + 1", "y = x + 2"))
    os.utime(path, (2_000_000_000, 2_000_000_000))
    linecache.cache.pop(str(path), None)
    stack = stack_of(functools.partial(travelled(by_value.plain), 1))
    assert stack == f'  File "{path}", line {line_of("plain")}, in plain\n'


def test_versions_of_a_file_keep_their_own_lines(tmp_path: Path) -> None:
    path = tmp_path / "users_steps.py"
    with module_of(path) as module:
        first = travelled(module.plain)
    with module_of(path, MODULE.replace("# plain", "# the second")) as module:
        second = travelled(module.plain)
    drop(path)
    assert "# plain" in stack_of(functools.partial(first, 1))
    assert "# the second" in stack_of(functools.partial(second, 1))


def test_code_without_a_file_keeps_its_name() -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("def f():\n    1 / 0\n", "<cell 3>", "exec"), scope)
    assert stack_of(travelled(scope["f"])) == '  File "<cell 3>", line 2, in f\n'


def test_cells_of_a_notebook_bring_their_lines() -> None:
    text, name = "def f():\n    1 / 0  # cell\n", "/tmp/ipykernel_1/3.py"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)  # as IPython does
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), scope)
    sent = functions.encode_function(scope["f"])
    del linecache.cache[name]
    assert f'File "{name}", line 2, in f\n    1 / 0  # cell' in stack_of(functions.load_function(sent))


def test_the_users_own_tracebacks_show_lines_without_the_file(by_value: ModuleType, tmp_path: Path) -> None:
    plain, inner = travelled(by_value.plain), travelled(by_value.calls_nested)
    drop(tmp_path / "users_steps.py")
    plain, inner = travelled(plain), travelled(inner)  # now on a machine that does not have it
    for call, mark in ((functools.partial(plain, 1), "plain"), (inner, "nested")):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            call()
        text = "".join(traceback.format_exception(caught.value))
        assert f'users_steps.py", line {line_of(mark)}, in ' in text
        assert f"# {mark}" in text


def test_a_function_that_travels_on_keeps_its_lines(by_value: ModuleType, tmp_path: Path) -> None:
    def inner_of(function: Callable[..., Any]) -> CodeType:
        (found,) = [constant for constant in function.__code__.co_consts if isinstance(constant, CodeType)]
        return found

    first = travelled(by_value.calls_nested)
    drop(tmp_path / "users_steps.py")
    second = travelled(first)
    for code_of in (lambda function: function.__code__, inner_of):
        assert tracebacks.text_of(code_of(second)) == tracebacks.text_of(code_of(by_value.calls_nested))
        assert code_of(second).co_filename == code_of(by_value.calls_nested).co_filename


def test_texts_are_forgotten_with_their_code(by_value: ModuleType) -> None:
    function = travelled(by_value.plain)
    before = len(tracebacks._texts)
    del function
    assert len(tracebacks._texts) == before - 1


def test_long_functions_travel_without_their_text(tmp_path: Path) -> None:
    long = "def f():\n" + "    x = 0  # filler\n" * (tracebacks.TEXT_CHARS_MAX // 10) + "    1 / 0\n"
    with module_of(tmp_path / "users_long.py", long) as module:
        assert stack_of(travelled(module.f)).count("\n") == 1


def forgetful(code: CodeType) -> Any:
    """A reducer that drops file names, as some releases of cloudpickle do."""
    make, parts = cloudpickle.Pickler._dispatch_table[CodeType](code)
    return make, tuple("<dynamic-code>" if part == code.co_filename else part for part in parts)


def faithful(code: CodeType) -> Any:
    """One that keeps them, as others do."""
    make, parts = cloudpickle.Pickler._dispatch_table[CodeType](code)
    return make, tuple(code.co_filename if part == "<dynamic-code>" else part for part in parts)


@pytest.mark.parametrize("reducer", [forgetful, faithful])
def test_file_names_do_not_depend_on_cloudpickle(
    by_value: ModuleType, reducer: Callable[[CodeType], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tracebacks.Reducer
    monkeypatch.setattr(tracebacks, "Reducer", lambda _: made(reducer))
    assert 'users_steps.py", line 6, in plain' in stack_of(functools.partial(travelled(by_value.plain), 1))


PROGRAM = """
import perdure
from perdure import functions

@perdure.task
def step(x):
    def inner():
        return x / 0
    return inner()

print(functions.encode_function(step).key)
"""


def test_a_script_hashes_its_functions_alike_each_time(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(PROGRAM)
    runs = [subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout != ""


def test_a_task_imported_by_name_shows_the_lines_that_ran(by_value: ModuleType, tmp_path: Path) -> None:
    cloudpickle.unregister_pickle_by_value(by_value)
    path = tmp_path / "users_steps.py"
    path.write_text(textwrap.dedent(MODULE).replace("# task", "# edited"))
    os.utime(path, (2_000_000_000, 2_000_000_000))
    task: perdure.Task[[], Any, Any] = by_value.task
    assert "# task" in stack_of(task.function)
    cloudpickle.register_pickle_by_value(by_value)


def test_files_of_modules_that_travelled_are_named_as_in_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracebacks, "_unpacked", [])
    unpacked = tmp_path / "perdure-modules-x" / "0123"
    (unpacked / "shop_unpacked").mkdir(parents=True)
    (unpacked / "shop_unpacked" / "prices.py").write_text("def price_of(name=0):\n    return {}[name]  # none\n")
    monkeypatch.syspath_prepend(unpacked)
    tracebacks.is_unpacked_at(str(unpacked))
    stack = stack_of(importlib.import_module("shop_unpacked.prices").price_of)
    assert 'File "shop_unpacked/prices.py", line 2, in price_of\n    return {}[name]  # none' in stack
    assert str(tmp_path) not in stack
