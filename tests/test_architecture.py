"""The import table of ARCHITECTURE.md, held to by reading the code."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import architecture
from architecture import (
    EXCEPTIONS,
    GRPC_PLACES,
    MACHINE_ROOM,
    NOBODY_IMPORTS,
    PURE,
    RAY_FOLDERS,
    RAY_ROOMS,
    ROOMS,
    SERVICE_LAYERS,
    STORAGE_LAYERS,
)

ROOT = Path(__file__).parent.parent


def sources() -> list[tuple[str, Path]]:
    """Every module of ours with its place below `perdure/`."""
    found = []
    for root in ("sdk", "service", "storage"):
        for path in sorted((ROOT / root / "perdure").rglob("*.py")):
            place = path.relative_to(ROOT / root / "perdure").as_posix()
            if not place.startswith("v1/") and place != "__init__.py":
                found.append((place, path))
    return found


def room_of(place: str) -> str:
    return place.split("/")[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Full names of what a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" if module == "perdure" else module for alias in node.names)


PLACES = sources()


@pytest.mark.parametrize(("place", "path"), PLACES, ids=[place for place, _ in PLACES])
def test_rooms_import_only_what_they_may(place: str, path: Path) -> None:
    room = room_of(place)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "perdure" and rest:
            target = rest.split(".")[0]
            if room in NOBODY_IMPORTS:
                continue
            assert target not in NOBODY_IMPORTS, f"{place} imports {name}"
            allowed = ROOMS[room] | EXCEPTIONS.get(place, set()) | {room}
            assert target in allowed, f"{place} may not import {name}"
        elif top == "ray":
            assert place in RAY_ROOMS or place.startswith(RAY_FOLDERS), f"{place} may not import ray"
        elif room in PURE:
            assert top in PURE[room], f"{place} must stay pure, not import {name}"


SERVICE = [(place.removeprefix("service/"), path) for place, path in PLACES if place.startswith("service/")]


def layer_of(room: str) -> int:
    """The root is above all."""
    return next((number for number, rooms in enumerate(SERVICE_LAYERS) if room in rooms), len(SERVICE_LAYERS))


@pytest.mark.parametrize(("place", "path"), SERVICE, ids=[place for place, _ in SERVICE])
def test_rooms_of_the_service_import_only_lower_ones(place: str, path: Path) -> None:
    room = place.split("/")[0]
    for name in imports(path):
        target = name.removeprefix("perdure.service.").split(".")[0]
        if not name.startswith("perdure.service.") or target == room:
            continue
        assert layer_of(target) < layer_of(room) or "/" not in place, f"{place} may not import {name}"


@pytest.mark.parametrize(("place", "path"), SERVICE, ids=[place for place, _ in SERVICE])
def test_grpc_is_imported_by_rpc_and_the_root_alone(place: str, path: Path) -> None:
    if not place.startswith(GRPC_PLACES):
        assert not {name for name in imports(path) if name.startswith("grpc")}, f"{place} may not import grpc"


@pytest.mark.parametrize(("place", "path"), PLACES, ids=[place for place, _ in PLACES])
def test_only_the_room_of_machines_knows_a_machine(place: str, path: Path) -> None:
    """All others know the protocol in `engine/machine.py`, so a new kind of run changes none of them."""
    if place.startswith(("engine/", MACHINE_ROOM)):
        return
    engine = ROOT / "service/perdure/engine"
    for file in files_imported(path):
        assert not file.is_relative_to(engine) or file.parent == engine, f"{place} may not import {file.name}"


@pytest.mark.parametrize(("place", "path"), SERVICE, ids=[place for place, _ in SERVICE])
def test_rooms_that_know_runs_do_not_know_graphs(place: str, path: Path) -> None:
    if place.startswith(("executors/", "runs/", "operations/", "queue/", "fleet/", "housekeeping/")):
        names = {name for node in ast.walk(ast.parse(path.read_text())) for name in _names_in(node)}
        assert not names & {"Spec", "SpecNode", "Graphs", "GRAPHS", "machines.graphs", "graphwire"}, place


def _names_in(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.ImportFrom(module=str(module), names=aliases):
            yield module.removeprefix("perdure.service.")
            yield from (alias.name for alias in aliases)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            yield name


def test_the_page_lists_the_rooms_of_the_service() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    part = page[page.index("service/perdure/service/  ") : page.index("storage/perdure/storage/  ")]
    listed = re.findall(r"^  (\w+)/ ", part, re.MULTILINE)
    there = {place.split("/")[0] for place, _ in SERVICE if "/" in place}
    assert there == set().union(*SERVICE_LAYERS) == set(listed)


STORAGE = [
    (place.removeprefix("storage/"), path)
    for place, path in PLACES
    if place.startswith("storage/") and place != "storage/__init__.py" and not place.startswith("storage/migrations/")
]


def test_every_part_of_storage_stands_in_one_layer() -> None:
    there = sorted({room_of(place) for place, _ in STORAGE})
    assert there == sorted(room for rooms in STORAGE_LAYERS for room in rooms)


@pytest.mark.parametrize(("place", "path"), STORAGE, ids=[place for place, _ in STORAGE])
def test_parts_of_storage_import_only_lower_ones(place: str, path: Path) -> None:
    layers = {room: number for number, rooms in enumerate(STORAGE_LAYERS) for room in rooms}
    room = room_of(place)
    for file in files_imported(path):
        if file.is_relative_to(ROOT / "storage/perdure/storage"):
            target = room_of(file.relative_to(ROOT / "storage/perdure/storage").as_posix())
            assert target == room or layers[target] < layers[room], f"{place} may not import {target}"


def files_imported(path: Path) -> Iterator[Path]:
    """Our own files that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            for place in (parts, parts[:-1]):  # a module, or a name in one
                stems = [ROOT.joinpath(root, *place) for root in ("sdk", "service", "storage")]
                files = [file for stem in stems for file in (stem.with_suffix(".py"), stem / "__init__.py")]
                found = [file for file in files if file.is_file() and len(place) > 1]
                if found:
                    yield found[0]
                    break


