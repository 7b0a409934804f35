"""The clients in other languages. Each is skipped where its toolchain is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CLIENTS = ROOT / "clients"
PROTO_BIN = ROOT / ".venv-proto/bin"
NAMES = sorted(path.parent.name for path in CLIENTS.glob("*/conformance.json"))

needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="there is no go")
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm")


def succeeds(*command: str, cwd: Path = ROOT) -> str:
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{ended.stdout[-8000:]}{ended.stderr[-4000:]}"
    return ended.stdout


@pytest.mark.parametrize("name", NAMES)
def test_the_client_does_what_every_client_does(name: str) -> None:
    for command in json.loads((CLIENTS / name / "conformance.json").read_text())["needs"]:
        if shutil.which(command) is None:
            pytest.skip(f"there is no {command}")
    assert f"{name}: all " in succeeds(sys.executable, "tools/test_clients.py", name)


def test_the_example_for_go_is_short() -> None:
    """It is compiled by the test below."""
    assert len((CLIENTS / "go/examples/hello/main.go").read_text().splitlines()) <= 20


@needs_go
def test_the_client_for_go_is_formatted_and_passes_its_own_tests() -> None:
    assert succeeds("gofmt", "-l", ".", cwd=CLIENTS / "go") == ""
    succeeds("go", "vet", "./...", cwd=CLIENTS / "go")
    succeeds("go", "test", "./...", cwd=CLIENTS / "go")


def test_the_example_for_typescript_is_short() -> None:
    assert len((CLIENTS / "typescript/examples/hello.ts").read_text().splitlines()) <= 12


@needs_npm
def test_the_client_for_typescript_passes_its_own_tests(tmp_path: Path) -> None:
    client = tmp_path / "typescript"  # tests beside this one may build it as well
    shutil.copytree(CLIENTS / "typescript", client, ignore=shutil.ignore_patterns("node_modules", "dist", "build"))
    succeeds("npm", "ci", cwd=client)
    succeeds("npm", "test", cwd=client)


@pytest.mark.skipif(not PROTO_BIN.exists(), reason="make proto-clients was not run")
@pytest.mark.parametrize("name", [pytest.param("go", marks=needs_go), pytest.param("typescript", marks=needs_npm)])
def test_stubs_of_clients_are_what_the_protos_generate(name: str) -> None:
    succeeds(sys.executable, "tools/generate_client_stubs.py", str(PROTO_BIN), "--check", name)
