"""Every store has every port, and no part of the service sees a store whole."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from pathlib import Path
from typing import Generic, Protocol

import pytest

from perdure.storage import ports
from perdure.storage.blobs.cached import CachedBlobStore
from perdure.storage.blobs.filesystem import FilesystemBlobStore
from perdure.storage.blobs.memory import MemoryBlobStore
from perdure.storage.blobs.s3 import S3BlobStore
from perdure.storage.memory.store import MemoryMetadataStore
from perdure.storage.ports import BlobStore, MetadataStore
from perdure.storage.postgres.store import PostgresMetadataStore
from perdure.storage.sqlite.store import SqliteMetadataStore

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "service/perdure/service"
METADATA_PORTS = [port for port in MetadataStore.__mro__ if port not in (Protocol, Generic, object)]
METADATA_STORES: list[type[MetadataStore]] = [MemoryMetadataStore, SqliteMetadataStore, PostgresMetadataStore]
BLOB_STORES: list[type[BlobStore]] = [MemoryBlobStore, FilesystemBlobStore, S3BlobStore, CachedBlobStore]


def methods_of(port: type) -> dict[str, object]:
    """Its own, not those that it has from other ports."""
    return {name: value for name, value in vars(port).items() if not name.startswith("_")}


@pytest.mark.parametrize("store", METADATA_STORES)
@pytest.mark.parametrize("port", METADATA_PORTS)
def test_every_store_has_every_port(store: type, port: type) -> None:
    assert methods_of(port)
    check(store, port)


@pytest.mark.parametrize("store", BLOB_STORES)
def test_every_store_of_blobs_has_the_port(store: type) -> None:
    check(store, BlobStore)


def check(store: type, port: type) -> None:
    for name, promised in methods_of(port).items():
        if isinstance(promised, property):
            assert name in vars(store) or name in inspect.getsource(store.__init__), f"{store.__name__}.{name}"
            continue
        made = getattr(store, name)
        assert inspect.iscoroutinefunction(made) == inspect.iscoroutinefunction(promised), name
        assert shape(made) == shape(promised), f"{store.__name__}.{name}"


def shape(method: object) -> list[tuple[str, object, object]]:
    """Names, kinds and defaults of the parameters."""
    assert callable(method)
    return [(each.name, each.kind, each.default) for each in inspect.signature(method).parameters.values()]


def test_every_method_is_in_one_port() -> None:
    counts = Counter(name for port in METADATA_PORTS for name in methods_of(port))
    assert set(counts.values()) == {1}, counts


def test_ports_are_small() -> None:
    for port in METADATA_PORTS:
        assert len(methods_of(port)) <= 8, port


def test_the_front_door_names_every_port() -> None:
    assert {port.__name__ for port in METADATA_PORTS} <= set(ports.__all__)


def test_only_the_root_of_the_service_sees_a_store_whole() -> None:
    """Each part takes the ports that it needs, so its constructor says what it may touch."""
    seers = {
        path.relative_to(SERVICE).as_posix()
        for path in SERVICE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if "MetadataStore" in (getattr(node, "id", ""), getattr(node, "attr", ""))
    }
    assert seers == {"app.py", "kernel.py"}
