"""Which modules travel with a graph, and what of them."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest

import perdure
from perdure import graphwire, modules, runtimeenv, snapshots
from perdure.conversion import to_spec
from perdure.model import BlobRef, Call, InvalidSpec

pytestmark = pytest.mark.usefixtures("_fresh")


@pytest.fixture
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A program in `tmp_path`, of which nothing is loaded yet."""
    before = set(sys.modules)
    monkeypatch.setenv(modules.VARIABLE, "on")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
    modules._known.clear()
    runtimeenv._known.clear()


def looked_at(name: str) -> modules._Known:
    found = modules._known.get((name,))
    assert found is not None
    return found


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def load(name: str) -> ModuleType:
    importlib.invalidate_caches()
    return importlib.import_module(name)


def named(graph: Any) -> Any:
    """The modules that the environment of the last task names."""
    return json.loads(to_spec(graph).nodes[-1].options.shape.runtime_env or "{}").get("modules")


def files(*names: str) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(modules.package_of(names).packed())) as archive:
        return set(archive.namelist())


TASK = "import perdure\n@perdure.task\ndef step(x=None):\n    return x\n"


def test_a_graph_names_the_modules_of_its_tasks(tmp_path: Path) -> None:
    write(tmp_path, {"steps.py": TASK})
    assert named(load("steps").step.bind()) == ["steps"]


def test_a_package_is_named_by_its_top(tmp_path: Path) -> None:
    write(tmp_path, {"shop/__init__.py": "", "shop/deep/__init__.py": "", "shop/deep/steps.py": TASK})
    assert named(load("shop.deep.steps").step.bind()) == ["shop"]


def test_classes_and_functions_in_arguments_are_named(tmp_path: Path) -> None:
    write(tmp_path, {"steps.py": TASK, "orders.py": "class Order: pass\n", "rates.py": "def rate(): pass\n"})
    step, order, rate = load("steps").step, load("orders").Order(), load("rates").rate
    assert named(step.bind([order, rate])) == ["orders", "rates", "steps"]


def test_code_that_travels_by_value_names_what_it_refers_to_and_imports(tmp_path: Path) -> None:
    write(tmp_path, {"direct.py": "def f(): pass\n", "whole.py": "", "lazy.py": "", "steps.py": ""})
    script: dict[str, Any] = {"__name__": "__main__"}
    code = """
import perdure, whole
from direct import f
@perdure.task
def step():
    def inner():
        import lazy.deep, json
    return f, whole, inner
"""
    exec(code, script)
    assert named(script["step"].bind()) == ["direct", "lazy", "whole"]


def test_a_script_in_a_package_names_the_package_for_relative_imports(tmp_path: Path) -> None:
    write(tmp_path, {"shop/__init__.py": "", "shop/rates.py": ""})
    script: dict[str, Any] = {"__name__": "__main__", "__package__": "shop"}
    exec("import perdure\n@perdure.task\ndef step():\n    from . import rates\n", script)
    load("shop")
    assert named(script["step"].bind()) == ["shop"]


def test_a_module_that_is_registered_to_travel_by_value_is_not_named(tmp_path: Path) -> None:
    write(tmp_path, {"steps.py": TASK})
    steps = load("steps")
    cloudpickle.register_pickle_by_value(steps)
    try:
        assert named(steps.step.bind()) is None
    finally:
        cloudpickle.unregister_pickle_by_value(steps)


def test_what_is_cached_of_a_task_does_not_outlive_how_it_travels(tmp_path: Path) -> None:
    write(tmp_path, {"steps.py": TASK})
    steps = load("steps")

    def code() -> bytes:
        call = to_spec(steps.step.bind()).nodes[0].action
        assert isinstance(call, Call)
        assert call.function.code is not None
        return call.function.code.data

    by_name = code()
    assert named(steps.step.bind()) == named(steps.step.bind()) == ["steps"]
    cloudpickle.register_pickle_by_value(steps)
    try:
        assert len(code()) > 2 * len(by_name)
        assert named(steps.step.bind()) is None
    finally:
        cloudpickle.unregister_pickle_by_value(steps)
    assert code() == by_name
    assert named(steps.step.bind()) == ["steps"]
    assert named(steps.step.options(runtime_env={"modules": False}).bind()) is False


@pytest.mark.parametrize("name", ["json", "sys", "numpy", "grpc", "perdure", "__main__", "no_such_module", "a b"])
def test_installed_modules_and_those_of_python_are_not_the_programs_own(name: str) -> None:
    assert modules.own([name]) == []


