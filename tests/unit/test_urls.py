"""Storage URLs as people and logs see them."""

from __future__ import annotations

import pytest

from perdure.storage.addresses import shown


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://ann:secret@db:5432/runs?sslmode=require", "postgresql://ann@db:5432/runs"),
        ("postgres://ann@db/runs", "postgres://ann@db/runs"),
        ("postgresql://db/runs?password=secret", "postgresql://db/runs"),
        ("sqlite:///runs.db?max_bytes=9", "sqlite:///runs.db?max_bytes=9"),
        ("./.perdure", "./.perdure"),
        ("memory:", "memory:"),
    ],
)
def test_a_password_is_not_shown(url: str, told: str) -> None:
    assert shown(url) == told
