"""Local code of runtime environments: packed alike each time, stored, and named by what is in it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure import graphwire, runtimeenv, snapshots
from perdure.conversion import to_spec
from perdure.model import BlobRef


class Shelf:
    """A store in memory."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.puts = 0

    def has(self, blob: BlobRef) -> bool:
        return blob.sha256 in self.stored

    def put(self, data: bytes) -> BlobRef:
        self.puts += 1
        sha256 = hashlib.sha256(data).hexdigest()
        self.stored[sha256] = data
        return BlobRef(sha256, len(data))

    def names(self, uri: str) -> set[str]:
        """What is in a package."""
        found = snapshots.snapshot_of(uri)
        assert found is not None
        with zipfile.ZipFile(io.BytesIO(self.stored[found[0].sha256])) as archive:
            return set(archive.namelist())


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    runtimeenv._known.clear()
    yield
    runtimeenv._known.clear()


@perdure.task
def work() -> None: ...


def taken(environment: dict[str, Any] | None, shelf: Shelf, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """The environment of a step as the service gets it."""
    spec = to_spec(work.options(runtime_env=environment).bind())
    spec = runtimeenv.snapshot(spec, base or {}, shelf)
    (node,) = graphwire.decode_spec(graphwire.encode_spec(spec)).nodes
    named: dict[str, Any] = json.loads(node.options.shape.runtime_env or "{}")
    return named


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_without_environments_nothing_is_touched(shelf: Shelf) -> None:
    spec = to_spec(work.bind())
    assert runtimeenv.snapshot(spec, {}, shelf) is spec


def test_a_folder_becomes_a_blob(tmp_path: Path, shelf: Shelf) -> None:
    tree(tmp_path, {"steps.py": "x = 1", "deep/er.py": "", "__pycache__/steps.pyc": "", ".git/HEAD": ""})
    (tmp_path / "empty").mkdir()
    named = taken({"working_dir": str(tmp_path)}, shelf)
    assert shelf.names(named["working_dir"]) == {"steps.py", "deep/er.py", "empty/"}
    spec = runtimeenv.snapshot(to_spec(work.options(runtime_env={"working_dir": tmp_path}).bind()), {}, shelf)
    assert {blob.sha256 for blob in graphwire.blobs_of_spec(spec)} >= set(shelf.stored)


def test_the_same_files_make_the_same_bytes(tmp_path: Path, shelf: Shelf) -> None:
    files = {"a.py": "1", "b/c.py": "2"}
    one, two = tree(tmp_path / "one", files), tree(tmp_path / "two", dict(reversed(files.items())))
    os.utime(two / "a.py", (1, 1))
    assert taken({"working_dir": str(one)}, shelf) == taken({"working_dir": str(two)}, shelf)
    (two / "a.py").write_text("3")
    assert taken({"working_dir": str(one)}, shelf) != taken({"working_dir": str(two)}, shelf)


def test_what_was_stored_is_not_packed_again_until_it_changes(tmp_path: Path, shelf: Shelf) -> None:
    tree(tmp_path, {"a.py": "1"})
    first = taken({"working_dir": str(tmp_path)}, shelf)
    assert taken({"working_dir": str(tmp_path)}, shelf) == first
    assert shelf.puts == 1
    shelf.stored.clear()
    assert taken({"working_dir": str(tmp_path)}, shelf) == first
    assert shelf.puts == 2
    (tmp_path / "a.py").write_text("longer")
    assert taken({"working_dir": str(tmp_path)}, shelf) != first


def test_programs_stay_executable(tmp_path: Path, shelf: Shelf) -> None:
    tree(tmp_path, {"run.sh": "#!/bin/sh"})
    (tmp_path / "run.sh").chmod(0o755)
    taken({"working_dir": str(tmp_path)}, shelf)
    (data,) = shelf.stored.values()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.getinfo("run.sh").external_attr >> 16 & 0o777 == 0o755


RULES = {
    "*.log": {"a.log", "sub/b.log", "sub/keep.log"},
    "/a.log": {"a.log"},
    "sub": {"sub/b.log", "sub/keep.log", "sub/c.txt"},
    "sub/": {"sub/b.log", "sub/keep.log", "sub/c.txt"},
    "sub/*.log": {"sub/b.log", "sub/keep.log"},
    "**/b.log": {"sub/b.log"},
    "sub/**": {"sub/b.log", "sub/keep.log", "sub/c.txt"},
    "[ab].log": {"a.log", "sub/b.log"},
    "[!a].log": {"sub/b.log"},
    "?.log": {"a.log", "sub/b.log"},
    "*.log\n!keep.log": {"a.log", "sub/b.log"},
    "# nothing\n\n": set(),
    "b.log/": set(),
    r"\#odd": {"#odd"},
}


@pytest.mark.parametrize("rules", RULES, ids=repr)
@pytest.mark.parametrize("where", [".gitignore", ".rayignore", "excludes"])
def test_what_is_left_out(rules: str, where: str, tmp_path: Path, shelf: Shelf) -> None:
    files = {"a.log", "sub/b.log", "sub/keep.log", "sub/c.txt", "d.txt", "#odd"}
    tree(tmp_path, dict.fromkeys(files, ""))
    environment: dict[str, Any] = {"working_dir": str(tmp_path)}
    if where == "excludes":
        environment["excludes"] = rules.split("\n")
    else:
        (tmp_path / where).write_text(rules)
        files.add(where)
    named = taken(environment, shelf)
    assert shelf.names(named["working_dir"]) == files - RULES[rules]
    assert "excludes" not in named


def test_rules_of_a_folder_below_hold_there(tmp_path: Path, shelf: Shelf) -> None:
    tree(tmp_path, {"x.txt": "", "sub/x.txt": "", "sub/y.txt": "", "sub/.gitignore": "x.txt"})
    assert shelf.names(taken({"working_dir": str(tmp_path)}, shelf)["working_dir"]) == {
        "x.txt",
        "sub/y.txt",
        "sub/.gitignore",
    }


def test_gitignore_can_be_ignored_as_in_ray(tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, {"x.txt": "", ".gitignore": "x.txt", "venv/y": ""})
    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
    monkeypatch.setenv("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    names = shelf.names(taken({"working_dir": str(tmp_path)}, shelf)["working_dir"])
    assert names == {"x.txt", ".gitignore", "venv/y"}


def test_links_in_a_circle_end(tmp_path: Path, shelf: Shelf) -> None:
    tree(tmp_path, {"a/x.txt": ""})
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert shelf.names(taken({"working_dir": str(tmp_path)}, shelf)["working_dir"]) == {"a/x.txt"}


def test_modules(tmp_path: Path, shelf: Shelf) -> None:
    tree(tmp_path, {"pack/__init__.py": "", "pack/in.py": "", "one.py": "", "other.py": ""})
    wheel = tree(tmp_path, {"thing-1.0-py3-none-any.whl": "bytes"}) / "thing-1.0-py3-none-any.whl"
    module = types.ModuleType("pack")
    module.__path__ = [str(tmp_path / "pack")]
    named = taken({"py_modules": [module, tmp_path / "one.py", str(wheel), "https://host/x.zip"]}, shelf)
    folder, file, stored_wheel, remote = named["py_modules"]
    assert shelf.names(folder) == {"pack/__init__.py", "pack/in.py"}
    assert shelf.names(file) == {"one.py"}
    found = snapshots.snapshot_of(stored_wheel)
    assert found is not None
    assert (shelf.stored[found[0].sha256], found[1]) == (b"bytes", wheel.name)
    assert remote == "https://host/x.zip"


@pytest.mark.parametrize("name", ["code.zip", "code.tar.gz", "code.tgz", "code.tar.xz"])
def test_an_archive_is_stored_as_it_is(name: str, tmp_path: Path, shelf: Shelf) -> None:
    (tmp_path / name).write_bytes(b"packed")
    uri = taken({"working_dir": str(tmp_path / name)}, shelf)["working_dir"]
    assert uri == snapshots.snapshot_uri(BlobRef(hashlib.sha256(b"packed").hexdigest(), 6), f"package{name[4:]}")


def test_a_relative_path_is_that_of_the_program(tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, {"here.py": ""})
    monkeypatch.chdir(tmp_path)
    assert shelf.names(taken({"working_dir": "."}, shelf)["working_dir"]) == {"here.py"}


@pytest.mark.parametrize("uri", ["s3://bucket/code.zip", "https://host/code.zip", "local:///opt/code"])
def test_remote_places_stay_as_they_are(uri: str, shelf: Shelf) -> None:
    assert taken({"working_dir": uri}, shelf) == {"working_dir": uri}


def test_what_is_stored_already_stays(shelf: Shelf) -> None:
    uri = snapshots.snapshot_uri(shelf.put(b"x"), "package.zip")
    assert taken({"working_dir": uri, "py_modules": [uri]}, shelf) == {"working_dir": uri, "py_modules": [uri]}
    with pytest.raises(ValueError, match="not the URI of a stored package"):
        taken({"working_dir": "perdure-blob://abc"}, shelf)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("working_dir", "/nowhere/at/all", "working_dir='/nowhere/at/all' is neither a folder nor an archive"),
        ("py_modules", ["/nowhere"], "py_modules='/nowhere' is neither a folder nor an archive"),
        ("pip", "/nowhere/requirements.txt", "cannot be read"),
    ],
)
def test_what_is_not_there_is_refused(field: str, value: Any, text: str, shelf: Shelf) -> None:
    with pytest.raises(ValueError, match=text):
        taken({field: value}, shelf)


