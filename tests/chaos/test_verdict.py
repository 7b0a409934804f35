"""The verdict notices what it is there for."""

from __future__ import annotations

from typing import Any

import pytest

from chaos import verdict as verdict_module
from chaos.graphs import Began, Case
from chaos.load import Acknowledged
from chaos.verdict import Verdict
from perdure import errors
from perdure.model import Failure, FailureKind


class Rows:
    """A connection that answers with what the test stores in it, by table."""

    def __init__(self, **tables: list[dict[str, Any]]) -> None:
        self.tables = tables

    async def fetch(self, statement: str) -> list[dict[str, Any]]:
        return self.tables[statement.partition(" FROM ")[2].split()[0]]

    async def fetchval(self, statement: str) -> int:
        return len(self.tables.get("mail", []))


def run(*, events: int = 0, volatile: frozenset[str] = frozenset(), **state: Any) -> Acknowledged:
    acknowledged = Acknowledged(Case("sort", None, 5, events, volatile), "w", "r", is_over=True, output=5)
    acknowledged.events = {f"id{number}" for number in range(events)}
    for name, value in state.items():
        setattr(acknowledged, name, value)
    return acknowledged


CANCELED = errors.WorkflowCancellationError("w", Failure(FailureKind.CANCELED, "perdure.Canceled", "x"))


@pytest.mark.parametrize(
    ("state", "is_good"),
    [
        ({}, True),
        ({"is_over": False}, False),
        ({"output": 6}, False),
        ({"failure": ValueError("x")}, False),
        ({"failure": CANCELED}, False),
        ({"failure": CANCELED, "is_canceled": True}, True),
        ({"is_canceled": True}, False),
    ],
)
def test_outcomes(state: dict[str, Any], is_good: bool) -> None:
    verdict = Verdict()
    verdict_module._check_outcome(run(**state), verdict)
    assert verdict.is_good is is_good


def stored(run_id: str = "r", status: str = "SUCCESSFUL") -> dict[str, Any]:
    return {"run_id": run_id, "workflow_id": "w", "status": status, "is_current": True}


@pytest.mark.parametrize(
    ("rows", "is_good"),
    [
        ([stored()], True),
        ([], False),
        ([stored(status="RUNNING")], False),
        ([stored(), stored("another")], False),
    ],
)
async def test_rows(rows: list[dict[str, Any]], is_good: bool) -> None:
    verdict = Verdict()
    await verdict_module._check_rows(Rows(runs=rows), {"w": run()}, verdict)
    assert verdict.is_good is is_good


async def test_unread_letters_fail_the_verdict() -> None:
    verdict = Verdict()
    await verdict_module._check_rows(Rows(runs=[stored()], mail=[{}]), {"w": run()}, verdict)
    assert not verdict.is_good


@pytest.mark.parametrize(
    ("consumed", "is_good"),
    [
        ([("id0", "a"), ("id1", "b")], True),
        ([("id0", "a")], False),
        ([("id0", "a"), ("id1", "")], False),
        ([("id0", "a"), ("id1", "a")], False),
        ([("id0", "a"), ("id0", "b"), ("id1", "c")], False),
    ],
)
async def test_events(consumed: list[tuple[str, str]], is_good: bool) -> None:
    rows = [{"run_id": "r", "event_id": event, "consumed_by": task} for event, task in consumed]
    verdict = Verdict()
    await verdict_module._check_events(Rows(events=rows), {"w": run(events=2)}, verdict)
    assert verdict.is_good is is_good


@pytest.mark.parametrize(
    ("at_ms", "volatile", "is_good"),
    [(100, "", True), (201, "", True), (202, "", False), (900, "", False), (900, "t", True)],
)
async def test_attempts(at_ms: int, volatile: str, is_good: bool) -> None:
    rows = [{"run_id": "r", "task_id": "t", "status": "SUCCESSFUL", "ended_ms": 200}]
    began = [Began("r", "t", 1, 90), Began("r", "t", 1, at_ms)]
    verdict = Verdict()
    runs = {"w": run(volatile=frozenset({volatile}))}
    await verdict_module._check_attempts(Rows(tasks=rows), began, runs, verdict)
    assert verdict.is_good is is_good
    assert verdict.repeated == 1