def test_nothing_is_named_if_modules_are_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"steps.py": TASK})
    step = load("steps").step
    assert named(step.options(runtime_env={"modules": False}).bind()) is False
    assert named(step.options(runtime_env={"working_dir": "."}).bind()) is None
    assert not to_spec(step.bind(), names_modules=False).nodes[0].options.shape.runtime_env
    monkeypatch.setenv(modules.VARIABLE, "off")
    assert named(step.bind()) is None


def test_a_task_names_more_modules(tmp_path: Path) -> None:
    write(tmp_path, {"steps.py": TASK, "plugin.py": ""})
    node = load("steps").step.options(runtime_env={"modules": ["plugin"], "env_vars": {"A": "b"}}).bind()
    assert named(node) == ["plugin", "steps"]
    with pytest.raises(ValueError, match="the module 'nowhere' is not one of the program's own"):
        files("nowhere")


@pytest.mark.parametrize("given", [True, "steps", ["a.b"], [1], {}])
def test_malformed_modules_are_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="modules is a list of top-level names"):
        perdure.task(runtime_env={"modules": given})(len)


def test_modules_that_modules_import_travel_wherever_the_import_stands(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "steps.py": "import json, first as x\nfrom second.deep import y\ndef f():\n    import third, numpy",
            "first.py": "try:\n    import fourth\nexcept ImportError: pass",
            "second/__init__.py": "from . import deep",
            "second/deep.py": "y = 1\nimport steps",
            "third.py": "",
            "fourth.py": "",
            "unused.py": "",
        },
    )
    assert files("steps") == {"steps.py", "first.py", "second/__init__.py", "second/deep.py", "third.py", "fourth.py"}


def test_a_package_travels_whole_but_for_caches_and_what_is_ignored(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "shop/__init__.py": "",
            "shop/late.py": "",
            "shop/data/rates.csv": "",
            "shop/__pycache__/late.cpython-311.pyc": "",
            "shop/.git/config": "",
            "shop/models/large.bin": "",
            "shop/.gitignore": "models/\n",
        },
    )
    assert files("shop") == {"shop/__init__.py", "shop/late.py", "shop/data/rates.csv"}


def test_a_package_without_an_init_file_travels(tmp_path: Path) -> None:
    write(tmp_path, {"plain/steps.py": TASK})
    assert named(load("plain.steps").step.bind()) == ["plain"]
    assert files("plain") == {"plain/steps.py"}


def test_a_module_loaded_under_another_name_travels_under_it(tmp_path: Path) -> None:
    write(tmp_path, {"file-of-steps.py": TASK})
    spec = importlib.util.spec_from_file_location("steps", tmp_path / "file-of-steps.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["steps"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert named(module.step.bind()) == ["steps"]
    assert files("steps") == {"steps.py"}


def test_the_same_files_give_the_same_package_in_every_process(tmp_path: Path) -> None:
    write(tmp_path, {"b.py": "import a", "a.py": ""})
    first = modules.package_of(("b",)).packed()
    modules._known.clear()
    os.utime(tmp_path / "a.py", (1, 1))
    assert modules.package_of(("b",)).packed() == first


@pytest.mark.parametrize("change", ["edited", "removed", "added", "imports more"])
def test_a_change_is_seen(tmp_path: Path, change: str) -> None:
    write(tmp_path, {"shop/__init__.py": "", "shop/late.py": "x = 1", "more.py": ""})
    before = files("shop")
    known = modules.package_of(("shop",))
    assert modules.known_package(("shop",)) is known
    match change:
        case "edited":
            write(tmp_path, {"shop/late.py": "x = 22"})
        case "removed":
            (tmp_path / "shop/late.py").unlink()
        case "added":
            write(tmp_path, {"shop/new.py": ""})
        case _:
            write(tmp_path, {"shop/late.py": "import more"})
    looked_at("shop").took_s = 0.0  # it may be looked at once
    assert modules.known_package(("shop",)) is None
    after = files("shop")
    expected = {
        "edited": before,
        "removed": before - {"shop/late.py"},
        "added": before | {"shop/new.py"},
        "imports more": before | {"more.py"},
    }
    assert after == expected[change]


def test_too_large_a_package_is_refused_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"steps.py": "", "shop/__init__.py": ""})
    (tmp_path / "shop/noise.bin").write_bytes(os.urandom(5000))
    monkeypatch.setattr(modules, "BYTES_MAX", 1000)
    with pytest.raises(
        ValueError, match=r"more than 1,000 bytes .*shop/noise.bin \(5,000 bytes\).*PERDURE_MODULES=off"
    ):
        files("shop")
    monkeypatch.setattr(modules, "FILES_MAX", 1)
    modules._known.clear()
    with pytest.raises(ValueError, match=r"more than 1 files, 'shop' with them"):
        files("shop")


