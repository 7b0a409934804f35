"""A world that fails is printed as a short one."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.service.executors.port import Attempt
from simulation.executor import FakeExecutor
from simulation.parts import Parts
from simulation.shrink import WORLDS, run_short

REPOSITORY = Path(__file__).parent.parent.parent
HOW: dict[str, Any] = {"shapes": ["chain", "fan", "waits", "sleeps", "one", "grows"], "limits": [-1, -1]}
CLIENTS = re.compile(r"waits-(\d+)")
KINDS = [("one", HOW, "death "), ("fleet", {**HOW, "more": True, "faults": 10}, "fault ")]


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a client's workflow that waits is broken as soon as an attempt of its is run by a second engine."""
    begin = FakeExecutor._begin
    engines: dict[str, set[int]] = {}

    def planted(executor: FakeExecutor, attempt: Attempt) -> None:
        seen = engines.setdefault(attempt.run_id, set())
        seen.add(id(executor._handles))
        if CLIENTS.fullmatch(attempt.workflow_id) and len(seen) > 1:
            raise AssertionError(f"{attempt.workflow_id} is broken")
        begin(executor, attempt)

    original = Parts.__init__

    def fresh(parts: Parts, *args: Any, **how: Any) -> None:
        engines.clear()
        original(parts, *args, **how)

    monkeypatch.setattr(FakeExecutor, "_begin", planted)
    monkeypatch.setattr(Parts, "__init__", fresh)


def failing_seeds(kind: str, how: dict[str, Any]) -> Iterator[int]:
    for seed in range(100):
        try:
            WORLDS[kind](seed, parts=Parts(), **how)
        except AssertionError:
            yield seed


def printed(kind: str, seed: int, how: dict[str, Any]) -> list[str]:
    with pytest.raises(AssertionError) as raised:
        run_short(kind, seed, how)
    return str(raised.value).splitlines()


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("fault")
@pytest.mark.parametrize(("kind", "how", "death"), KINDS, ids=["one engine", "several engines"])
def test_a_failing_world_is_printed_without_what_it_does_not_need(kind: str, how: dict[str, Any], death: str) -> None:
    seeds = itertools.islice(failing_seeds(kind, how), 5)  # in some worlds everything hangs together
    first, count, *parts, again = min((printed(kind, seed, how) for seed in seeds), key=len)
    broken = re.search(r"waits-(\d+) is broken$", first)
    assert broken is not None
    assert f"  client {broken[1]}: waits" in parts
    assert len(parts) <= 3, "a client, a death, and perhaps who takes over"
    assert any(part.strip().startswith(death) for part in parts)
    assert int(count.split()[4]) >= 8, "it was longer"

    command = shlex.split(again.removeprefix("again: "))
    arguments = dict(zip(command[4::2], command[5::2], strict=True))
    with pytest.raises(AssertionError, match=broken[0]):
        WORLDS[arguments["--world"]](
            int(command[3]), parts=Parts(arguments["--only"].split(", ")), **json.loads(arguments["--how"])
        )


def test_faults_stay_what_they_are_when_a_client_is_left_out() -> None:
    parts = Parts()
    WORLDS["fleet"](5, parts=parts, **HOW)
    fewer = Parts(name for name in parts.seen if not name.startswith("client 1"))
    WORLDS["fleet"](5, parts=fewer, **HOW)
    assert "client 0" in fewer.seen
    assert "client 1" not in fewer.seen
    assert fewer.seen["fault 0.1"] == parts.seen["fault 0.1"]


def test_the_command_runs_the_parts_that_it_names() -> None:
    command = [sys.executable, "tools/simulate.py", "1", "5", "--world", "fleet", "--how", json.dumps(HOW)]
    done = subprocess.run(
        [*command, "--only", "client 0, client 3"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "1 worlds, 1 lives of engines, no promise broken\n"
