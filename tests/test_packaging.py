"""Checks the wheel: its content, its dependencies, and the cost of importing the client."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from patience import PATIENCE_S

ROOT = Path(__file__).parent.parent
BUILD = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
NOT_OF_CLIENTS = ("ray", "click", "rich", "uvloop", "numpy", "pytest")  # grpc itself looks for grpc_health
SERVER_PARTS = ("perdure.engine.", "perdure.service.", "perdure.worker.", "perdure.storage.", "perdure.cli.")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Made by the build backend of pyproject.toml itself, which needs no network."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("perdure-*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def test_every_module_of_every_root_is_in_the_wheel_once(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert len(names) == len(set(names))
    for root in ("sdk", "service", "storage"):
        for path in (ROOT / root / "perdure").rglob("*"):
            place = path.relative_to(ROOT / root)
            is_source = path.suffix in (".py", ".pyi", ".sql") or path.name == "py.typed"
            if is_source and place.as_posix() != "perdure/__init__.py":
                assert place.as_posix() in names
    assert b"extend_path" in wheel.read("perdure/__init__.py")
    assert b"SyncClient" in wheel.read("perdure/__init__.py"), "the SDK's, not one of the other roots'"


def test_types_and_migrations_are_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    typed = {"perdure", "perdure/engine", "perdure/service", "perdure/storage", "perdure/worker"}
    assert {f"{package}/py.typed" for package in typed} <= names
    assert any(re.fullmatch(r"perdure/storage/migrations/sqlite_\d+_\w+\.sql", name) for name in names)
    assert {"perdure/v1/workflow_service_pb2.py", "perdure/v1/workflow_service_pb2.pyi"} <= names


def test_nothing_else_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    kinds = (".py", ".pyi", ".sql", "py.typed")
    for name in wheel.namelist():
        top = name.split("/")[0]
        assert top in ("perdure", "perdure_command.py") or re.fullmatch(r"perdure-[\d.]+\.dist-info", top)
        assert top != "perdure" or name.endswith(kinds)
        assert not Path(name).name.startswith(("test_", "conftest"))
        assert "__pycache__" not in name


def test_the_bare_install_needs_little(wheel: zipfile.ZipFile) -> None:
    needs = metadata(wheel).get_all("Requires-Dist") or []
    bare = {re.split(r"[<>=!~ ;\[]", need)[0] for need in needs if "extra ==" not in need}
    assert bare == {"grpcio", "protobuf", "googleapis-common-protos", "cloudpickle"}


def test_extras_scripts_and_license_are_declared(wheel: zipfile.ZipFile) -> None:
    found = metadata(wheel)
    assert set(found.get_all("Provides-Extra") or []) >= {"cli", "server", "ray"}
    assert found["Requires-Python"] == ">=3.11"
    assert found["License-Expression"] == "Apache-2.0"
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "perdure = perdure_command:main" in wheel.read(name).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


# ------------------------------------------------------------------------------ importing

LOADED = """
import sys
before = set(sys.modules)
import perdure
print(*(set(sys.modules) - before), sep="\\n")
"""
REFUSING = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {NOT_OF_CLIENTS!r} or (name + ".").startswith({SERVER_PARTS!r}):
            raise ImportError(f"{{name}} is not installed")

sys.meta_path.insert(0, Refuse())
import perdure

@perdure.task
def double(number: int) -> int:
    return 2 * number

from perdure.conversion import to_spec
from perdure.graphwire import encode_spec
print(len(encode_spec(to_spec(double.bind(double.bind(1))))) > 0)
with perdure.SyncClient("127.0.0.1:1", patience=0) as client:
    try:
        client.run(double.bind(1))
    except perdure.PerdureError as error:
        print(type(error).__name__)
"""


def python(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_client_loads_neither_ray_nor_server_parts_nor_the_command_line() -> None:
    loaded = set(python(LOADED).split())
    assert {"perdure.client", "perdure.sync", "grpc"} <= loaded
    assert not {name for name in loaded if name.split(".")[0] in NOT_OF_CLIENTS}
    assert not {name for name in loaded if f"{name}.".startswith(SERVER_PARTS)}


def test_the_client_works_where_those_are_not_installed() -> None:
    assert python(REFUSING).split() == ["True", "UnreachableError"]


def test_the_command_line_says_what_it_needs() -> None:
    code = "import sys; sys.modules['click'] = None; from perdure.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == 2
    assert ended.stderr == "perdure: the command line needs click and rich: pip install 'perdure[cli]'\n"


@pytest.mark.parametrize(
    ("arguments", "missing", "text"),
    [
        (["serve"], "grpc_health", "perdure: the service needs more packages: pip install 'perdure[server]'"),
        (["agent", "--address", "x:1"], "ray", "perdure: an agent needs Ray: pip install 'perdure[ray]'"),
    ],
)
def test_commands_say_what_they_need(arguments: list[str], missing: str, text: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = {arguments!r}; import perdure.cli as c; c.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == 2
    assert ended.stderr.startswith(text)
    assert ended.stderr.count("\n") == 1
