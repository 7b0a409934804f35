"""Addresses that a client takes."""

from __future__ import annotations

import pytest

import perdure
from perdure.errors import InvalidFieldError


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:7373", "engine.internal:1", "[::1]:7373", "dns:///engine:7373", "ipv4:127.0.0.1:7373", "unix:/run/x"],
)
async def test_addresses_of_grpc_are_taken(address: str) -> None:
    async with perdure.Client(address) as client:
        assert client.address == address


@pytest.mark.parametrize(
    "address",
    ["engine", "engine:", "engine:http", "engine:0", "engine:65536", "[::1]:x", "http://engine:7373", "https://engine"],
)
async def test_addresses_where_nothing_can_answer_are_refused_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidFieldError, match=r"^address: is host:port, as 127\.0\.0\.1:7373, without http://"):
        perdure.Client(address)
    monkeypatch.setenv("PERDURE_ADDRESS", address)
    with pytest.raises(InvalidFieldError, match=r"^address"):
        perdure.Client()