@pytest.mark.parametrize("root", ["sdk", "service", "storage"])
def test_files_import_each_other_without_circles(root: str) -> None:
    """Imports inside functions are imports as well."""
    waiting = {path: set(files_imported(path)) - {path} for path in (ROOT / root).rglob("*.py")}
    while True:
        needed = set[Path]().union(*waiting.values())
        circular = {path: needs & waiting.keys() for path, needs in waiting.items() if needs & waiting.keys()}
        circular = {path: needs for path, needs in circular.items() if path in needed}
        if circular == waiting:
            break
        waiting = circular
    assert not waiting, sorted(path.relative_to(ROOT).as_posix() for path in waiting)


def test_only_the_connection_module_opens_channels() -> None:
    openers = set()
    for place, path in PLACES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = {getattr(node, "id", ""), getattr(node, "attr", ""), getattr(node, "name", "")}
            if names & {"insecure_channel", "secure_channel"}:
                openers.add(place)
    assert openers == {"connection.py"}


def test_only_the_composition_root_asks_whether_there_are_other_engines() -> None:
    """Other parts get the implementation of a port that fits."""
    askers = set()
    for place, path in SERVICE:
        for node in ast.walk(ast.parse(path.read_text())):
            names = {getattr(node, "id", ""), getattr(node, "attr", ""), getattr(node, "name", "")}
            if names & {"is_shared", "is_alone"}:
                askers.add(place)
    assert askers == {"kernel.py"}


@pytest.mark.parametrize(("place", "path"), SERVICE, ids=[place for place, _ in SERVICE])
def test_parts_of_the_service_set_no_attribute_of_another_part(place: str, path: Path) -> None:
    """A part gets its dependencies by its constructor or by `start`. The pool's parts share a `State`."""
    if place.startswith("executors/pool/"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(attr=attr, ctx=ast.Store(), value=ast.Attribute(value=ast.Name(id="self"))):
                raise AssertionError(f"{place}:{node.lineno} sets {attr}")


@pytest.mark.parametrize(("place", "path"), PLACES, ids=[place for place, _ in PLACES])
def test_files_say_what_they_are_for(place: str, path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{place} has no docstring"


def test_the_client_needs_no_ray_and_no_server() -> None:
    import subprocess

    code = (
        "import sys, perdure; names = 'ray perdure.workflow perdure.service perdure.worker perdure.storage click';"
        "bad = set(names.split()) & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_names_a_machine() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/|\bpypi\.org|registry\.npmjs")
    for folder in ("sdk", "service", "storage", "examples", "tools", "benchmarks", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".proto", ".sql"):
                assert not pattern.search(path.read_text()), path


def test_the_page_has_what_is_made_of_the_data() -> None:
    assert architecture.PAGE.read_text() == architecture.renewed(architecture.PAGE.read_text()), "run make fmt"
