"""The hash that names a blob."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def sha256_of(views: Iterable[memoryview]) -> str:
    """The hash of the concatenated pieces."""
    digest = hashlib.sha256()
    for view in views:
        digest.update(view)
    return digest.hexdigest()
