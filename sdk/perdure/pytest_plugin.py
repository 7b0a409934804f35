"""The pytest fixtures of `perdure.testing`. Every pytest session loads this file, so it loads no server parts.

The fixtures are asynchronous and need pytest-asyncio; with any other framework, use
`async with perdure.testing.engine()` in the test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.testing import Engine

try:
    fixture: Any = import_module("pytest_asyncio").fixture  # needed in its strict mode
except ImportError:
    fixture = pytest.fixture


@fixture  # type: ignore[untyped-decorator]
async def perdure_engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """A `perdure.testing.Engine` of this test's own, which skips time while a client waits.

    `@pytest.mark.perdure(time="flow", threads=1)` on the test passes arguments to `perdure.testing.engine`.
    """
    from perdure.testing import engine

    marker = request.node.get_closest_marker("perdure")
    async with engine(**(marker.kwargs if marker is not None else {})) as running:
        yield running


@fixture  # type: ignore[untyped-decorator]
async def perdure_client(perdure_engine: Engine) -> Client:
    """The client of `perdure_engine`."""
    return perdure_engine.client


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "perdure(time, threads): arguments of the test's perdure_engine")
