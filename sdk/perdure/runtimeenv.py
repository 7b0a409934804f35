"""Snapshots of runtime environments: local code is packed and stored when a graph is submitted.

So a run goes on with the code it started with, also on another cluster, and after the folder has changed or is gone.
Ray's rules say which files are left out of a package, and how an environment overrides that of the job. Ray is used
only if the program has loaded it.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

from perdure import folders, modules
from perdure.bounded import SharedBounded
from perdure.folders import Tree
from perdure.model import BlobRef, Call, Spec, SpecNode, TaskOptions
from perdure.options import with_environment
from perdure.snapshots import snapshot_of, snapshot_uri

PACKAGE_BYTES_MAX: Final = 512 * 1024 * 1024
"""Ray's own limit for a package that it distributes in a cluster."""
EXCLUDED: Final = ".git,.venv,venv,__pycache__"
ARCHIVES: Final = (".zip", ".tar.gz", ".tgz", ".tar.xz")
KNOWN_MAX: Final = 100
_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*://")


class Store(Protocol):
    """The store of packages."""

    def has(self, blob: BlobRef) -> bool:
        """Whether the blob certainly exists. False is always allowed, and costs time only."""
        ...

    def put(self, data: bytes) -> BlobRef:
        """Store a package. It is durable when this returns."""
        ...


def is_needed(spec: Spec, base: Mapping[str, Any]) -> bool:
    """Whether `snapshot` would change the graph."""
    return bool(base) or any(node.options.shape.runtime_env for node in spec.nodes)


def snapshot(spec: Spec, base: Mapping[str, Any], store: Store) -> Spec:
    """The graph with every runtime environment merged over `base`, and with stored packages instead of local code.
    Blocks while it packs. ValueError for code that cannot be packed."""
    if not is_needed(spec, base):
        return spec
    return _with_environments(spec, lambda text: _text(_fixed(merged(base, json.loads(text or "{}")), store)))


class _UnknownError(Exception):
    pass


def snapshot_known(spec: Spec, has: Callable[[BlobRef], bool]) -> Spec | None:
    """The result of `snapshot`, if environments name unchanged modules only, whose package was stored before and still
    exists by `has`, which must not block. Otherwise None. Takes little time."""

    def known(text: str) -> str:
        if not text:
            return ""
        names = _modules_alone(text)
        package = modules.known_package(names) if names else None
        found = None if package is None else _known.get(("modules", package.fingerprint))
        if found is None or not has(found[0]):
            raise _UnknownError
        return _naming_package(*found)

    try:
        return _with_environments(spec, known)
    except _UnknownError:
        return None


@lru_cache(1_000)
def _naming_package(blob: BlobRef, name: str) -> str:
    return _text({"modules": snapshot_uri(blob, name)})


@lru_cache(1_000)
def _modules_alone(text: str) -> tuple[str, ...]:
    """The modules that an environment names; () if it has other fields too."""
    environment = json.loads(text)
    named = environment.pop("modules", None)
    return tuple(named) if isinstance(named, list) and not environment else ()


def _with_environments(spec: Spec, fix: Callable[[str], str]) -> Spec:
    """The graph with each runtime environment replaced by `fix` of it, which is called once per environment."""
    fixed: dict[str, str] = {}
    options: dict[int, TaskOptions] = {}  # by id(): nodes share them, and comparing takes long

    def changed(node: SpecNode) -> SpecNode:
        if not isinstance(node.action, Call):
            return node
        given = node.options
        if id(given) not in options:
            text = given.shape.runtime_env
            if text not in fixed:
                fixed[text] = fix(text)
            options[id(given)] = with_environment(given, fixed[text])
        return SpecNode(node.id, node.action, node.after, options[id(given)])

    return Spec(tuple([changed(node) for node in spec.nodes]), spec.output, spec.callers)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two environments merged as Ray merges that of a task with that of its job: by field, and `env_vars` by
    variable."""
    if isinstance(under.get("modules"), str) and over.get("modules"):
        raise ValueError("runtime_env: a graph that a task returns has the modules of its run and can name no others")
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
    named = environment.pop("modules", None)
    if named and environment.get("working_dir") is None:  # with a working directory no modules are sent
        environment["modules"] = named if isinstance(named, str) else _modules(named, store)
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


def _modules(names: list[str], store: Store) -> str:
    package = modules.package_of(names)
    return _kept(("modules", package.fingerprint), store, lambda: (package.packed(), "modules.zip"))


def modules_again(archive: bytes | memoryview, store: Store) -> str:
    """The URI of a new package of the modules in this one, as they are on this machine now. ValueError if none is
    found."""
    with zipfile.ZipFile(io.BytesIO(archive)) as package:
        names = {name.partition("/")[0].partition(".")[0] for name in package.namelist()}
    if not (found := modules.own(names)):
        raise ValueError(f"none of the run's modules is here: {', '.join(sorted(names))}; run this beside them")
    return _modules(found, store)


def _requirements(installer: str, file: str) -> list[str]:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError as error:
        raise ValueError(f"runtime_env: {installer}={file!r} cannot be read: {error}") from error
    return [text for line in lines if (text := line.strip())]


_known: Final = SharedBounded[object, tuple[BlobRef, str]](KNOWN_MAX)
"""Packages that were stored before, by Ray's URI, or by place and fingerprint."""


def _package(field: str, place: str, excludes: list[str], store: Store) -> str:
    """The URI by which workers of any cluster find the package."""
    if place.startswith("gcs://"):
        return _kept(place, store, lambda: (_of_cluster(place), place.removeprefix("gcs://")))
    if _URI.match(place):
        snapshot_of(place)
        return place
    path = Path(place).absolute()
    if path.is_dir():
        tree = Tree(path, excludes)
        inside = path.name if field == "py_modules" else ""
        key = (str(path), inside, folders.fingerprint(tree.paths))
        return _kept(key, store, lambda: (_packed(tree, inside, path), "package.zip"))
    if field == "py_modules" and path.suffix == ".py" and path.is_file():
        tree = Tree(path.parent, ["*", f"!/{path.name}"])
        file = (str(path), folders.fingerprint(tree.paths))
        return _kept(file, store, lambda: (_packed(tree, "", path), "package.zip"))
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
            _known.keep(key, found)
    return snapshot_uri(*found)


def _of_cluster(uri: str) -> bytes:
    """The bytes of a package that Ray has stored in its cluster."""
    kv: Any = sys.modules.get("ray.experimental.internal_kv")
    data = kv._internal_kv_get(uri) if kv is not None else None
    if data is None:
        raise ValueError(f"runtime_env: the package {uri} is not in this Ray cluster")
    return bytes(data)


def _packed(tree: Tree, inside: str, path: Path) -> bytes:
    data = folders.packed(tree.entries(inside), PACKAGE_BYTES_MAX)
    if data is None:
        raise ValueError(
            f"runtime_env: {path} has more than {PACKAGE_BYTES_MAX:,} bytes packed; leave files out with "
            "'excludes', .gitignore or .rayignore, or name a remote archive"
        )
    return data


def _limited(data: bytes, path: Path) -> bytes:
    if len(data) > PACKAGE_BYTES_MAX:
        raise ValueError(
            f"runtime_env: {path} has {len(data):,} bytes packed, at most {PACKAGE_BYTES_MAX:,}; leave files out with "
            "'excludes', .gitignore or .rayignore, or name a remote archive"
        )
    return data
