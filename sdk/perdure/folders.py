"""Packs folders: into a zip whose bytes depend on names, contents and permissions only.

Files are left out as in Ray's packages: by given patterns, and by those in .gitignore and .rayignore.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)

Fingerprint: TypeAlias = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Rules:
    """Patterns as in .gitignore, of one folder."""

    folder: str
    patterns: tuple[tuple[re.Pattern[str], bool], ...]

    def excludes(self, path: str) -> bool:
        inside = os.path.relpath(path, self.folder)
        verdict = False
        for pattern, is_excluded in self.patterns:
            if pattern.match(inside):
                verdict = is_excluded
        return verdict


def _rules(folder: str, lines: list[str]) -> _Rules:
    patterns = []
    for line in lines:
        text = line.rstrip("\n").rstrip()
        if not text or text.startswith("#"):
            continue
        is_excluded = not text.startswith("!")
        patterns.append((_pattern(text.removeprefix("!").removeprefix("\\")), is_excluded))
    return _Rules(folder, tuple(patterns))


def _pattern(text: str) -> re.Pattern[str]:
    """A pattern of .gitignore. Without a slash it applies at every depth, with one from the folder on. A folder
    includes its contents."""
    is_folder = text.endswith("/")
    text = text.rstrip("/")
    is_anchored = "/" in text
    parts = []
    for part in text.lstrip("/").split("/"):
        parts.append("(?:[^/]+/)*" if part == "**" else _part(part) + "/")
    body = "".join(parts).removesuffix("/")
    if body.endswith("(?:[^/]+/)*"):
        body = body.removesuffix("(?:[^/]+/)*") + ".+"
    end = "/.+" if is_folder else "(?:/.*)?"
    return re.compile(("" if is_anchored else "(?:.*/)?") + body + end + r"\Z", re.DOTALL)


def _part(text: str) -> str:
    out = ""
    index = 0
    while index < len(text):
        char = text[index]
        closing = text.find("]", index + 2) if char == "[" else -1
        if char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif closing > 0:
            inner = text[index + 1 : closing].replace("\\", "\\\\")
            out += "[" + ("^" + inner[1:] if inner[0] in "!^" else inner) + "]"
            index = closing
        elif char == "\\" and index + 1 < len(text):
            index += 1
            out += re.escape(text[index])
        else:
            out += re.escape(char)
        index += 1
    return out


class Tree:
    """The files of a folder that go into a package, in a stable order."""

    def __init__(self, root: Path, excludes: list[str]) -> None:
        self._root = str(root)
        self._has_gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
        given = [_rules(self._root, excludes)] if excludes else []
        self._paths = list(self._walk(self._root, given, frozenset()))

    def _walk(self, folder: str, rules: list[_Rules], above: frozenset[str]) -> Iterator[str]:
        real = os.path.realpath(folder)
        if real in above:  # a link to a folder that it is in
            return
        rules = [*rules, *self._rules_in(folder)]
        names = sorted(os.listdir(folder))
        if not names and folder != self._root:
            yield folder
        for name in names:
            path = os.path.join(folder, name)
            if any(rule.excludes(path) for rule in rules):
                continue
            if os.path.isdir(path):
                yield from self._walk(path, rules, above | {real})
            elif os.path.isfile(path):
                yield path

    def _rules_in(self, folder: str) -> Iterator[_Rules]:
        for name in (".gitignore", ".rayignore")[0 if self._has_gitignore else 1 :]:
            file = os.path.join(folder, name)
            if os.path.isfile(file):
                with open(file) as lines:
                    yield _rules(folder, lines.readlines())

    @property
    def paths(self) -> list[str]:
        """Files, and folders that are empty."""
        return self._paths

    def entries(self, inside: str = "") -> list[tuple[str, str]]:
        """Paths with their names in a package. `inside`: a folder that contains them all."""
        return [(path, os.path.join(inside, os.path.relpath(path, self._root))) for path in self._paths]


def fingerprint(paths: Iterable[str]) -> Fingerprint:
    """A value that changes when a file does. FileNotFoundError if one is gone."""
    states = ((path, os.stat(path)) for path in paths)
    return tuple((path, state.st_size, state.st_mtime_ns, state.st_mode) for path, state in states)


def packed(entries: Iterable[tuple[str, str]], bytes_max: int) -> bytes | None:
    """Paths under these names as a zip; None if it would be larger than `bytes_max`."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for path, name in entries:
                _add(archive, path, name)
                if file.tell() > bytes_max:
                    break
        if file.tell() > bytes_max:
            return None
        file.seek(0)
        return file.read()


def _add(archive: zipfile.ZipFile, path: str, name: str) -> None:
    mode = os.stat(path).st_mode
    is_folder = stat.S_ISDIR(mode)
    entry = zipfile.ZipInfo(name + "/" if is_folder else name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (stat.S_IFMT(mode) | (0o755 if mode & 0o111 else 0o644)) << 16
    if is_folder:
        archive.writestr(entry, b"")
        return
    with open(path, "rb") as source, archive.open(entry, "w") as target:
        while chunk := source.read(1024 * 1024):
            target.write(chunk)