def test_a_package_that_is_too_large_is_refused(tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimeenv, "PACKAGE_BYTES_MAX", 1000)
    (tmp_path / "noise").write_bytes(os.urandom(5000))
    with pytest.raises(ValueError, match="has more than 1,000 bytes packed; leave files out"):
        taken({"working_dir": str(tmp_path)}, shelf)
    (tmp_path / "x.zip").write_bytes(os.urandom(5000))
    with pytest.raises(ValueError, match="has 5,000 bytes packed, at most 1,000"):
        taken({"working_dir": str(tmp_path / "x.zip")}, shelf)


def test_requirements_are_read(tmp_path: Path, shelf: Shelf) -> None:
    (tmp_path / "requirements.txt").write_text("one==1\n\n  two\n")
    assert taken({"pip": tmp_path / "requirements.txt"}, shelf) == {"pip": ["one==1", "two"]}


def test_the_environment_of_the_job_lies_below(shelf: Shelf) -> None:
    job = {"env_vars": {"A": "1", "B": "1"}, "pip": ["x"], "config": {"eager_install": False}}
    assert taken(None, shelf, job) == job
    assert taken({"env_vars": {"B": "2"}}, shelf, job) == {**job, "env_vars": {"A": "1", "B": "2"}}
    assert taken({"conda": "mine"}, shelf, job) == {
        "env_vars": job["env_vars"],
        "config": job["config"],
        "conda": "mine",
    }


