"""Checks README.md: its program runs, and the commands that it names exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from perdure.cli.root import root
from services import Service, running

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, "--executor", "local")
    with running(service):
        service.up()
        yield service


def programs() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every `perdure ...` in an indented block or between backquotes."""
    lines = re.findall(r"^ {4}(perdure .*)$", README, re.MULTILINE) + re.findall(r"`(perdure [^`]*)`", README)
    return [line.split()[1:] for line in lines]


def test_the_program_runs_and_may_be_run_again(service: Service, tmp_path: Path) -> None:
    (program,) = programs()
    written = [line for line in program.splitlines() if line.strip()]
    assert 15 <= len(written) <= 25, "it is to be about twenty lines"
    (tmp_path / "order.py").write_text(program)
    environment = os.environ | {"PERDURE_ADDRESS": service.address}
    first, second = (
        subprocess.run([sys.executable, "order.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        for _ in range(2)
    )
    for ended in (first, second):
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "charged 80\n", "")


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_shown_is_in_the_help(words: list[str]) -> None:
    found: click.Command = root
    while words and isinstance(found, click.Group) and not words[0].startswith("-"):
        assert words[0] in found.commands, f"there is no command {words[0]!r}"
        found, words = found.commands[words[0]], words[1:]
    context = click.Context(found, help_option_names=["-h", "--help"])
    known = {flag for parameter in found.get_params(context) for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known


def test_the_readme_shows_commands() -> None:
    assert ["serve"] in commands()
    assert len(programs()) == 1


def test_the_targets_of_make_that_are_named_exist() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    named = {name for page in pages for name in re.findall(r"`make ([a-z-]+)", page.read_text())}
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert "run" in named
    assert named <= targets


def test_the_pages_that_are_linked_exist() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (ROOT / link).exists(), f"{page.name} links to {link}"


def test_the_versions_that_are_named_are_those_of_the_package() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for name, floor in (("Python", r'requires-python = ">=([\d.]+)"'), ("Ray", r'"ray>=([\d.]+)')):
        (version,) = re.findall(floor, project)
        assert f"{name} {version} or newer" in README


def test_the_readme_warns_of_an_open_port() -> None:
    assert "no authentication and no encryption" in README


def test_the_extras_that_are_named_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"perdure\[([a-z]+)\]", README):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), f"there is no extra {extra}"
