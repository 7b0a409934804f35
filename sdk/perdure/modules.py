"""The program's own modules: finds those that a graph needs, and packs them to travel with it.

A module is the program's own if it is neither installed nor part of Python, and was found in a folder: beside the
script, in the working directory, on PYTHONPATH, or in the source folder of an editable installation. A package travels
as its whole top folder. The modules that travel are those that the functions and arguments of the graph refer to, and
all that these import, wherever the import stands.
"""

from __future__ import annotations

import dis
import importlib.util
import os
import re
import site
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import all_suffixes
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, Final

import cloudpickle  # type: ignore[import-untyped]

from perdure import codec, folders, functions
from perdure.bounded import SharedBounded
from perdure.folders import Fingerprint, Tree

VARIABLE: Final = "PERDURE_MODULES"
BYTES_MAX: Final = 64 * 1024 * 1024
"""The largest packed package. More than this is data, which does not belong into a graph."""
FILES_MAX: Final = 20_000
SOURCE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Larger sources are generated, and their imports are not read."""
NEVER: Final = frozenset({"__main__", "__mp_main__", "perdure", "ray", "cloudpickle", "grpc", "google"})
"""Top-level names that workers have by themselves. The program's `__main__` travels by value."""
KNOWN_MAX: Final = 100
LOOKS_SHARE: Final = 20
"""Checks for changed files take at most this part of the time (a 20th)."""
LEFT_OUT: Final = ("__pycache__/", "*.py[cod]", ".*", "venv/", "node_modules/")
_IMPORT: Final = re.compile(r"^[ \t]*(?:from[ \t]+(\w+)[\w.]*[ \t]+import\b|import[ \t]+(.+))", re.MULTILINE)
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})


def are_wanted() -> bool:
    """Whether modules travel with the graphs of this process: unless PERDURE_MODULES is off."""
    return os.environ.get(VARIABLE, "").strip().lower() not in ("0", "off", "no", "false")


# ------------------------------------------------------------------------------ what pickles refer to


@contextmanager
def noted(names: set[str]) -> Iterator[None]:
    """While functions and arguments are encoded, note the top-level names of the modules that they refer to."""

    def note(value: object, reduced: Any) -> None:
        if reduced is not NotImplemented:  # by value: its code may import more
            if isinstance(value, FunctionType):
                names.update(_imported_in(value))
        elif isinstance(value, ModuleType):
            if value.__name__ not in cloudpickle.list_registry_pickle_by_value():
                names.add(_top(value.__name__))
        elif isinstance(value, (type, FunctionType, BuiltinFunctionType)) or functions.imported_name(value):
            module = getattr(value, "__module__", None)
            if isinstance(module, str):
                names.add(_top(module))

    with codec.watched(note):
        yield


def _imported_in(function: FunctionType) -> set[str]:
    names = set(_imports_of(function.__code__))
    if "" in names and (package := function.__globals__.get("__package__")):
        names.add(_top(package))
    return names - {""}


@lru_cache(1_000)
def _imports_of(code: CodeType) -> frozenset[str]:
    """Top-level names, and "" for relative imports."""
    found, level = set(), 0
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            found.add("" if level else _top(str(step.argval)))
        if step.opname.startswith("LOAD_") and isinstance(step.argval, int):  # the level, then the names, then this
            level = step.argval
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset(found.union(*map(_imports_of, inner)))


def _top(name: str) -> str:
    return name.partition(".")[0]


# ------------------------------------------------------------------------------ which are the program's own


def own(names: Iterable[str]) -> list[str]:
    """The names of these that are the program's own modules, sorted."""
    return sorted(name for name in set(names) if places_of(name))


def places_of(name: str) -> list[Path]:
    """The file of one of the program's own modules, or the folders of a package; none for other modules. Nothing is
    imported."""
    if name in NEVER or name in sys.stdlib_module_names or not name.isidentifier():
        return []
    spec = getattr(sys.modules.get(name), "__spec__", None)
    known = _places.get(name)
    if known is None or spec is None or known[0] is not spec or not all(map(os.path.exists, known[1])):
        known = _places[name] = (spec, [path for path in _found(name) if _is_own(path)])
    return known[1]


_places: Final[dict[str, tuple[object, list[Path]]]] = {}
"""A cache by the name of a module: the spec by which it was loaded, and its places."""


def _found(name: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # loaded in an unusual way, without a spec
        file = getattr(sys.modules.get(name), "__file__", None)
        return [Path(file)] if file else []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(place) for place in spec.submodule_search_locations if os.path.isdir(place)]
    is_file = spec.has_location and spec.origin is not None and os.path.isfile(spec.origin)
    return [Path(spec.origin)] if is_file and spec.origin else []


@lru_cache(10_000)
def _is_own(path: Path) -> bool:
    path = path.absolute()
    if not _INSTALLED.isdisjoint(path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in _folders_of_python())


@lru_cache(1)
def _folders_of_python() -> tuple[Path, ...]:
    named = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    named += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple(Path(folder) for folder in dict.fromkeys(named) if folder)


