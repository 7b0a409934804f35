"""An engine of threads for what needs no cluster: the functions of `perdure.workflow` find it by its address."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services import Service, running

_numbers = itertools.count()


@pytest.fixture(scope="session")
def threads_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("threads"), "--executor", "local", "--local-threads", "8")
    with running(service):
        service.up()
        yield service


@pytest.fixture
def engine(threads_engine: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """What the functions talk to in this test."""
    monkeypatch.setenv("PERDURE_ADDRESS", threads_engine.address)
    return threads_engine


@pytest.fixture
def fresh_id(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Ids that no other test uses."""
    return lambda: f"{request.node.name}-{next(_numbers)}"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A file that tasks append lines to."""
    return tmp_path / "journal"
