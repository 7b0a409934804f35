"""The Makefile: what it leaves alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parent.parent / "Makefile"


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Where Python would make an environment anew, the folder is removed."""
    command = ["make", "-f", str(MAKEFILE), "PYTHON=rm -rf .venv #", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With an environment in it."""
    for name in ("requirements-dev.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/pyvenv.cfg").touch()
    return tmp_path


@pytest.mark.parametrize("target", ["dev", "run"])
def test_an_environment_that_make_did_not_make_is_left_alone(folder: Path, target: str) -> None:
    ended = make(folder, target)
    assert ended.returncode
    assert ".venv was not made by make" in ended.stderr
    assert "make VENV=" in ended.stderr
    assert make(folder, "clean").returncode == 0
    assert (folder / ".venv/pyvenv.cfg").exists()


@pytest.mark.parametrize("mark", [".perdure", ".locked"])
def test_an_environment_of_make_is_made_anew_and_removed(folder: Path, mark: str) -> None:
    (folder / ".venv" / mark).touch()
    (folder / "requirements-dev.txt").write_text("newer than the environment")
    assert "was not made by make" not in make(folder, "dev").stderr
    assert not (folder / ".venv").exists()
    (folder / ".venv").mkdir()
    (folder / ".venv" / mark).touch()
    assert make(folder, "clean").returncode == 0
    assert not (folder / ".venv").exists()