# ------------------------------------------------------------------------------ the package


@dataclass(frozen=True, slots=True)
class Package:
    """Files with their names in the package, and the fingerprints of the files and of the folders around them."""

    entries: tuple[tuple[str, str], ...]
    fingerprint: Fingerprint
    around: Fingerprint

    @property
    def is_unchanged(self) -> bool:
        """Whether no file was changed, added or removed."""
        try:
            now = folders.fingerprint(file[0] for file in self.around) == self.around
            return now and folders.fingerprint(file[0] for file in self.fingerprint) == self.fingerprint
        except OSError:
            return False

    def packed(self) -> bytes:
        """The packed bytes. ValueError if they are too many."""
        data = folders.packed(self.entries, BYTES_MAX)
        if data is None:
            largest = sorted(self.fingerprint, key=lambda file: -file[1])[:3]
            those = ", ".join(f"{path} ({size:,} bytes)" for path, size, _, _ in largest)
            raise ValueError(
                f"the modules of the graph have more than {BYTES_MAX:,} bytes packed; the largest files are {those}. "
                f"{_ADVICE}"
            )
        return data


_ADVICE: Final = (
    "Leave files out with a .gitignore or .rayignore in the package's folder, name a working_dir in the runtime_env, "
    f"or turn this off with {VARIABLE}=off"
)


@dataclass(slots=True)
class _Known:
    """A package, the time of the last check for changed files, and how long that check took."""

    package: Package
    looked_s: float
    took_s: float


_known: Final = SharedBounded[tuple[str, ...], _Known](KNOWN_MAX)


def known_package(names: Sequence[str]) -> Package | None:
    """The last result of `package_of`, if no file has changed since. Files of a large package are checked less often,
    so that checks take a small share of the time."""
    known = _known.get(tuple(names))
    if known is None:
        return None
    now_s = time.monotonic()
    if now_s - known.looked_s < known.took_s * LOOKS_SHARE:
        return known.package
    if not known.package.is_unchanged:
        return None
    known.looked_s, known.took_s = time.monotonic(), time.monotonic() - now_s
    return known.package


def package_of(names: Sequence[str]) -> Package:
    """A package of these modules and all of the program's own that they import. ValueError if they have too many
    files."""
    package = known_package(names)
    if package is None:
        package = _package_of(names)
        _known.keep(tuple(names), _Known(package, time.monotonic(), 0.0))
    return package


def _package_of(names: Sequence[str]) -> Package:
    for name in names:
        if not places_of(name):
            raise ValueError(f"runtime_env: the module {name!r} is not one of the program's own that could travel")
    entries: dict[str, str] = {}
    waiting, seen = sorted(names), set(names)
    for name in waiting:  # grows while it is walked
        sources = []
        for path, inside in _entries_of(name):
            if entries.setdefault(path, inside) == inside and path.endswith(".py"):
                sources.append(path)
        if len(entries) > FILES_MAX:
            raise ValueError(
                f"the modules of the graph are more than {FILES_MAX:,} files, {name!r} with them. {_ADVICE}"
            )
        more = {imported for source in sources for imported in _imports_of_file(source)} - seen
        waiting += sorted(other for other in more if places_of(other))
        seen |= more
    ordered = tuple(sorted(entries.items(), key=lambda entry: entry[1]))
    around = sorted({os.path.dirname(path) for path, inside in ordered if os.path.dirname(inside)})
    return Package(ordered, folders.fingerprint(path for path, _ in ordered), folders.fingerprint(around))


def _entries_of(name: str) -> Iterator[tuple[str, str]]:
    for place in places_of(name):
        if place.is_dir():
            yield from Tree(place, list(LEFT_OUT)).entries(name)
        else:
            suffix = next((ending for ending in all_suffixes() if place.name.endswith(ending)), place.suffix)
            yield str(place), f"{name}{suffix}"


_read: Final = SharedBounded[str, tuple[int, int, frozenset[str]]](FILES_MAX)
"""By the path of a source: its size, its time of change, and the top-level names that it imports."""


def _imports_of_file(path: str) -> frozenset[str]:
    try:
        state = os.stat(path)
        known = _read.get(path)
        if known is not None and known[:2] == (state.st_size, state.st_mtime_ns):
            return known[2]
        if state.st_size > SOURCE_BYTES_MAX:
            return frozenset()
        text = Path(path).read_text("utf-8", "replace")
    except OSError:
        return frozenset()
    names = frozenset(_names_in(text))
    _read.keep(path, (state.st_size, state.st_mtime_ns, names))
    return names


def _names_in(text: str) -> Iterator[str]:
    """The names in import statements. Lines in string literals that look like imports are harmless: they only add
    names."""
    for line in _IMPORT.finditer(text):
        if line[1]:
            yield line[1]
            continue
        for part in line[2].partition("#")[0].split(","):
            name = _top(part.strip().partition(" ")[0])
            if name.isidentifier():
                yield name
