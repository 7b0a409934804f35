"""A world that fails is printed as a short one."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure.service.executors.port import Attempt
from simulation.executor import FakeExecutor
from simulation.parts import Parts
from simulation.shrink import WORLDS, run_short

REPOSITORY = Path(__file__).parent.parent.parent
HOW: dict[str, Any] = {"shapes": ["chain", "fan", "waits", "sleeps", "one", "grows"], "limits": [-1, -1]}
KINDS = [("one", HOW, "death "), ("fleet", {**HOW, "more": True, "faults": 10}, "fault ")]


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a workflow that waits for events is broken as soon as an attempt of its is run by a second engine."""
    begin = FakeExecutor._begin
    engines: dict[str, set[int]] = {}

    def planted(executor: FakeExecutor, attempt: Attempt) -> None:
        seen = engines.setdefault(attempt.run_id, set())
        seen.add(id(executor._handles))
        if attempt.workflow_id.startswith("waits") and len(seen) > 1:
            raise AssertionError(f"{attempt.workflow_id} is broken")
        begin(executor, attempt)

    original = Parts.__init__

    def fresh(parts: Parts, *args: Any, **how: Any) -> None:
        engines.clear()
        original(parts, *args, **how)

    monkeypatch.setattr(FakeExecutor, "_begin", planted)
    monkeypatch.setattr(Parts, "__init__", fresh)


def failing_seed(kind: str, how: dict[str, Any]) -> int:
    for seed in range(100):
        try:
            WORLDS[kind](seed, parts=Parts(), **how)
        except AssertionError:
            return seed
    raise AssertionError("no world failed")


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("fault")
@pytest.mark.parametrize(("kind", "how", "death"), KINDS, ids=["one engine", "several engines"])
def test_a_failing_world_is_printed_without_what_it_does_not_need(kind: str, how: dict[str, Any], death: str) -> None:
    seed = failing_seed(kind, how)
    with pytest.raises(AssertionError) as raised:
        run_short(kind, seed, how)
    first, count, *parts, again = str(raised.value).splitlines()
    assert first.endswith("waits-2 is broken")
    assert "  client 2: waits" in parts
    assert len(parts) <= 3, "a client, a death, and perhaps who takes over"
    assert any(part.strip().startswith(death) for part in parts)
    assert int(count.split()[4]) >= 8, "it was longer"

    command = shlex.split(again.removeprefix("again: "))
    arguments = dict(zip(command[4::2], command[5::2], strict=True))
    with pytest.raises(AssertionError, match="waits-2 is broken"):
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
