"""Runtime environments as a run keeps them: local code is packed and stored when a graph is submitted.

So a run goes on with the code it started with, on another cluster too, and after the folder has changed
or is gone. Rules of Ray's are kept: what is left out of a package, how an environment lies over that of
the job. Ray is looked at only if the program has loaded it.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from perdure.graphwire import snapshot_of, snapshot_uri
from perdure.model import BlobRef, Call, Node, Spec, TaskOptions

PACKAGE_BYTES_MAX: Final = 512 * 1024 * 1024
"""Ray's own limit for a package that it spreads over a cluster."""
EXCLUDED: Final = ".git,.venv,venv,__pycache__"
ARCHIVES: Final = (".zip", ".tar.gz", ".tgz", ".tar.xz")
KNOWN_MAX: Final = 100
_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*://")
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


class Store(Protocol):
    """Where packages go."""

    def has(self, blob: BlobRef) -> bool:
        """Whether it is there for sure; False is never wrong, only slower."""
        ...

    def put(self, data: bytes) -> BlobRef:
        """Durable when it returns."""
        ...


def is_needed(spec: Spec, base: Mapping[str, Any]) -> bool:
    """Whether `snapshot` would do anything."""
    return bool(base) or any(node.options.shape.runtime_env for node in spec.nodes)


def snapshot(spec: Spec, base: Mapping[str, Any], store: Store) -> Spec:
    """The graph with every runtime environment laid over `base`, and nothing in it that only this machine
    or this cluster has. Blocks while it packs. ValueError for what cannot be packed."""
    if not is_needed(spec, base):
        return spec
    fixed: dict[str, str] = {}
    options: dict[TaskOptions, TaskOptions] = {}

    def changed(node: Node) -> Node:
        if not isinstance(node.action, Call):
            return node
        given = node.options
        if given not in options:
            text = given.shape.runtime_env
            if text not in fixed:
                fixed[text] = _text(_fixed(merged(base, json.loads(text or "{}")), store))
            options[given] = replace(given, shape=replace(given.shape, runtime_env=fixed[text]))
        return replace(node, options=options[given])

    return Spec(tuple(changed(node) for node in spec.nodes), spec.output)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """As Ray lays the environment of a task over that of its job: field by field, variables one by one."""
    result = {**under, **over}
    installers = ("pip", "uv", "conda")
    if any(name in over for name in installers):
        for name in installers:
            if name not in over:
                result.pop(name, None)
    if under.get("env_vars") and over.get("env_vars"):
        result["env_vars"] = {**under["env_vars"], **over["env_vars"]}
    return result


def of_this_process() -> dict[str, Any]:
    """The environment that Ray gave this process, a driver's job or a worker's; {} without Ray."""
    ray: Any = sys.modules.get("ray")
    if ray is None or not hasattr(ray, "is_initialized") or not ray.is_initialized():
        return {}
    given = dict(ray.get_runtime_context().runtime_env)
    return {name: value for name, value in given.items() if value and not name.startswith("_")}


def _text(environment: Mapping[str, Any]) -> str:
    return json.dumps(environment, sort_keys=True, separators=(",", ":")) if environment else ""


# ------------------------------------------------------------------------------ what is fixed


def _fixed(environment: dict[str, Any], store: Store) -> dict[str, Any]:
    excludes = environment.pop("excludes", None) or []
    if (folder := environment.get("working_dir")) is not None:
        usual = os.environ.get("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", EXCLUDED)
        default = [name.strip() for name in usual.split(",") if name.strip()]
        environment["working_dir"] = _package("working_dir", str(folder), [*default, *excludes], store)
    if (modules := environment.get("py_modules")) is not None:
        environment["py_modules"] = [_package("py_modules", str(module), excludes, store) for module in modules]
    for installer in ("pip", "uv"):
        if isinstance(environment.get(installer), str):
            environment[installer] = _requirements(installer, environment[installer])
    return environment


def _requirements(installer: str, file: str) -> list[str]:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError as error:
        raise ValueError(f"runtime_env: {installer}={file!r} cannot be read: {error}") from error
    return [text for line in lines if (text := line.strip())]


