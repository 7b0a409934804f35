"""URLs of stores, without opening the store: their kind, and how to show them."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

POSTGRES: Final = frozenset({"postgresql", "postgres"})


def shown(url: str) -> str:
    """The URL for logs and errors, without password and options."""
    parts = urlsplit(url)
    if parts.scheme not in POSTGRES:
        return url
    user, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"
