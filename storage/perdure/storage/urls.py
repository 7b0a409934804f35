"""Creates the store that a URL names. A bare path is a folder with everything in it."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from perdure.storage.addresses import POSTGRES, shown
from perdure.storage.ports import BlobStore, MetadataStore

S3_OPTIONS: Final = frozenset({"endpoint", "region", "cache", "cache_bytes"})
DATABASE: Final = "perdure.db"
BLOBS: Final = "blobs"


def metadata_store(url: str) -> MetadataStore:
    """`sqlite:///relative.db`, `sqlite:////absolute.db` (`?max_bytes=`), `memory:`, a folder, or
    `postgresql://user:password@host:port/database` with the options of libpq (`?sslmode=`)."""
    parts = urlsplit(url)
    if parts.scheme in POSTGRES:
        try:
            from perdure.storage.postgres.store import PostgresMetadataStore
        except ModuleNotFoundError as error:
            raise ValueError(f"PostgreSQL needs more packages: pip install 'perdure[server]' ({error})") from error
        return PostgresMetadataStore(url)
    if parts.scheme == "memory":
        from perdure.storage.memory.store import MemoryMetadataStore

        return MemoryMetadataStore()
    from perdure.storage.sqlite.store import SqliteMetadataStore

    if parts.scheme == "sqlite":
        options = parse_qs(parts.query, strict_parsing=bool(parts.query))
        if unknown := options.keys() - {"max_bytes"}:
            raise ValueError(f"{url}: unknown option {sorted(unknown)[0]!r}; sqlite has max_bytes")
        max_bytes = int(options["max_bytes"][0]) if "max_bytes" in options else None
        return SqliteMetadataStore(_path(url), max_bytes=max_bytes)
    return SqliteMetadataStore(_folder(url) / DATABASE)


def blob_store(url: str) -> BlobStore:
    """`file:///absolute/folder`, `memory:`, `s3://bucket/prefix`, or a folder, in which blobs are in the subfolder
    `blobs`.

    S3 has the options `?endpoint=http://host:port`, `region=`, `cache=` (the folder of this machine's cache, or off)
    and `cache_bytes=`. Credentials come from the environment, never from the URL.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        from perdure.storage.blobs.memory import MemoryBlobStore

        return MemoryBlobStore()
    if parts.scheme == "s3":
        return _s3(url)
    from perdure.storage.blobs.filesystem import FilesystemBlobStore

    return FilesystemBlobStore(_blob_folder(url))


def blob_folder(url: str) -> Path | None:
    """The folder of blobs that are files; None for those that are not."""
    return None if urlsplit(url).scheme in ("memory", "s3") else _blob_folder(url)


def database_path(url: str) -> Path:
    """The file of an embedded database."""
    return _path(url) if urlsplit(url).scheme == "sqlite" else _folder(url) / DATABASE


def default_blobs(storage: str) -> str:
    """Where blobs go if only the storage is given: beside the database, as an absolute URL."""
    parts = urlsplit(storage)
    if parts.scheme == "memory":
        return "memory:"
    if parts.scheme in POSTGRES:
        raise ValueError("several engines share a database, so say where large values are kept: --blobs s3://bucket")
    folder = _path(storage).parent if parts.scheme == "sqlite" else _folder(storage)
    return (folder.absolute() / BLOBS).as_uri()


def _blob_folder(url: str) -> Path:
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else _folder(url) / BLOBS


def _s3(url: str) -> BlobStore:
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
    if unknown := options.keys() - S3_OPTIONS:
        raise ValueError(f"{url}: unknown option {sorted(unknown)[0]!r}; s3 has {', '.join(sorted(S3_OPTIONS))}")
    if not parts.netloc or "@" in parts.netloc:
        raise ValueError(f"{url}: expected s3://bucket/prefix; credentials belong in the environment")
    try:
        from perdure.storage.blobs.s3 import S3BlobStore
        from perdure.storage.blobs.s3_client import Endpoint
    except ModuleNotFoundError as error:
        raise ValueError(f"blobs on S3 need more packages: pip install 'perdure[s3]' ({error})") from error
    from perdure.storage.blobs.cached import BYTES, CachedBlobStore, default_folder

    endpoint = Endpoint(options.get("endpoint", ""), options.get("region", ""))
    far = S3BlobStore(parts.netloc, unquote(parts.path), endpoint)
    if options.get("cache") == "off":
        return far
    max_bytes = int(options.get("cache_bytes", BYTES))
    return CachedBlobStore(far, options.get("cache") or default_folder(), max_bytes)


def _path(url: str) -> Path:
    """The path of `scheme:///path`: relative after three slashes, absolute after four."""
    parts = urlsplit(url)
    if parts.netloc or len(parts.path) < 2:
        raise ValueError(f"{url}: expected {parts.scheme}:///path")
    return Path(unquote(parts.path[1:]))


def _folder(url: str) -> Path:
    if "://" in url or not url:
        kinds = "a folder, sqlite:///path, postgresql://user@host/database or memory:"
        raise ValueError(f"{shown(url)!r} is no storage: use {kinds}")
    return Path(url)