_known: OrderedDict[object, tuple[BlobRef, str]] = OrderedDict()
"""What was stored before: by the URI of a package of Ray's, or by a place and what is there."""


def _package(field: str, place: str, excludes: list[str], store: Store) -> str:
    """The URI under which workers of any cluster find it."""
    if place.startswith("gcs://"):
        return _kept(place, store, lambda: (_of_cluster(place), place.removeprefix("gcs://")))
    if _URI.match(place):
        snapshot_of(place)
        return place
    path = Path(place).absolute()
    if path.is_dir():
        tree = _Tree(path, excludes)
        inside = path.name if field == "py_modules" else ""
        key = (str(path), inside, tree.fingerprint())
        return _kept(key, store, lambda: (tree.packed(inside), "package.zip"))
    if field == "py_modules" and path.suffix == ".py" and path.is_file():
        tree = _Tree(path.parent, ["*", f"!/{path.name}"])
        return _kept((str(path), tree.fingerprint()), store, lambda: (tree.packed(""), "package.zip"))
    endings = (*ARCHIVES, ".whl") if field == "py_modules" else ARCHIVES
    if path.is_file() and path.name.endswith(endings):
        name = (
            path.name if path.suffix == ".whl" else "package" + next(end for end in endings if path.name.endswith(end))
        )
        return _kept(None, store, lambda: (_limited(path.read_bytes(), path), name))
    raise ValueError(f"runtime_env: {field}={place!r} is neither a folder nor an archive ({', '.join(endings)})")


def _kept(key: object, store: Store, read: Callable[[], tuple[bytes, str]]) -> str:
    found = _known.get(key) if key is not None else None
    if found is None or not store.has(found[0]):
        data, name = read()
        found = (store.put(data), name)
        if key is not None:
            _known[key] = found
            if len(_known) > KNOWN_MAX:
                _known.popitem(last=False)
    return snapshot_uri(*found)


def _of_cluster(uri: str) -> bytes:
    """A package that Ray spread over its cluster, from there."""
    kv: Any = sys.modules.get("ray.experimental.internal_kv")
    data = kv._internal_kv_get(uri) if kv is not None else None
    if data is None:
        raise ValueError(f"runtime_env: the package {uri} is not in this Ray cluster")
    return bytes(data)


def _limited(data: bytes, path: Path) -> bytes:
    if len(data) > PACKAGE_BYTES_MAX:
        raise ValueError(
            f"runtime_env: {path} has {len(data):,} bytes packed, at most {PACKAGE_BYTES_MAX:,}; leave files out with "
            "'excludes', .gitignore or .rayignore, or name a remote archive"
        )
    return data


# ------------------------------------------------------------------------------ folders


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
    """Without a slash it applies at every depth, with one from the folder on. A folder covers what is in it."""
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


class _Tree:
    """A folder and what of it goes into a package, in an order that is always the same."""

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

    def fingerprint(self) -> tuple[tuple[str, int, int, int], ...]:
        """Changes when a file does."""
        states = ((path, os.stat(path)) for path in self._paths)
        return tuple((path, state.st_size, state.st_mtime_ns, state.st_mode) for path, state in states)

    def packed(self, inside: str) -> bytes:
        """As a zip whose bytes depend on names, contents and permissions alone. `inside`: a folder around all."""
        with tempfile.TemporaryFile() as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for path in self._paths:
                    self._add(archive, path, inside)
                    if file.tell() > PACKAGE_BYTES_MAX:
                        break
            size = file.tell()
            if size > PACKAGE_BYTES_MAX:
                raise ValueError(
                    f"runtime_env: {self._root} has more than {PACKAGE_BYTES_MAX:,} bytes packed; leave files out with "
                    "'excludes', .gitignore or .rayignore, or name a remote archive"
                )
            file.seek(0)
            return file.read()

    def _add(self, archive: zipfile.ZipFile, path: str, inside: str) -> None:
        name = os.path.join(inside, os.path.relpath(path, self._root))
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