# ------------------------------------------------------------------------------ as a snapshot


class Shelf:
    """Implements runtimeenv.Store."""

    def __init__(self) -> None:
        self.blobs: dict[BlobRef, bytes] = {}

    def has(self, blob: BlobRef) -> bool:
        return blob in self.blobs

    def put(self, data: bytes) -> BlobRef:
        import hashlib

        blob = BlobRef(hashlib.sha256(data).hexdigest(), len(data))
        self.blobs[blob] = data
        return blob


def test_a_graph_keeps_a_snapshot_that_counts_as_used(tmp_path: Path) -> None:
    write(tmp_path, {"steps.py": TASK})
    step, shelf = load("steps").step, Shelf()
    spec = runtimeenv.snapshot(to_spec(step.bind(step.bind())), {}, shelf)
    (blob,) = shelf.blobs
    decoded = graphwire.decode_spec(graphwire.encode_spec(spec))
    assert decoded == spec
    assert {node.options.shape.runtime_env for node in spec.nodes} == {
        json.dumps({"modules": snapshots.snapshot_uri(blob, "modules.zip")}, separators=(",", ":"))
    }
    assert blob in set(graphwire.blobs_of_spec(decoded))


def test_an_environment_of_all_nodes_is_sent_once(tmp_path: Path) -> None:
    write(tmp_path, {"steps.py": TASK})
    step, shelf = load("steps").step, Shelf()
    nodes = [step.options(max_retries=n % 3).bind(n) for n in range(100)]
    spec = runtimeenv.snapshot(to_spec(step.bind([*nodes, perdure.event("e", task_id="t")])), {}, shelf)
    data = graphwire.encode_spec(spec)
    assert data.count(b"perdure-blob:") == 1
    assert graphwire.encode_spec(graphwire.decode_spec(data)) == data


@pytest.mark.parametrize("given", [["steps"], "steps", 7, "https://host/code.zip"])
def test_a_graph_that_arrives_with_modules_that_are_not_stored_is_refused(given: Any) -> None:
    message = graphwire.spec_to_proto(to_spec(perdure.task(len).bind("x"), names_modules=False))
    message.default_options.runtime_env.update({"modules": given})
    with pytest.raises(InvalidSpec, match="modules is the URI of a stored package"):
        graphwire.spec_from_proto(message)


def test_what_is_known_is_not_packed_again(tmp_path: Path) -> None:
    write(tmp_path, {"steps.py": TASK})
    spec, shelf = to_spec(load("steps").step.bind()), Shelf()
    assert runtimeenv.snapshot_known(spec, shelf.has) is None
    full = runtimeenv.snapshot(spec, {}, shelf)
    assert runtimeenv.snapshot_known(spec, shelf.has) == full
    write(tmp_path, {"steps.py": TASK + "\n"})
    looked_at("steps").took_s = 0.0
    assert runtimeenv.snapshot_known(spec, shelf.has) is None
    assert runtimeenv.snapshot(spec, {}, shelf) != full
    shelf.blobs.clear()
    assert runtimeenv.snapshot_known(spec, shelf.has) is None


def test_a_working_dir_of_the_job_is_all_the_code_there_is(tmp_path: Path) -> None:
    write(tmp_path, {"steps.py": TASK})
    spec = runtimeenv.snapshot(to_spec(load("steps").step.bind()), {"working_dir": "s3://b/code.zip"}, Shelf())
    assert json.loads(spec.nodes[0].options.shape.runtime_env) == {"working_dir": "s3://b/code.zip"}


def test_a_graph_that_a_task_returns_inherits_modules_and_names_no_others(tmp_path: Path) -> None:
    write(tmp_path, {"steps.py": TASK})
    step, base = load("steps").step, {"modules": snapshots.snapshot_uri(Shelf().put(b"x"), "modules.zip")}
    spec = runtimeenv.snapshot(to_spec(step.bind(), names_modules=False), base, Shelf())
    assert json.loads(spec.nodes[0].options.shape.runtime_env) == base
    more = to_spec(step.options(runtime_env={"modules": ["steps"]}).bind(), names_modules=False)
    with pytest.raises(ValueError, match="has the modules of its run"):
        runtimeenv.snapshot(more, base, Shelf())
