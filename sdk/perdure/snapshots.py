"""Stored packages of code: the URIs by which runtime environments name them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from perdure.model import BlobRef

SNAPSHOT: Final = "perdure-blob://"
SIZE_DIGITS_MAX: Final = 18
MODULES_GONE: Final = 77
"""The exit code of a process beside the engine whose package of modules is gone or damaged."""


def snapshot_uri(blob: BlobRef, name: str) -> str:
    """The URI of a stored package in a runtime environment. `name` is a file name, whose ending gives the format."""
    return f"{SNAPSHOT}{blob.sha256}/{blob.size}/{name}"


def snapshot_of(uri: object) -> tuple[BlobRef, str] | None:
    """The package that a snapshot URI names; None for any other value. ValueError if the URI is malformed."""
    if not isinstance(uri, str) or not uri.startswith(SNAPSHOT):
        return None
    sha256, size, name = (*uri.removeprefix(SNAPSHOT).split("/"), "", "")[:3]
    if not size.isdecimal() or len(size) > SIZE_DIGITS_MAX or not name:
        raise ValueError(f"not the URI of a stored package: {uri!r:.200}")
    return BlobRef(sha256, int(size)), name


def package_of(uri: str) -> BlobRef:
    """The package that a snapshot URI names. ValueError for any other value."""
    found = snapshot_of(uri)
    if found is None:
        raise ValueError(f"not the URI of a stored package: {uri!r:.200}")
    return found[0]


@lru_cache(1_000)
def with_modules(environment: str, uri: str) -> str:
    """The runtime environment with its modules replaced, if it has any."""
    named = json.loads(environment) if '"modules"' in environment else {}
    if "modules" not in named:
        return environment
    return json.dumps(named | {"modules": uri}, sort_keys=True, separators=(",", ":"))


def snapshots_in(environment: str) -> Iterator[BlobRef]:
    """The packages that a runtime environment names. ValueError if a URI is malformed."""
    if SNAPSHOT not in environment:
        return
    named = json.loads(environment)
    modules = named.get("py_modules")
    for uri in (named.get("working_dir"), named.get("modules"), *(modules if isinstance(modules, list) else ())):
        found = snapshot_of(uri)
        if found is not None:
            yield found[0]