class FakeRay:
    """As much of Ray as is looked at."""

    def __init__(self, environment: dict[str, Any]) -> None:
        self.environment = environment

    def is_initialized(self) -> bool:
        return True

    def get_runtime_context(self) -> Any:
        return types.SimpleNamespace(runtime_env=self.environment)


def test_the_job_of_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, shelf: Shelf) -> None:
    environment = {"working_dir": "gcs://_ray_pkg_1.zip", "env_vars": {}, "_ray_commit": "x"}
    monkeypatch.setitem(sys.modules, "ray", FakeRay(environment))  # type: ignore[arg-type]
    base = runtimeenv.of_this_process()
    assert base == {"working_dir": "gcs://_ray_pkg_1.zip"}
    packages = {"gcs://_ray_pkg_1.zip": b"zipped"}
    kv = types.SimpleNamespace(_internal_kv_get=packages.get)
    monkeypatch.setitem(sys.modules, "ray.experimental.internal_kv", kv)  # type: ignore[arg-type]
    uri = taken(None, shelf, base)["working_dir"]
    assert uri == snapshots.snapshot_uri(BlobRef(hashlib.sha256(b"zipped").hexdigest(), 6), "_ray_pkg_1.zip")
    with pytest.raises(ValueError, match=r"the package gcs://gone\.zip is not in this Ray cluster"):
        taken({"working_dir": "gcs://gone.zip"}, shelf)


def test_without_ray_there_is_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert runtimeenv.of_this_process() == {}
