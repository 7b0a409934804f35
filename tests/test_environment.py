"""The versions that `make` installs: locked, in one place, and such as pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements-dev.txt", "requirements-proto.txt")
PYTHONS = ("3.11", "3.12", "3.13")


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked(name: str) -> dict[str, Requirement]:
    """Exact versions by name."""
    text = re.sub(r"\\\n", " ", (ROOT / name).read_text())
    lines = [
        line.split(" --hash")[0].strip() for line in text.splitlines() if line and not line.lstrip().startswith("#")
    ]
    requirements = [Requirement(line) for line in lines]
    names = [canonicalize_name(requirement.name) for requirement in requirements]
    assert len(names) == len(set(names)), "one version of each, for every platform"
    return dict(zip(names, requirements, strict=True))


def wanted(extra: str) -> list[Requirement]:
    """The requirements of an extra, with those of nested extras and the common ones."""
    found: dict[str, Requirement] = {}
    declared = project()["project"]
    assert isinstance(declared, dict)
    waiting, seen = [extra], set[str]()
    lines = list(declared["dependencies"])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            for line in declared["optional-dependencies"][name]:
                requirement = Requirement(line)
                if requirement.name == "perdure":
                    waiting += requirement.extras
                else:
                    lines.append(line)
    for line in lines:
        found[line] = Requirement(line)
    return list(found.values())


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_every_extra(python: str) -> None:
    versions = locked("requirements-dev.txt")
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    for requirement in wanted("dev"):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            found = versions[canonicalize_name(requirement.name)]
            (exact,) = found.specifier
            assert exact.operator == "=="
            assert requirement.specifier.contains(exact.version, prereleases=True), f"{found} for {requirement}"
            assert found.marker is None or found.marker.evaluate(environment)


def test_the_lock_of_the_generator_is_what_pyproject_pins() -> None:
    versions = locked("requirements-proto.txt")
    groups = project()["dependency-groups"]
    assert isinstance(groups, dict)
    for line in groups["proto"]:
        requirement = Requirement(line)
        assert versions[canonicalize_name(requirement.name)].specifier == requirement.specifier


@pytest.mark.parametrize("name", LOCKS)
def test_locks_name_no_host_and_have_hashes(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)\b", text, re.MULTILINE)
    assert text.count("==") <= text.count(" \\\n    --hash=sha256:")


def test_every_dependency_has_an_oldest_version() -> None:
    for requirement in wanted("dev"):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators & {">=", "=="}, f"{requirement} allows versions that nobody has tried"
